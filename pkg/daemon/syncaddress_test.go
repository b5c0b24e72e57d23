package daemon

import (
	"net/netip"
	"slices"
	"testing"
)

// A VIP that a daemon before this one has left in place is not what other directors know
// this one by, though the kernel lists it first.
func TestAddressesThatOthersKnow(t *testing.T) {
	listed := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.100/32"), netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("192.168.7.5/24"),
		netip.MustParsePrefix("fd00::100/128"), netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("fe80::1/64"),
	}
	want := []netip.Addr{
		netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("192.168.7.5"), netip.MustParseAddr("fd00::1"),
		netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100"),
	}
	if got := addressesIn(listed); !slices.Equal(got, want) {
		t.Errorf("%v (%v)", got, want)
	}
}
