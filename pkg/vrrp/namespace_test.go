package vrrp

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// inNamespace runs f in a network namespace of its own, with an interface
// that is up.
func inNamespace(t *testing.T, f func(t *testing.T, index int)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never undone: the thread is spoilt
		ns, err := netns.New()
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name, veth.PeerName = "eth0", "eth0peer"
		if err := netlink.LinkAdd(veth); err != nil {
			t.Error(err)
			return
		}
		for _, name := range []string{"eth0peer", "eth0"} {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
		l, _ := netlink.LinkByName("eth0")
		f(t, l.Attrs().Index)
	}()
	<-done
}

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
