package bgp

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A session that BFD has reset is made anew once it is down, whichever of the two
// is heard first, and no other is.
func TestRenewals(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("192.0.2.253")
	up := func(p netip.Addr) func(*renewals) { return func(r *renewals) { r.is(p, true, moment) } }
	down := func(p netip.Addr) func(*renewals) { return func(r *renewals) { r.is(p, false, moment) } }
	reset := func(p netip.Addr) func(*renewals) { return func(r *renewals) { r.hasBeenReset(p) } }
	for name, test := range map[string]struct {
		steps []func(*renewals)
		want  []netip.Addr
	}{
		"a router that goes away":         {[]func(*renewals){up(a), down(a)}, nil},
		"reset, then down":                {[]func(*renewals){up(a), reset(a), down(a)}, []netip.Addr{a}},
		"down, then reset":                {[]func(*renewals){up(a), down(a), reset(a)}, []netip.Addr{a}},
		"reset while up":                  {[]func(*renewals){up(a), reset(a)}, nil},
		"reset before any session":        {[]func(*renewals){reset(a)}, []netip.Addr{a}},
		"made anew once":                  {[]func(*renewals){up(a), down(a), reset(a), up(a), down(a)}, []netip.Addr{a}},
		"each time":                       {[]func(*renewals){up(a), reset(a), down(a), up(a), reset(a), down(a)}, []netip.Addr{a, a}},
		"another router's session stands": {[]func(*renewals){up(a), up(b), reset(a), down(b), down(a)}, []netip.Addr{a}},
		"more than are asked for at once": {[]func(*renewals){reset(a), reset(b), reset(a), reset(b)}, []netip.Addr{a, b}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRenewals(2)
			for _, step := range test.steps {
				step(&r)
			}
			var got []netip.Addr
			for len(r.ask) > 0 {
				got = append(got, (<-r.ask).peer)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("made anew: %v, want %v", got, test.want)
			}
		})
	}
}

// A session that flaps rests longer each time, and is said to flap; one that ended
// long ago does not.
func TestFlappingSessionsRest(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.254")
	r := newRenewals(1)
	now := moment
	var rests []time.Duration
	flap := func() {
		r.is(a, true, now)
		now = now.Add(time.Second)
		r.is(a, false, now)
		for len(r.ask) > 0 {
			rests = append(rests, (<-r.ask).after)
		}
	}
	for range freeFlaps {
		flap()
	}
	if text := r.flapping(a, now); len(rests) != 0 || text != "" {
		t.Errorf("after %d ends it rests %v and is said to be %q", freeFlaps, rests, text)
	}
	for range 7 {
		flap()
	}
	want := []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, maxHold, maxHold}
	if !slices.Equal(rests, want) {
		t.Errorf("it rests %v, want %v", rests, want)
	}
	if text := r.flapping(a, now); text != "flapping, ended 12 times within 5m0s: begins again after 1m0s; ended last because " {
		t.Errorf("while it rests: %q", text)
	}
	r.is(a, true, now)
	if text := r.flapping(a, now); text != "flapping, ended 12 times within 5m0s" {
		t.Errorf("while it is up: %q", text)
	}
	now = now.Add(flapWindow)
	rests = nil
	if text := r.flapping(a, now); text != "" {
		t.Errorf("long after: %q", text)
	}
	if flap(); len(rests) != 0 {
		t.Errorf("long after it rests %v", rests)
	}
}

// What GoBGP logs is heard, also where nobody reads it.
func TestHearing(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.254")
	var resets, failures []netip.Addr
	log := slog.New(hearing{
		Handler: slog.DiscardHandler,
		failed:  func(p netip.Addr, _ string) { failures = append(failures, p) },
		reset:   func(p netip.Addr) { resets = append(resets, p) },
	})
	log.Info("Send operation notification", "Topic", "Operation", "Key", a.String(), "Op", "Neighbor reset")
	log.Info("Send operation notification", "Topic", "Operation", "Key", a.String(), "Op", "Neighbor shutdown")
	log.With("Key", a.String()).Info("sent notification", "Code", uint8(2), "Subcode", uint8(2))
	log.With("Key", a.String()).Info("sent notification", "Code", uint8(6), "Subcode", uint8(4))
	log.With("Key", a.String()).Debug("failed to connect", "Error", "dial tcp 192.0.2.254:179: connect: no route to host")
	if want := []netip.Addr{a}; !slices.Equal(resets, want) || !slices.Equal(failures, append(want, a)) {
		t.Errorf("resets of %v, failures of %v, want one and two of %s", resets, failures, a)
	}
}
