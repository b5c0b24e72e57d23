package ipvs

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// TestTemplateMark: the kernel keeps a mark in the first four bytes of an address
// of either family (ip_vs_sched_persist).
func TestTemplateMark(t *testing.T) {
	for virtual, want := range map[string]uint32{"0.0.0.10:0": 10, "255.255.255.255:0": 4294967295, "[0:a::]:0": 10, "[102:304::]:0": 0x01020304} {
		if got := templateMark(lb.Connection{Virtual: netip.MustParseAddrPort(virtual)}); got != want {
			t.Errorf("%s: mark %d, want %d", virtual, got, want)
		}
	}
}
