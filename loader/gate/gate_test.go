package gate

import (
	"io"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/loader/tc"
)

var vips = []netip.Addr{netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100")}

// shutNowhere is a gate that no interface has.
func shutNowhere(t *testing.T) *Gate {
	t.Helper()
	g, err := shut(0, vips, func(int, tc.Programs) (io.Closer, error) { return io.NopCloser(nil), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Open(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// frame is the begin of a frame to an address, with tags.
func frame(to netip.Addr, tags int) []byte {
	f := make([]byte, 12, 100)
	for range tags {
		f = append(f, 0x81, 0, 0, 7)
	}
	if to.Is4() {
		f = append(append(f, 8, 0), make([]byte, 16)...)
	} else {
		f = append(append(f, 0x86, 0xdd), make([]byte, 24)...)
	}
	f = append(f, to.AsSlice()...)
	return append(f, make([]byte, 40)...)
}

func TestGateHoldsBackWhatIsForVIPs(t *testing.T) {
	const pass, drop = 0xffffffff, 2 // TC_ACT_UNSPEC, TC_ACT_SHOT
	g := shutNowhere(t)
	for name, c := range map[string]struct {
		frame []byte
		want  uint32
	}{
		"VIP":             {frame(vips[0], 0), drop},
		"VIP of IPv6":     {frame(vips[1], 0), drop},
		"tagged":          {frame(vips[0], 1), drop},
		"another address": {frame(netip.MustParseAddr("192.0.2.1"), 0), pass},
		"another of IPv6": {frame(netip.MustParseAddr("2001:db8::1"), 0), pass},
		"ARP":             {append(append(make([]byte, 12), 8, 6), make([]byte, 46)...), pass},
	} {
		ret, err := g.objects.Gate.Run(&ebpf.RunOptions{Data: c.frame})
		if err != nil {
			t.Fatal(err)
		}
		if ret != c.want {
			t.Errorf("%s: %#x, want %#x", name, ret, c.want)
		}
	}
}

// A gate that nobody opens, because its process was killed, lets everything
// through once its time has come.
func TestGateOpensByItself(t *testing.T) {
	spec, err := loadRaw()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["gate_opens"].Set(uint64(1)); err != nil {
		t.Fatal(err)
	}
	var g Gate
	if err := spec.LoadAndAssign(&g.objects, nil); err != nil {
		t.Fatal(err)
	}
	defer g.objects.Close()
	if err := g.fill(vips[:1]); err != nil {
		t.Fatal(err)
	}
	if ret, err := g.objects.Gate.Run(&ebpf.RunOptions{Data: frame(vips[0], 0)}); err != nil || ret != 0xffffffff {
		t.Errorf("%#x, %v", ret, err)
	}
}

// On kernels without tcx the gate is a filter, which takes the place of one that a
// killed process has left; opening it leaves nothing.
func TestGateAsAFilter(t *testing.T) {
	runtime.LockOSThread() // the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lvx0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "lvx0p"}))
	l, err := netlink.LinkByName("lvx0")
	must(t, err)
	filters := func() int {
		t.Helper()
		all, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
		if err != nil { // there is no such hook
			return 0
		}
		return len(all)
	}
	for range 2 { // the first one is left
		_, err := shut(l.Attrs().Index, vips, tc.AttachFilters)
		must(t, err)
	}
	if n := filters(); n != 1 {
		t.Errorf("%d filters, want one", n)
	}
	g, err := shut(l.Attrs().Index, vips, tc.AttachFilters)
	must(t, err)
	must(t, g.Open())
	must(t, g.Open())
	if n := filters(); n != 0 {
		t.Errorf("%d filters are left", n)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
