package tb

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// InNamespace runs f in a network namespace of its own, with an interface that
// is up; index is the interface's. What f starts on other threads is outside.
func InNamespace(t *testing.T, f func(t *testing.T, index int)) {
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
