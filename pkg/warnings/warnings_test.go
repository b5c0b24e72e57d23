package warnings

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func texts(r *Registry) []string {
	var all []string
	for _, w := range r.List() {
		all = append(all, w.Kind+"/"+w.Subject+": "+w.Text)
	}
	return all
}

func TestWarningBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(slog.New(slog.NewTextHandler(&out, nil)))
		var changes []string
		r.OnChange(func(w Warning, began bool) { changes = append(changes, fmt.Sprint(w.Subject, " ", began)) })
		since := time.Now()
		r.Put(Warning{Kind: "file", Subject: "a", Text: "a is full", Cure: "make room"})
		time.Sleep(time.Minute)
		r.Put(Warning{Kind: "file", Subject: "a", Text: "a is full", Cure: "make room"})
		r.Replace("rule", []Warning{{Subject: "b", Text: "one"}, {Subject: "b", Text: "two"}})
		if got, want := texts(r), []string{"file/a: a is full", "rule/b: one", "rule/b: two"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := r.List()[0].Since; !got.Equal(since) {
			t.Errorf("a warning that goes on began %v, want %v", got, since)
		}
		r.Replace("rule", []Warning{{Subject: "b", Text: "two"}})
		r.End("file", "a")
		r.End("file", "nothing")
		if got, want := texts(r), []string{"rule/b: two"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if want := []string{"a true", "b true", "b true", "b false", "a false"}; !slices.Equal(changes, want) {
			t.Errorf("changes %q, want %q", changes, want)
		}
		logged := out.String()
		for _, want := range []string{`level=WARN msg="a is full" component=warnings kind=file subject=a cure="make room"`, `level=INFO msg="no longer: a is full"`} {
			if strings.Count(logged, want) != 1 {
				t.Errorf("log lacks %s, or has it twice:\n%s", want, logged)
			}
		}
	})
}

// Whatever is reported in whatever order: the list is what each kind reported
// last, and every begin has at most one end.
func TestListIsWhatWasReportedLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New(nil)
		open := map[Warning]int{}
		r.OnChange(func(w Warning, began bool) {
			w.Since = time.Time{}
			open[w] += map[bool]int{true: 1, false: -1}[began]
		})
		want := map[string][]Warning{}
		kind := rapid.SampledFrom([]string{"x", "y"})
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			k := kind.Draw(t, "kind")
			ws := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Warning {
				return Warning{Kind: k, Subject: rapid.StringMatching("[a-c]").Draw(t, "subject"), Text: rapid.StringMatching("[a-b]").Draw(t, "text")}
			}), 0, 4, func(w Warning) Warning { return w }).Draw(t, "found")
			r.Replace(k, ws)
			want[k] = ws
		}
		n := 0
		for _, ws := range want {
			for _, w := range ws {
				n++
				if open[w] != 1 {
					t.Fatalf("%+v is open %d times", w, open[w])
				}
			}
		}
		if got := r.List(); len(got) != n {
			t.Fatalf("list %+v, want %d", got, n)
		}
		for w, c := range open {
			if c < 0 || c > 1 {
				t.Fatalf("%+v: %d begins without an end", w, c)
			}
		}
	})
}
