package director

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

func TestTarget(t *testing.T) {
	listen := func(first, last uint16) lb.Listener {
		return lb.Listener{Addr: vip, Proto: lb.TCP, First: first, Last: last}
	}
	type ask struct {
		Via  health.Via
		VIP  bool
		Port uint16
	}
	for _, c := range []struct {
		name      string
		listeners []lb.Listener
		real      lb.Real
		spec      health.Spec
		probeVIP  bool
		want      ask
	}{
		{"port of the listener", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.TCP}, false, ask{health.ViaReal, false, 80}},
		{"first port of a range", []lb.Listener{listen(8000, 8100)}, lb.Real{}, health.Spec{Type: health.TCP}, false, ask{health.ViaReal, false, 8000}},
		{"first listener with a port", []lb.Listener{listen(0, 0), listen(443, 443)}, lb.Real{}, health.Spec{Type: health.TCP}, false, ask{health.ViaReal, false, 443}},
		{"port of the check", []lb.Listener{listen(80, 80)}, lb.Real{Port: 81}, health.Spec{Type: health.TCP, Port: 82}, false, ask{health.ViaReal, false, 82}},
		{"port of the real", []lb.Listener{listen(80, 80)}, lb.Real{Port: 81}, health.Spec{Type: health.TCP}, false, ask{health.ViaReal, false, 81}},
		{"icmp has none", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.ICMP}, false, ask{health.ViaReal, false, 0}},
		{"exec learns both", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.Exec}, true, ask{health.ViaReal, true, 80}},
		{"exec with a port", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.Exec, Port: 8080}, true, ask{health.ViaReal, true, 8080}},
		{"a file has none", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.File}, true, ask{health.ViaReal, false, 0}},
		{"through the VIP by itself", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.TCP}, true, ask{health.ViaVIP, true, 80}},
		{"asked for the real", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.TCP, Via: health.ViaReal}, true, ask{health.ViaReal, false, 80}},
		{"asked for the VIP", []lb.Listener{listen(80, 80)}, lb.Real{}, health.Spec{Type: health.TCP, Via: health.ViaVIP}, false, ask{health.ViaVIP, true, 80}},
		{"NAT: the real has no VIP", []lb.Listener{listen(80, 80)}, lb.Real{Forward: lb.NAT}, health.Spec{Type: health.TCP}, true, ask{health.ViaReal, false, 80}},
		{"a tunnel carries the VIP", []lb.Listener{listen(80, 80)}, lb.Real{Forward: lb.Tunnel}, health.Spec{Type: health.TCP}, true, ask{health.ViaVIP, true, 80}},
		{"a tunnel, asked for the real", []lb.Listener{listen(80, 80)}, lb.Real{Forward: lb.Tunnel}, health.Spec{Type: health.TCP, Via: health.ViaReal}, true, ask{health.ViaReal, false, 80}},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := service("web", 1)
			svc.Listeners = c.listeners
			c.real.Addr = server(1)
			svc.Reals[0] = c.real
			svc.Checks[0] = []health.Spec{c.spec}
			got := targets(&svc, 0, c.probeVIP)[0]
			if d := cmp.Diff(c.want, ask{got.Spec.Via, got.VIP == vip, got.Port}); d != "" {
				t.Error(d)
			}
			if (got.Forward == lb.Tunnel) != (c.real.Forward == lb.Tunnel && got.Spec.Via == health.ViaVIP) {
				t.Errorf("forward: %s", got.Forward)
			}
			if got.Real != server(1) || got.Spec.Interval != health.DefaultInterval {
				t.Errorf("real or defaults: %+v", got)
			}
		})
	}
}

// What is asked through a VIP of IPv6, and what is not.
func TestTargetOfIPv6(t *testing.T) {
	vip6, real6 := netip.MustParseAddr("2001:db8::100"), netip.MustParseAddr("2001:db8::10")
	for _, c := range []struct {
		vip  netip.Addr
		real lb.Real
		want health.Via
	}{
		{vip6, lb.Real{Addr: real6}, health.ViaVIP},
		{vip6, lb.Real{Addr: real6, Forward: lb.Tunnel}, health.ViaVIP},
		{vip6, lb.Real{Addr: real6, Forward: lb.NAT}, health.ViaReal},
		{vip, lb.Real{Addr: server(1), Forward: lb.Tunnel}, health.ViaVIP},
		{vip, lb.Real{Addr: server(1), Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: lb.GUEPort}}, health.ViaVIP},
		{vip6, lb.Real{Addr: netip.IPv6Loopback()}, health.ViaReal},
		{vip6, lb.Real{Addr: server(1), Forward: lb.Tunnel}, health.ViaVIP},
		{vip, lb.Real{Addr: real6, Forward: lb.Tunnel}, health.ViaVIP},
	} {
		svc := service("web", 1)
		svc.Listeners = []lb.Listener{{Addr: c.vip, Proto: lb.TCP, First: 80, Last: 80}}
		svc.Reals[0] = c.real
		svc.Checks[0] = []health.Spec{{Type: health.TCP}}
		got := targets(&svc, 0, true)[0]
		if got.Spec.Via == health.ViaVIP && (got.Forward != c.real.Forward || got.Encap != c.real.Encap) {
			t.Errorf("%s of %s: asked by %s %s", c.real.Addr, c.vip, got.Forward, got.Encap)
		}
		if got.Spec.Via != c.want || got.VIP.IsValid() != (c.want == health.ViaVIP) {
			t.Errorf("%s of %s, %s: asked via %s, VIP %s", c.real.Addr, c.vip, c.real.Forward, got.Spec.Via, got.VIP)
		}
	}
}

// A check of another address asks that one, and not through the VIP.
func TestTargetOfAnotherAddress(t *testing.T) {
	svc := service("web", 1)
	svc.Checks[0] = []health.Spec{{Type: health.TCP, Address: server(77)}}
	got := targets(&svc, 0, true)[0]
	if got.Real != server(77) || got.VIP.IsValid() || got.Spec.Via != health.ViaReal {
		t.Errorf("%+v", got)
	}
}

// Services that ask the same question share one probe.
func TestTargetsAreShared(t *testing.T) {
	a, b, c := service("a", 1, 1), service("b", 1, 1), service("c", 1)
	c.Checks[0] = []health.Spec{{Type: health.TCP, Port: 81}}
	got := Targets(configOf(a, b, c), false)
	if len(got) != 3 {
		t.Errorf("%d questions, want 3: %+v", len(got), got)
	}
}

func TestOwnVIPs(t *testing.T) {
	svc := service("web", 1)
	other := netip.MustParseAddr("10.0.0.101")
	svc.Listeners = append(svc.Listeners, lb.Listener{Addr: other, Proto: lb.TCP, First: 80, Last: 80}, svc.Listeners[0])
	cfg := configOf(svc)
	if d := cmp.Diff([]netip.Addr{vip, other}, ownedHere(listVIPs(cfg, nil)), compareAddrs); d != "" {
		t.Error(d)
	}
	cfg.VRRP = []vrrp.Instance{{Name: "A", Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}}
	if d := cmp.Diff([]netip.Addr{other}, ownedHere(listVIPs(cfg, nil)), compareAddrs); d != "" {
		t.Error(d)
	}
}
