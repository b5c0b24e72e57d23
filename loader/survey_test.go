package loader

import (
	"os"
	"slices"
	"testing"
)

func TestSurveyPins(t *testing.T) {
	o := options(t)
	if s, err := SurveyPins(o); err != nil || len(s.Adopted)+len(s.Moved)+len(s.Lost) > 0 {
		t.Errorf("without a predecessor: %+v, %v", s, err)
	}
	openPredecessor(t, o, "testdata/layout2.o").serve()
	s, err := SurveyPins(o)
	must(t, err)
	if !slices.Contains(s.Moved, "templates") || !slices.Contains(s.Adopted, "rings") || len(s.Lost) > 0 {
		t.Errorf("of an older layout: %+v", s)
	}
	d := open(t, o)
	must(t, d.Close(true))
	if s, err = SurveyPins(o); err != nil || len(s.Moved)+len(s.Lost) > 0 {
		t.Errorf("of today's layout: %+v, %v", s, err)
	}
	o.Flows *= 2
	if s, err = SurveyPins(o); err != nil || !slices.Equal(s.Moved, []string{"flow_news", "flows"}) {
		t.Errorf("with another size of flows: %+v, %v", s, err)
	}
	must(t, os.Remove(pinDir(o.PinDir).file("settings")))
	if s, err = SurveyPins(o); err != nil || len(s.Lost) > 0 {
		t.Errorf("without the pin of settings that are in force: %+v, %v", s, err)
	}
	must(t, os.Remove(pinDir(o.PinDir).link("lvx0")))
	if s, err = SurveyPins(o); err != nil || len(s.Lost) != 1 {
		t.Errorf("without settings: %+v, %v", s, err)
	}
}
