package realserver

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// An interface that VIPs faced may be gone, by a rename for example: status names it, and VIPs
// face another one when they are asked to, or go.
func TestInterfaceThatIsGone(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		must := func(_ []string, err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		rename := func(to string) {
			t.Helper()
			link, err := netlink.LinkByIndex(index)
			must(nil, err)
			must(nil, netlink.LinkSetDown(link))
			must(nil, netlink.LinkSetName(link, to))
			must(nil, netlink.LinkSetUp(link))
		}
		file := filepath.Join(t.TempDir(), "real.json")
		status := func() Status {
			t.Helper()
			st, err := Inspect(Options{StateFile: file})
			must(nil, err)
			return st
		}
		o := Options{StateFile: file, Interface: "eth0", VIPs: []netip.Addr{netip.MustParseAddr("10.99.0.100"), netip.MustParseAddr("10.99.0.101")}}
		must(Up(o))
		rename("wan0")
		if st := status(); st.IsReady() || len(st.VIPs) != 2 || !strings.Contains(strings.Join(st.VIPs[0].Faults, ""), "eth0") {
			t.Errorf("status without eth0: %+v", st)
		}
		o.Interface = "wan0"
		must(Up(o))
		if st := status(); !st.IsReady() {
			t.Errorf("status with wan0: %+v", st)
		}
		rename("eth0")
		must(Down(Options{StateFile: file}))
		left, _, err := vip.List(1)
		must(nil, err)
		for _, p := range left {
			if !p.Addr().IsLoopback() {
				t.Errorf("left on lo: %s", p)
			}
		}
		for _, k := range keys("all", lo) {
			if v, err := k.read(); err != nil || v != "0" {
				t.Errorf("%s: %s (%v)", k, v, err)
			}
		}
	})
}

// The rules of VIPs whose interface is there do not wait for one that is gone.
func TestSegmentsWithoutAnInterface(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, _ int) {
		there, removed := netip.MustParseAddr("10.99.0.100"), netip.MustParseAddr("10.99.0.101")
		both := &state{VIPs: []record{{Addr: there, Interface: "eth0", Tunnel: IPIP}, {Addr: removed, Interface: "eth9", Tunnel: IPIP}}}
		var r reporter
		if err := r.lowerSegments(both); err != nil {
			t.Error(err)
		}
		if rules, err := segmentsOf(there).rules(); err != nil || rules[there] != 1440 || rules[removed] != 0 {
			t.Errorf("rules %v (%v)", rules, err)
		}
	})
}
