package vip

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// An address that brings a network may have a VIP belong to another interface; a VIP, which is a
// host of its own, does not.
func TestWhatMayMissAVIP(t *testing.T) {
	for name, test := range map[string]struct {
		kind uint16
		data []byte
		want bool
	}{
		"an address went":      {unix.RTM_DELADDR, []byte{unix.AF_INET, 32}, true},
		"an interface came":    {unix.RTM_NEWLINK, nil, true},
		"an interface went":    {unix.RTM_DELLINK, nil, false},
		"a network":            {unix.RTM_NEWADDR, []byte{unix.AF_INET, 24}, true},
		"a network of IPv6":    {unix.RTM_NEWADDR, []byte{unix.AF_INET6, 64}, true},
		"a host":               {unix.RTM_NEWADDR, []byte{unix.AF_INET, 32}, false},
		"a host of IPv6":       {unix.RTM_NEWADDR, []byte{unix.AF_INET6, 128}, false},
		"a message cut short":  {unix.RTM_NEWADDR, []byte{unix.AF_INET}, false},
		"an address of others": {unix.RTM_NEWADDR, []byte{unix.AF_MPLS, 20}, false},
	} {
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: test.kind}, Data: test.data}
		if got := mayMissVIP(m); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
