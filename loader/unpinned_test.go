package loader

import (
	"os"
	"strings"
	"testing"
)

// Whatever map has lost its pin, the program in force has it: also those that
// packets do not need.
func TestMapsWithoutPinsAreFound(t *testing.T) {
	o := options(t)
	d := open(t, o)
	d.Flows[17], d.Labels[3].Cookie, d.Addresses[5].Word[0], d.Leases[7] = 4711, 4712, 4713, 4714
	seed := d.Settings.Seed
	must(t, d.Close(true))
	pins, err := os.ReadDir(o.PinDir)
	must(t, err)
	for _, pin := range pins {
		if !strings.HasPrefix(pin.Name(), linkPrefix) {
			must(t, os.Remove(pinDir(o.PinDir).file(pin.Name())))
		}
	}
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if !d.Adopted || d.Settings.Seed != seed {
		t.Error("without pins everything begins anew")
	}
	if d.Flows[17] != 4711 || d.Labels[3].Cookie != 4712 || d.Addresses[5].Word[0] != 4713 || d.Leases[7] != 4714 {
		t.Errorf("flow %d, label %d, address %d, lease %d", d.Flows[17], d.Labels[3].Cookie, d.Addresses[5].Word[0], d.Leases[7])
	}
	again, err := os.ReadDir(o.PinDir)
	must(t, err)
	if len(again) != len(pins) {
		t.Errorf("%d pins, before %d", len(again), len(pins))
	}
}

// The links may be without pins as well: another pin_dir has them. A start goes
// on with what they serve.
func TestLinksPinnedElsewhereAreFound(t *testing.T) {
	o := options(t)
	d := open(t, o)
	d.Flows[17] = 4711
	seed, id := d.Settings.Seed, linkID(t, o)
	must(t, d.Close(true))
	elsewhere := o.PinDir + "-elsewhere"
	must(t, os.Rename(o.PinDir, elsewhere))
	t.Cleanup(func() { _ = pinDir(elsewhere).remove() })
	if u, err := FindUnpinned(o.PinDir, "lvx0"); err != nil || u == nil || u.Holder != 0 {
		t.Errorf("found %+v, %v", u, err)
	}
	d = open(t, o)
	if !d.Adopted || d.Settings.Seed != seed || d.Flows[17] != 4711 || linkID(t, o) != id {
		t.Errorf("adopted %v, flow %d, link %d, want %d", d.Adopted, d.Flows[17], linkID(t, o), id)
	}
	if u, err := FindUnpinned(o.PinDir, "lvx0"); err != nil || u != nil {
		t.Errorf("found with pins: %+v, %v", u, err)
	}
	must(t, d.Close(false))
	if programOn(t, "lvx0") != 0 {
		t.Error("the program is still attached")
	}
}

// What others have attached is none of lvx's.
func TestOthersProgramsAreNotFound(t *testing.T) {
	o := options(t)
	pinStrangeLink(t, o)
	must(t, os.Rename(o.PinDir, o.PinDir+"-elsewhere"))
	t.Cleanup(func() { _ = pinDir(o.PinDir + "-elsewhere").remove() })
	if u, err := FindUnpinned(o.PinDir, "lvx0"); err != nil || u != nil {
		t.Errorf("found %+v, %v", u, err)
	}
}

// A daemon whose pins somebody has removed leaves its packet path to a successor
// all the same.
func TestRemovedPinsArePutBackAtTheEnd(t *testing.T) {
	o := options(t)
	d := open(t, o)
	d.Flows[17] = 4711
	id := linkID(t, o)
	must(t, pinDir(o.PinDir).remove())
	must(t, d.Close(true))
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if d.Flows[17] != 4711 || linkID(t, o) != id {
		t.Errorf("flow %d, link %d, want %d", d.Flows[17], linkID(t, o), id)
	}
}
