package health

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var errNo = errors.New("tcp connect: refused")

// play enters one result per second: "+" a pass, "-" a failure, "?" a
// question that could not be asked.
func play(r *record, at time.Time, results string) time.Time {
	for _, c := range results {
		at = at.Add(time.Second)
		r.addResult(at, time.Millisecond, map[rune]error{'+': nil, '-': errNo, '?': fmt.Errorf("socket: %w: no ports", ErrNotAsked)}[c])
	}
	return at
}

func TestRecord(t *testing.T) {
	for _, tc := range []struct {
		results string
		up      bool
		reason  string
	}{
		{"", false, ""},
		{"+", true, ""},
		{"-", false, "tcp connect: refused"},
		{"-----+", true, ""},
		{"+-", true, "tcp connect: refused (failed once, down after 3)"},
		{"+--", true, "tcp connect: refused (failed 2 times, down after 3)"},
		{"+--+", true, ""},
		{"+--+--", true, "tcp connect: refused (failed 2 times, down after 3)"},
		{"+---", false, "tcp connect: refused (failed 3 times)"},
		{"+-----", false, "tcp connect: refused (failed 3 times)"},
		{"+---+", false, "passed once, up after 2; before: tcp connect: refused"},
		{"+---+-", false, "tcp connect: refused (failed once)"},
		{"+---+-+", false, "passed once, up after 2; before: tcp connect: refused"},
		{"+---++", true, ""},
		{"?", false, "socket: not asked: no ports"},
		{"+????", true, "socket: not asked: no ports"},
		{"+--?", true, "socket: not asked: no ports"},
		{"+--?-", false, "tcp connect: refused (failed 3 times)"},
	} {
		r := newRecord(Spec{}.WithDefaults())
		play(&r, time.Unix(0, 0), tc.results)
		if r.Up != tc.up || r.Reason != tc.reason {
			t.Errorf("%q: up %v, %q; want %v, %q", tc.results, r.Up, r.Reason, tc.up, tc.reason)
		}
	}
}

func TestRecordStatus(t *testing.T) {
	r := newRecord(Spec{}.WithDefaults())
	at := play(&r, time.Unix(100, 0), "-++-")
	want := Status{
		Up: true, Known: true, Since: at.Add(-2 * time.Second), Reason: "tcp connect: refused (failed once, down after 3)",
		Fails: 1, Last: at, Took: time.Millisecond,
	}
	if diff := cmp.Diff(want, r.Status); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A real that goes down five times in five minutes stays down until it has
// passed for a minute.
func TestFlapping(t *testing.T) {
	r := newRecord(Spec{}.WithDefaults())
	at := play(&r, time.Unix(0, 0), "+")
	for i := range FlapLimit {
		if r.Flapping || !r.Up {
			t.Fatalf("after %d downs: %+v", i, r.Status)
		}
		at = play(&r, at, "---++")
	}
	if !r.Flapping || r.Up {
		t.Fatalf("after %d downs: %+v", FlapLimit, r.Status)
	}
	if want := "flapping: up after passing for 1m0s (1s so far)"; r.Reason != want {
		t.Errorf("reason %q, want %q", r.Reason, want)
	}
	for range 50 {
		at = play(&r, at, "+")
	}
	if at = play(&r, at, "-"); r.Up || r.Reason != "flapping, down 5 times in 5m0s: tcp connect: refused" {
		t.Errorf("a failure in the middle: %+v", r.Status)
	}
	for i := range int(FlapHold / time.Second) {
		if at = play(&r, at, "+"); r.Up {
			t.Fatalf("up after passing for %d s", i)
		}
	}
	if at = play(&r, at, "+"); !r.Up || r.Flapping || r.Reason != "" {
		t.Errorf("after passing for %s: %+v", FlapHold, r.Status)
	}
	// The account is clear.
	if play(&r, at, "---++"); !r.Up || r.Flapping {
		t.Errorf("one down later: %+v", r.Status)
	}
}

func TestSlowChangesAreNoFlapping(t *testing.T) {
	r := newRecord(Spec{}.WithDefaults())
	at := play(&r, time.Unix(0, 0), "+")
	for range 20 {
		at = play(&r, at.Add(FlapWindow/(FlapLimit-1)), "---++")
		if r.Flapping || !r.Up {
			t.Fatalf("%+v", r.Status)
		}
	}
}

// However results come: Up changes only by a first pass, by fall failures or
// by rise passes in a row; and note tells exactly what changed.
func TestRecordRules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := Spec{Rise: rapid.IntRange(1, 4).Draw(rt, "rise"), Fall: rapid.IntRange(1, 4).Draw(rt, "fall")}
		r := newRecord(s.WithDefaults())
		now, lastFail := time.Unix(0, 0), time.Unix(-1000, 0)
		fails, passes, served := 0, 0, false
		for _, pass := range rapid.SliceOfN(rapid.Bool(), 0, 400).Draw(rt, "results") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "gap")) * time.Second)
			before := r.Status
			var err error
			if pass {
				passes, fails = passes+1, 0
			} else {
				err, lastFail = errNo, now
				passes, fails = 0, fails+1
			}
			changed := r.addResult(now, 0, err)
			want := before.Up
			switch {
			case before.Up:
				want = fails < s.Fall
			case before.Flapping:
				want = passes >= s.Rise && now.Sub(lastFail) > FlapHold && r.Up
			case pass:
				want = !served || passes >= s.Rise
			}
			served = served || r.Up
			if r.Up != want {
				rt.Fatalf("up %v, want %v after %d passes, %d failures: %+v", r.Up, want, passes, fails, r.Status)
			}
			if r.Up && r.Flapping {
				rt.Fatal("up and flapping")
			}
			if changed != (r.Up != before.Up || r.Flapping != before.Flapping || !before.Known) {
				rt.Fatalf("changed %v: %+v -> %+v", changed, before, r.Status)
			}
			if r.Passes != passes || r.Fails != fails || (r.Reason == "") != (pass && r.Up) {
				rt.Fatalf("after %d passes, %d failures: %+v", passes, fails, r.Status)
			}
		}
	})
}

func TestRestore(t *testing.T) {
	r := newRecord(Spec{}.WithDefaults())
	r.restore(Status{Up: true, Known: true, Passes: 9, Fails: 2})
	at := play(&r, time.Unix(0, 0), "--")
	if !r.Up {
		t.Errorf("restored up, two failures: %+v", r.Status)
	}
	if play(&r, at, "-"); r.Up {
		t.Errorf("restored up, three failures: %+v", r.Status)
	}
	r = newRecord(Spec{}.WithDefaults())
	r.restore(Status{Known: true, Reason: "tcp connect: refused"})
	at = play(&r, time.Unix(0, 0), "+")
	if r.Up {
		t.Errorf("restored down, one pass: %+v", r.Status)
	}
	if play(&r, at, "+"); !r.Up {
		t.Errorf("restored down, two passes: %+v", r.Status)
	}
}
