package config_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

func TestBFDSessions(t *testing.T) {
	cfg := parse(t, `
interface: eth0
bfd:
  - {name: near, neighbour: 192.0.2.11}
  - {name: far, neighbour: "2001:db8::11", source: "2001:db8::1", multihop: true, min_tx: 50ms, min_rx: 100ms, idle_tx: 2s, multiplier: 5, passive: true, ttl: 64}
  - {name: kept, neighbour: 192.0.2.12, max_hops: 2}
services:
  - name: web
    listen: ["192.0.2.1:80/tcp"]
    reals: [{address: 192.0.2.11, check: {type: bfd, bfd: near}}]
vrrp:
  - {name: VI_1, virtual_router_id: 51, addresses: [192.0.2.1/24], track_bfd: [{name: far, weight: -20}, {name: near}]}
`)
	usual := bfd.Timing{MinTx: 300 * time.Millisecond, MinRx: 300 * time.Millisecond, IdleTx: time.Second, Multiplier: 3}
	want := []bfd.Session{
		{Name: "near", Neighbour: netip.MustParseAddr("192.0.2.11"), Timing: usual, TTL: 255},
		{
			Name: "far", Neighbour: netip.MustParseAddr("2001:db8::11"), Source: netip.MustParseAddr("2001:db8::1"),
			Timing:    bfd.Timing{MinTx: 50 * time.Millisecond, MinRx: 100 * time.Millisecond, IdleTx: 2 * time.Second, Multiplier: 5},
			IsPassive: true, Multihop: true, TTL: 64, MaxHops: 64,
		},
		{Name: "kept", Neighbour: netip.MustParseAddr("192.0.2.12"), Timing: usual, TTL: 255, MaxHops: 2},
	}
	if diff := cmp.Diff(want, cfg.BFD, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	check := health.Spec{Type: health.BFD, Session: "near"}.WithDefaults()
	if got := cfg.Services[0].Checks[0]; len(got) != 1 || got[0] != check {
		t.Errorf("check %+v, want %+v", got, check)
	}
	if diff := cmp.Diff([]vrrp.TrackBFD{{Name: "far", Weight: -20}, {Name: "near"}}, cfg.VRRP[0].TrackBFD); diff != "" {
		t.Errorf("track_bfd (-want +got):\n%s", diff)
	}
}
