package vrrp_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// A returning master stays backup until its real servers have been asked since
// the fault: what it knows of them is as old as the fault.
func TestReturningMasterWaitsForChecks(t *testing.T) {
	t.Parallel()
	const asked = 2 * time.Second
	l := newLab(t)
	a := l.lvxWith("a", []string{"-ready", asked.String()}, instance(3, 100*ms, 150))
	l.eventually("a is master", func() bool { return l.has("a", vip.String()) })
	l.lvx("b", instance(3, 100*ms, 100))
	l.in("br", "ip", "link", "set", "dev", "a", "down")
	l.eventually("b has taken over", func() bool { return l.has("b", vip.String()) })
	if a.says("recovered") {
		t.Error("recovered during the fault")
	}
	begin := time.Now()
	l.in("br", "ip", "link", "set", "dev", "a", "up")
	for time.Since(begin) < asked {
		holds := l.has("a", vip.String())
		if took := time.Since(begin); holds && took < asked {
			t.Fatalf("a has taken the VIP %s after the fault, its real servers were not asked yet", took)
		}
		time.Sleep(50 * ms)
	}
	l.eventually("a is master again", func() bool { return l.has("a", vip.String()) && !l.has("b", vip.String()) })
	t.Logf("master again %s after the fault", time.Since(begin))
}

// VIPs that no advert names and VIPs on another interface move with the others,
// in a pair with keepalived, both ways.
func TestKeepalivedExcludedAndOtherDevices(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, host := range []string{"a", "b"} {
		l.in(host, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1peer")
		l.in(host, "ip", "link", "set", "eth1", "up")
		l.in(host, "ip", "link", "set", "eth1peer", "up")
	}
	excluded, other := netip.MustParseAddr("10.99.0.101"), netip.MustParseAddr("10.98.0.100")
	all := func(i *vrrp.Instance) {
		i.Addresses = []netip.Prefix{
			netip.MustParsePrefix("10.99.0.100/24"), netip.PrefixFrom(excluded, 24), netip.PrefixFrom(other, 24),
		}
		i.Unadvertised, i.Devices = []netip.Addr{excluded}, map[netip.Addr]string{other: "eth1"}
	}
	holds := func(host string, want bool) bool {
		for _, a := range []netip.Addr{vip, excluded, other} {
			if l.has(host, a.String()) != want {
				return false
			}
		}
		return true
	}
	l.keepalived("b", instance(2, time.Second, 100, all))
	l.eventually("keepalived is master of its own", func() bool { return holds("b", true) })
	lvx := l.lvx("a", instance(2, time.Second, 150, all))
	l.eventually("lvx preempts keepalived", func() bool { return holds("a", true) && holds("b", false) })
	if err := l.onDevice("a", other, "eth1"); err != nil {
		t.Error(err)
	}
	// As with keepalived, an interface of VIPs that is down is a fault.
	l.in("a", "ip", "link", "set", "eth1", "down")
	l.eventually("keepalived takes over", func() bool { return holds("b", true) && holds("a", false) })
	l.in("a", "ip", "link", "set", "eth1", "up")
	l.eventually("lvx is back", func() bool { return holds("a", true) && holds("b", false) })
	lvx.stop()
	l.eventually("keepalived takes over again", func() bool { return holds("b", true) && holds("a", false) })
}

// A number in a file moves the priority, and with it the VIP.
func TestTrackedFileMovesTheVIP(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	number := filepath.Join(t.TempDir(), "number")
	l.lvx("a", instance(3, 100*ms, 150, func(i *vrrp.Instance) { i.TrackFiles = []vrrp.TrackFile{{Path: number, Weight: -10}} }))
	l.keepalived("b", instance(3, 100*ms, 100))
	l.eventually("a is master", func() bool { return l.has("a", vip.String()) && !l.has("b", vip.String()) })
	for _, step := range []struct{ text, owner, other string }{{"6", "b", "a"}, {"0", "a", "b"}} {
		if err := os.WriteFile(number, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		l.eventually("with "+step.text+" the VIP is on "+step.owner, func() bool {
			return l.has(step.owner, vip.String()) && !l.has(step.other, vip.String())
		})
	}
}
