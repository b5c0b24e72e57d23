package losses

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// enterNamespace puts the test into a fresh network namespace with interfaces.
func enterNamespace(t *testing.T, interfaces ...string) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, err)
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() {
		must(t, netns.Set(home))
		_, _ = ns.Close(), home.Close()
		runtime.UnlockOSThread()
	})
	for _, name := range interfaces {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}))
	}
}

func makePinDir(t *testing.T) string {
	t.Helper()
	dir := fmt.Sprintf("/sys/fs/bpf/lvx-losses-%d", os.Getpid())
	must(t, os.MkdirAll(dir, 0o700))
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(dir, pinName))
		_ = os.Remove(dir)
	})
	return dir
}

// A map that is full of counts of interfaces that are gone, or are of another
// network namespace, makes room.
func TestOldCountsMakeRoom(t *testing.T) {
	enterNamespace(t, "lvx0", "lvx1")
	pins := makePinDir(t)
	w, err := Open(pins, []string{"lvx0", "lvx1"})
	must(t, err)
	counts := w.objects.Losses
	for n := uint32(0); n < counts.MaxEntries(); n++ {
		key := rawLossKey{Netns: w.netns + uint64(n%2), Ifindex: 1000 + n/2}
		if err := counts.Put(key, uint64(9)); err != nil {
			break // it is full
		}
	}
	must(t, w.Close())

	enterNamespace(t, "lvx2")
	elsewhere, err := Open(pins, []string{"lvx2"})
	if err != nil {
		t.Fatalf("with a full map, in another namespace: %v", err)
	}
	must(t, elsewhere.Close())
}

// What is watched again keeps its counts, what is watched no more has none left.
func TestCountsGoOn(t *testing.T) {
	enterNamespace(t, "lvx0", "lvx1")
	pins := makePinDir(t)
	w, err := Open(pins, []string{"lvx0", "lvx1"})
	must(t, err)
	for n, iface := range w.interfaces {
		must(t, w.objects.Losses.Put(w.key(iface, 1), uint64(7+n)))
	}
	must(t, w.Close())
	w, err = Open(pins, []string{"lvx0"})
	must(t, err)
	got, err := w.Counts()
	must(t, err)
	want := []Count{{"lvx0", TX, 0}, {"lvx0", Redirect, 7}, {"lvx0", Aborted, 0}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if n := entries(t, w.objects.Losses); n != len(losses) {
		t.Errorf("%d counts are in the map, want %d", n, len(losses))
	}
	must(t, w.Close())
}

func entries(t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	var key rawLossKey
	var frames uint64
	all := m.Iterate()
	for all.Next(&key, &frames) {
		n++
	}
	must(t, all.Err())
	return n
}
