package losses

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Loss is where frames were lost.
type Loss string

// The losses.
const (
	TX       Loss = "xdp_tx"       // on the way back by the interface they came in by
	Redirect Loss = "xdp_redirect" // on the way out by another interface
	Aborted  Loss = "xdp_aborted"  // the driver did not understand the verdict
)

var losses = [...]Loss{rawLossLOSS_TX: TX, rawLossLOSS_REDIRECT: Redirect, rawLossLOSS_ABORTED: Aborted}

// pinName is the map's name in a pin directory.
const pinName = "losses"

// Count is how many frames an interface has lost since the map was made.
type Count struct {
	Interface string // that they came in by
	Loss      Loss
	Frames    uint64
}

// Watch counts until it is closed.
type Watch struct {
	objects    rawObjects
	links      []link.Link
	interfaces []*net.Interface
	netns      uint64
}

// Open begins to count what interfaces of the calling thread's network namespace
// lose. The counts go on from those that are pinned in pinDir; those of other
// interfaces end.
func Open(pinDir string, interfaces []string) (_ *Watch, err error) {
	w := &Watch{}
	defer func() {
		if err != nil {
			_ = w.Close()
		}
	}()
	for _, name := range interfaces {
		iface, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %s: no such interface (see `ip link`)", name)
		}
		w.interfaces = append(w.interfaces, iface)
	}
	if w.netns, err = namespaceCookie(); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("limit of locked memory: %w", err)
	}
	if err := w.load(filepath.Join(pinDir, pinName)); err != nil {
		return nil, err
	}
	if err := w.forgetOthers(); err != nil {
		return nil, err
	}
	for _, iface := range w.interfaces {
		for why := range losses {
			err := w.objects.Losses.Update(w.key(iface, why), uint64(0), ebpf.UpdateNoExist)
			if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
				return nil, fmt.Errorf("count of %s: %w", iface.Name, err)
			}
		}
	}
	for _, p := range []*ebpf.Program{w.objects.CountException, w.objects.CountBulkTx, w.objects.CountRedirectErr, w.objects.CountRedirected} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", p, err)
		}
		w.links = append(w.links, l)
	}
	return w, nil
}

// load loads the programs over the pinned map. One that does not fit is left
// behind.
func (w *Watch) load(path string) error {
	counts, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pinned map %s: %w", path, err)
	}
	replace := map[string]*ebpf.Map{}
	if counts != nil {
		defer counts.Close()
		replace[rawMapLosses] = counts
	}
	err = loadRawObjects(&w.objects, &ebpf.CollectionOptions{MapReplacements: replace})
	switch {
	case errors.Is(err, ebpf.ErrMapIncompatible):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("pinned map: %w", err)
		}
		return w.load(path)
	case err != nil:
		return fmt.Errorf("load: %w", err)
	case counts != nil:
		return nil
	}
	if err := w.objects.Losses.Pin(path); err != nil {
		return fmt.Errorf("pin map to %s: %w", path, err)
	}
	return nil
}

// forgetOthers deletes the counts of all but the interfaces that are watched:
// each interface that is made anew, and each start in another network namespace,
// would else leave some in the map, until there is no room. One process at a time
// uses a pin directory, so that nobody counts by them; whether a namespace is
// still there cannot be known from its cookie.
func (w *Watch) forgetOthers() error {
	var others []rawLossKey
	var key rawLossKey
	var frames uint64
	all := w.objects.Losses.Iterate()
	for all.Next(&key, &frames) {
		isWatched := func(i *net.Interface) bool { return w.key(i, int(key.Why)) == key }
		if !slices.ContainsFunc(w.interfaces, isWatched) {
			others = append(others, key)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("old counts: %w", err)
	}
	for _, key := range others {
		if err := w.objects.Losses.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("old counts: %w", err)
		}
	}
	return nil
}

func (w *Watch) key(iface *net.Interface, why int) rawLossKey {
	return rawLossKey{Netns: w.netns, Ifindex: uint32(iface.Index), Why: rawLoss(why)}
}

// Counts reads the counts, those that are zero too.
func (w *Watch) Counts() ([]Count, error) {
	var all []Count
	for _, iface := range w.interfaces {
		for why, loss := range losses {
			c := Count{Interface: iface.Name, Loss: loss}
			if err := w.objects.Losses.Lookup(w.key(iface, why), &c.Frames); err != nil {
				return nil, fmt.Errorf("count of %s: %w", iface.Name, err)
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// Close ends the watch. The pinned counts stay.
func (w *Watch) Close() error {
	var errs []error
	for _, l := range w.links {
		errs = append(errs, l.Close())
	}
	w.links = nil
	return errors.Join(append(errs, w.objects.Close())...)
}

// namespaceCookie is the kernel's name for this thread's network namespace.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
