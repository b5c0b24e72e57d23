package vrrp

import (
	"net/netip"
	"slices"
	"testing"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// v4of lists the IPv4 addresses of an interface, sorted.
func v4of(t *testing.T, index int) []netip.Prefix {
	t.Helper()
	ps, _, err := vips.List(index)
	if err != nil {
		t.Error(err)
	}
	ps = slices.DeleteFunc(ps, func(p netip.Prefix) bool { return !p.Addr().Is4() })
	slices.SortFunc(ps, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return ps
}

func wantAddrs(t *testing.T, index int, want ...string) {
	t.Helper()
	if got := v4of(t, index); !slices.Equal(got, prefixes(want...)) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}
