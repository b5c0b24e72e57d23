package lb

import (
	"net/netip"
	"testing"
)

// What the kernel takes off the MTU of a way for each tunnel (__ip_vs_get_out_rt and
// its sibling for IPv6).
func TestOverheadOfTunnels(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for kind, want := range map[EncapKind][2]int{IPIP: {20, 40}, GUE: {32, 52}, GRE: {24, 44}} {
		if got := [2]int{kind.Overhead(v4), kind.Overhead(v6)}; got != want {
			t.Errorf("%s: %v, want %v", kind, got, want)
		}
	}
}
