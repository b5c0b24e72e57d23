package health_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

// Where several checks of a real, of one kind and on one port, are edited at once,
// each goes on from what it said itself.
func TestEditedChecksKeepTheirOwnVerdicts(t *testing.T) {
	const slower = 30 * time.Second
	vip := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, last}) }
	target := func(path string, vip netip.Addr, interval time.Duration) health.Target {
		return health.Target{Spec: health.Spec{Type: health.HTTP, Path: path, Interval: interval}, Real: loopback, Port: 80, VIP: vip}
	}
	for name, c := range map[string]struct{ good, bad, newGood, newBad health.Target }{
		"pages":                        {target("/a", vip(1), 0), target("/b", vip(1), 0), target("/a", vip(1), slower), target("/b", vip(1), slower)},
		"VIPs":                         {target("/", vip(1), 0), target("/", vip(2), 0), target("/", vip(1), slower), target("/", vip(2), slower)},
		"pages of VIPs":                {target("/a", vip(1), 0), target("/a", vip(2), 0), target("/b", vip(1), 0), target("/b", vip(2), 0)},
		"a page, and another's period": {target("/a", vip(1), 0), target("/b", vip(1), 0), target("/a", vip(1), slower), target("/c", vip(1), 0)},
	} {
		for range 20 { // the order of a map
			m := health.NewMonitor(health.Options{New: newWorld().build})
			m.Set([]health.Target{c.good, c.bad})
			m.Restore(map[health.Target]health.Status{c.good: {Known: true, Up: true}, c.bad: {Known: true, Reason: "503"}})
			m.Set([]health.Target{c.newGood, c.newBad})
			if good, bad := m.Status(c.newGood), m.Status(c.newBad); !good.Up || bad.Up {
				t.Errorf("%s: up %v and %v, want true and false", name, good.Up, bad.Up)
				break
			}
		}
	}
}
