package neigh

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Only what is this host's own trouble excuses a silent real: no way at all,
// or a segment on which nothing answers.
func TestCannotAsk(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		var usable []netip.Addr
		r.onUsable = func(a netip.Addr) { usable = append(usable, a) }
		check := func(what string, want string) {
			t.Helper()
			pass(time.Minute)
			err := r.CannotAsk(r1)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", what, err, want)
			}
		}
		n.set(func() { n.answers[r1], n.answers[r2] = mac1, mac2 })
		r.Watch([]netip.Addr{r1, r2})
		check("both answer", "")
		n.set(func() { delete(n.answers, r1) })
		check("one of two is silent", "")
		n.set(func() { delete(n.answers, r2) })
		check("both are silent", "nothing answers on eth0")
		if e := r.Lookup(r2); !e.OwnLink || !e.Silent {
			t.Errorf("both are silent: %+v", e)
		}
		down := eth0
		down.err, down.isLink = "eth0 has no carrier", true
		n.set(func() { n.paths[r1], n.paths[r2] = down, down })
		n.events <- event{kind: routesChanged}
		check("no carrier", "eth0 has no carrier")
		r.Watch([]netip.Addr{r1})
		n.set(func() { n.paths[r1] = eth0 })
		check("alone and silent", "")
		usable = nil
		n.set(func() { n.answers[r1] = mac1 })
		check("back", "")
		if len(usable) != 1 || usable[0] != r1 {
			t.Errorf("usable again: %v, want %s once", usable, r1)
		}
		if got := r.AddrsOf(mac1); len(got) != 1 || got[0] != r1 {
			t.Errorf("at %s: %v", mac1, got)
		}
	})
}

// Whether a check failed by the real or by the interface is known once an answer
// would be there: the others are asked beside the real, not after it.
func TestSilenceIsKnownAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		silent []netip.Addr
		want   bool
	}{"the real": {[]netip.Addr{r1}, false}, "all": {[]netip.Addr{r1, r2}, true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
				n.set(func() { n.answers[r1], n.answers[r2] = mac1, mac2 })
				r.Watch([]netip.Addr{r1, r2})
				pass(time.Second)
				n.set(func() {
					for _, a := range c.silent {
						delete(n.answers, a)
					}
				})
				r.Recheck(r1)
				pass(verifyTime + 20*burstGap)
				if err := r.CannotAsk(r1); (err != nil) != c.want {
					t.Errorf("cannot ask: %v, want an error: %t", err, c.want)
				}
			})
		})
	}
}
