package testenv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace with a thread of its own.
type Host struct {
	Name    string
	Netlink *netlink.Handle // works in this namespace, from every goroutine

	netns  string // the name that `ip netns` knows
	dir    string
	ns     netns.NsHandle
	work   chan func()   // to the thread that lives in the namespace
	closed chan struct{} // ends that thread

	dialled atomic.Uint32 // TCP connections, and ports that were not free

	mu       sync.Mutex
	procs    []*Process
	captures []*Capture
	files    []interface{ Close() error }
}

// newHost makes a namespace and the thread that stands in it.
//
// The thread lives as long as the host because processes die with the thread
// that started them (PR_SET_PDEATHSIG counts threads, not processes).
func newHost(cluster, name, dir string) (*Host, error) {
	h := &Host{
		Name:   name,
		netns:  cluster + "-" + name,
		dir:    filepath.Join(dir, name),
		ns:     netns.None(),
		work:   make(chan func()),
		closed: make(chan struct{}),
	}
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.NewNamed(h.netns)
		h.ns = ns
		ready <- err
		for {
			select {
			case f := <-h.work:
				f()
			case <-h.closed:
				return
			}
		}
	}()
	if err := <-ready; err != nil {
		close(h.closed)
		return nil, fmt.Errorf("namespace %s: %w", h.netns, err)
	}
	var err error
	if h.Netlink, err = netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE); err != nil {
		return h, fmt.Errorf("netlink in %s: %w", h.netns, err)
	}
	return h, h.up("lo")
}

// Netns is the name of the host's namespace, as in `ip -n NAME address`.
func (h *Host) Netns() string { return h.netns }

// Dir is a directory for the host's files. It is removed with the cluster.
func (h *Host) Dir() string { return h.dir }

// PinDir is a directory name under bpffs that is this host's alone. The
// directory does not exist yet; it is removed with the cluster.
func (h *Host) PinDir() string { return filepath.Join(bpffs, h.netns) }

// Do runs f in the host's namespace, on a thread that nobody else uses and
// that ends with f. What f opens stays in the namespace; goroutines that f
// starts do not run there. Calls may overlap.
func (h *Host) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: a thread in another namespace must not be reused
		if err := netns.Set(h.ns); err != nil {
			errc <- fmt.Errorf("enter namespace %s: %w", h.netns, err)
			return
		}
		errc <- f()
	}()
	return <-errc
}

// onThread runs f on the host's own thread. f must not block.
func (h *Host) onThread(f func() error) error {
	errc := make(chan error, 1)
	select {
	case h.work <- func() { errc <- f() }:
		return <-errc
	case <-h.closed:
		return fmt.Errorf("host %s: %w", h.Name, os.ErrClosed)
	}
}

// Sysctl sets a kernel parameter of the namespace: "net.ipv4.ip_forward".
// Interface names with a dot are written with a slash, as sysctl(8) does.
func (h *Host) Sysctl(key, value string) error {
	return h.Do(func() error {
		return os.WriteFile(sysctlPath(key), []byte(value), 0)
	})
}

// ReadSysctl reads a kernel parameter of the namespace.
func (h *Host) ReadSysctl(key string) (value string, err error) {
	err = h.Do(func() error {
		b, err := os.ReadFile(sysctlPath(key))
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

func sysctlPath(key string) string {
	swap := strings.NewReplacer(".", "/", "/", ".")
	return "/proc/sys/" + swap.Replace(key)
}

// Listen opens a listener in the namespace; it is closed with the host.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = new(net.ListenConfig).Listen(context.Background(), network, address)
		return err
	})
	if err == nil {
		h.own(l)
	}
	return l, err
}

// ListenPacket opens a packet socket in the namespace; it is closed with the
// host. A UDP server for a VIP must listen on the VIP, or the kernel answers
// from another address.
func (h *Host) ListenPacket(network, address string) (p net.PacketConn, err error) {
	err = h.Do(func() error {
		p, err = new(net.ListenConfig).ListenPacket(context.Background(), network, address)
		return err
	})
	if err == nil {
		h.own(p)
	}
	return p, err
}

// Addr is the first IPv4 address of the host's interface; the zero Addr if
// there is none.
func (h *Host) Addr(nic string) netip.Addr {
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return netip.Addr{}
	}
	addrs, err := h.Netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(addrs[0].IP.To4())
	return a
}

// MAC is the hardware address of the host's interface; nil if there is none.
func (h *Host) MAC(nic string) net.HardwareAddr {
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return nil
	}
	return link.Attrs().HardwareAddr
}

// own makes the host close f when the cluster ends.
func (h *Host) own(f interface{ Close() error }) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files = append(h.files, f)
}

// stop ends the host's processes, captures and listeners.
func (h *Host) stop() {
	h.mu.Lock()
	procs, captures, files := h.procs, h.captures, h.files
	h.procs, h.captures, h.files = nil, nil, nil
	h.mu.Unlock()
	stopAll(procs)
	for _, c := range captures {
		c.Close()
	}
	for _, f := range files {
		f.Close() // the test may have closed it already
	}
}

// close removes the namespace.
func (h *Host) close() error {
	close(h.closed)
	if h.Netlink != nil {
		h.Netlink.Close()
	}
	err := removeNamespace(h.netns)
	h.ns.Close()
	return err
}
