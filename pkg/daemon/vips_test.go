package daemon

import (
	"net/netip"
	"slices"
	"testing"
)

func TestWithout(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	all := []netip.Addr{a, b, c}
	if got := without(all, []netip.Addr{b}); !slices.Equal(got, []netip.Addr{a, c}) {
		t.Error(got)
	}
	if !slices.Equal(all, []netip.Addr{a, b, c}) {
		t.Error("its argument was changed")
	}
}
