package daemon

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// The end takes VIPs off lo also where the interface that they faced is gone.
func TestSilentVIPsWithoutTheirInterface(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		s := newSilentVIPs(filepath.Join(t.TempDir(), "silent.json"), must, slog.New(slog.DiscardHandler))
		must(s.Serve([]director.SilentVIP{{Addr: netip.MustParseAddr("10.99.0.100"), Interface: "eth0"}}))
		link, err := netlink.LinkByIndex(index)
		must(err)
		must(netlink.LinkDel(link))
		must(s.release())
		left, _, err := vip.List(1)
		must(err)
		if vip.Has(left, netip.MustParseAddr("10.99.0.100")) {
			t.Errorf("left on lo: %v", left)
		}
	})
}
