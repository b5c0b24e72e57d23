package daemon

import (
	"testing"
	"time"
)

// holds are the holds that a router has been asked for.
type holds struct{ taken, released int }

func (h *holds) take(_ string, limit time.Duration) (release func()) {
	h.taken++
	if limit != syncLimit {
		panic("another limit")
	}
	return func() { h.released++ }
}

// A doubt holds for the whole time again, also when a hold has ended by its limit
// while the link was down; only a look behind it ends it, when everything has
// been told.
func TestDoubtHoldsAnew(t *testing.T) {
	var r holds
	isInStep := true
	look := func() bool { return isInStep }
	h := syncHold{take: r.take}
	check := func(what string, want holds) {
		t.Helper()
		if r != want {
			t.Errorf("%s: %+v, want %+v", what, r, want)
		}
	}
	h.anew(func() {})
	check("at the start", holds{1, 0})
	h.endIf(look)
	check("in step", holds{1, 1})
	doubt := func() { isInStep = false }
	h.anew(doubt)
	h.endIf(look)
	check("a look behind a doubt", holds{2, 1})
	h.anew(doubt)
	check("another doubt", holds{3, 2})
	isInStep = true
	if !h.endIf(look) {
		t.Error("not in step")
	}
	check("told everything", holds{3, 3})
	h.end()
	check("the end", holds{3, 3})
	(&syncHold{}).anew(doubt) // without VRRP
}
