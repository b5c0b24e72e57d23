package bgp

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
)

// A session that BFD has reset is made anew once it is down, whichever of the two
// is heard first, and no other is.
func TestRenewals(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("192.0.2.253")
	up := func(p netip.Addr) func(*renewals) { return func(r *renewals) { r.is(p, true) } }
	down := func(p netip.Addr) func(*renewals) { return func(r *renewals) { r.is(p, false) } }
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
				got = append(got, <-r.ask)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("made anew: %v, want %v", got, test.want)
			}
		})
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
	if want := []netip.Addr{a}; !slices.Equal(resets, want) || !slices.Equal(failures, want) {
		t.Errorf("resets of %v, failures of %v, want one of %s each", resets, failures, a)
	}
}
