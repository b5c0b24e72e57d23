package config_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

func TestTrackingAndPlaces(t *testing.T) {
	cfg, err := config.Parse("lvx.yaml", []byte(`
interface: eth0
services: []
vrrp:
  - name: VI_1
    virtual_router_id: 51
    unicast_peers: [192.0.2.3]
    unicast_source: 192.0.2.2
    track_exec:
      - {argv: [/usr/bin/pgrep, -x, haproxy], interval: 2s, fall: 2, weight: -20}
      - {argv: [/bin/true], init_fail: true}
    track_file: [{path: /run/x, weight: -1}]
    track_process: [{name: nginx, weight: 5}]
    addresses:
      - 192.0.2.100/24
      - {address: 198.51.100.100/24, interface: eth1}
      - {address: 192.0.2.101, advertise: false}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.VRRP[0]
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	want := vrrp.Instance{
		Name: "VI_1", Interface: "eth0", VRID: 51, Version: 2, Priority: 100, AdvertInterval: time.Second,
		UnicastPeers: []netip.Addr{addr("192.0.2.3")}, Source: addr("192.0.2.2"),
		TrackExec: []vrrp.TrackExec{
			{Argv: []string{"/usr/bin/pgrep", "-x", "haproxy"}, Interval: 2 * time.Second, Timeout: 2 * time.Second, Fall: 2, Rise: 1, Weight: -20},
			{Argv: []string{"/bin/true"}, Interval: time.Second, Timeout: time.Second, Fall: 1, Rise: 1, InitFail: true},
		},
		TrackFiles:     []vrrp.TrackFile{{Path: "/run/x", Weight: -1}},
		TrackProcesses: []vrrp.TrackProcess{{Name: "nginx", Quorum: 1, Weight: 5}},
		Addresses:      []netip.Prefix{prefix("192.0.2.100/24"), prefix("198.51.100.100/24"), prefix("192.0.2.101/32")},
		Unadvertised:   []netip.Addr{addr("192.0.2.101")},
		Devices:        map[netip.Addr]string{addr("198.51.100.100"): "eth1"},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"/usr/bin/pgrep", "/bin/true"}, cfg.Programs()); d != "" {
		t.Errorf("programs (-want +got):\n%s", d)
	}
}

func TestSharesIPv6(t *testing.T) {
	for text, want := range map[string]bool{
		"vrrp: [{name: VI_1, virtual_router_id: 51, version: 3, addresses: [192.0.2.100/24]}]":                                     false,
		"vrrp: [{name: VI_1, virtual_router_id: 51, version: 3, addresses: [\"fe80::100/64\", \"2001:db8::100/64\"]}]":             true,
		"services: [{name: web, listen: [\"[2001:db8::100]:80/tcp\"], reals: [{address: \"2001:db8::10\"}]}]":                      false,
		"vrrp: [{name: VI_1, virtual_router_id: 51, addresses: [192.0.2.100/24, {address: \"2001:db8::100\", advertise: false}]}]": true,
	} {
		cfg, err := config.Parse("lvx.yaml", []byte("interface: eth0\n"+text+"\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := cfg.SharesIPv6(); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
