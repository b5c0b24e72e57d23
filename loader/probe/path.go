package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Marks: "l" in the highest byte, then a number that differs between
// daemons on one host (their programs may sit on the same interface), then
// the number of the path.
const (
	markBase = 'l' << 24
	maxPaths = 1<<16 - 1
)

// Path is the way through VIPs over some interfaces. Its methods may be
// called from any goroutine.
type Path struct {
	objects rawObjects
	hook    hook
	isVIP   func(netip.Addr) bool

	mu       sync.Mutex
	attached map[int]io.Closer // by interface index
	base     uint32            // of the marks
	last     uint32            // number of the path that was opened last
	used     map[uint32]bool   // numbers of open paths
	closed   bool
}

// hook puts both programs on an interface; closing takes them off.
type hook func(index int, in, out *ebpf.Program) (io.Closer, error)

// Attach loads the programs and puts them on the named interfaces, and later on
// whatever other interface a real is reached by, through
// tcx where the kernel has it (6.6) and as clsact filters elsewhere. They
// change no packet until a path is open. No probe comes from an address that isVIP.
func Attach(interfaces []string, isVIP func(netip.Addr) bool) (*Path, error) {
	return attach(interfaces, isVIP, either)
}

func attach(interfaces []string, isVIP func(netip.Addr) bool, h hook) (*Path, error) {
	p := &Path{
		hook:     h,
		isVIP:    isVIP,
		attached: map[int]io.Closer{},
		base:     markBase | (1+rand.Uint32N(255))<<16,
		used:     map[uint32]bool{},
	}
	// Kernels before 5.11 count maps as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("limit of locked memory: %w", err)
	}
	if err := loadRawObjects(&p.objects, nil); err != nil {
		return nil, fmt.Errorf("load probe programs: %w (lvx needs root and BPF)", err)
	}
	for _, name := range interfaces {
		iface, err := net.InterfaceByName(name)
		if err == nil {
			err = p.attach(iface)
		} else {
			err = fmt.Errorf("interface %s: no such interface (see `ip link`)", name)
		}
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// attach puts the programs on an interface. The caller holds mu, or is the
// only one who knows p.
func (p *Path) attach(iface *net.Interface) error {
	if len(iface.HardwareAddr) != 6 {
		return fmt.Errorf("interface %s: no Ethernet address, probes through a VIP need one", iface.Name)
	}
	c, err := p.hook(iface.Index, p.objects.ProbeIn, p.objects.ProbeOut)
	if err != nil {
		return fmt.Errorf("attach probe programs to %s: %w", iface.Name, err)
	}
	if old := p.attached[iface.Index]; old != nil {
		_ = old.Close()
	}
	p.attached[iface.Index] = c
	return nil
}

// Open makes a path to real by way of vip, by direct routing or in a tunnel; in a
// tunnel vip may be of another family than real. Sockets that are connected to real,
// carry the mark and have a local port of their own use
// it. Mark 0 means that real is this host itself, and that there is nothing
// to rewrite. Release ends the path; calling it again does nothing.
func (p *Path) Open(real, vip netip.Addr, forward lb.Forward, encap lb.Encap) (mark uint32, release func(), err error) {
	if real.Is4() != vip.Is4() && forward != lb.Tunnel {
		return 0, nil, fmt.Errorf("real %s, VIP %s: a probe through a VIP needs both of one family, or a tunnel (set via: real)", real, vip)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, nil, errors.New("probe programs are detached")
	}
	way, err := p.reach(real, forward)
	if err != nil {
		return 0, nil, err
	}
	if way.Type == unix.RTN_LOCAL {
		return 0, func() {}, nil
	}
	to := probeTo(real, vip, forward, encap)
	if real.Is4() != vip.Is4() {
		source, err := p.sourceFor(vip, way.LinkIndex)
		if err != nil {
			return 0, nil, err
		}
		to.Source = wire(source)
	}
	number, err := p.number()
	if err != nil {
		return 0, nil, err
	}
	mark = p.base | number
	if err := p.objects.Probes.Put(mark, to); err != nil {
		return 0, nil, fmt.Errorf("path to %s through %s: %w", real, vip, err)
	}
	p.used[number] = true
	return mark, sync.OnceFunc(func() { p.release(number) }), nil
}

// probeTo is what the programs know of a path.
func probeTo(real, vip netip.Addr, forward lb.Forward, encap lb.Encap) rawProbe {
	to := rawProbe{Real: wire(real), Vip: wire(vip)}
	switch {
	case forward != lb.Tunnel:
	case encap.Kind == lb.GUE:
		to.Tunnel, to.Port = unix.IPPROTO_UDP, uint32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, encap.Port)))
	case encap.Kind == lb.GRE:
		to.Tunnel = unix.IPPROTO_GRE
	case vip.Is6():
		to.Tunnel = unix.IPPROTO_IPV6
	default:
		to.Tunnel = unix.IPPROTO_IPIP
	}
	return to
}

// wire makes an address what the programs compare: the packet's bytes, one of
// IPv4 as ::ffff:a.b.c.d.
func wire(a netip.Addr) (w rawAddress) {
	b := a.As16()
	for i := range w.Word {
		w.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// reach makes sure that packets to real leave by an interface with our
// programs, straight to the real if nothing carries the VIP past routers:
// anything else would ask the real itself and take its answer for the VIP's.
func (p *Path) reach(real netip.Addr, forward lb.Forward) (way netlink.Route, err error) {
	routes, err := netlink.RouteGet(real.AsSlice())
	if err != nil || len(routes) == 0 {
		return way, fmt.Errorf("route to %s: %w", real, err)
	}
	way = routes[0]
	if way.Type == unix.RTN_LOCAL {
		return way, nil
	}
	if way.Gw != nil && forward == lb.DR {
		return way, fmt.Errorf("real %s is behind router %s (direct routing needs it on the segment)", real, way.Gw)
	}
	if p.attached[way.LinkIndex] != nil {
		return way, nil
	}
	iface, err := net.InterfaceByIndex(way.LinkIndex)
	if err != nil {
		return way, fmt.Errorf("route to %s: %w", real, err)
	}
	// The interface is none of the configured ones (what can be forwarded to
	// can be checked), or it was made anew since.
	return way, p.attach(iface)
}

// sourceFor chooses what probes come from whose VIP is of another family than the
// real, to which link leads: best an address of the VIP's network, else one
// of the link.
func (p *Path) sourceFor(vip netip.Addr, link int) (netip.Addr, error) {
	own, err := kernellist.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netip.Addr{}, fmt.Errorf("addresses of this host: %w", err)
	}
	var source netip.Addr
	from, best := 0, 0
	for _, o := range own {
		raw, _ := netip.AddrFromSlice(o.IP)
		ip, fits := raw.Unmap(), 1
		if ip.Is4() != vip.Is4() || !ip.IsGlobalUnicast() || p.isVIP(ip) || o.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		if o.LinkIndex == link {
			fits = 2
		}
		if o.Contains(vip.AsSlice()) {
			fits = 3
		}
		if fits > best {
			source, from, best = ip, o.LinkIndex, fits
		}
	}
	if best == 0 {
		return source, fmt.Errorf("this host has no address of the family of VIP %s that is not a VIP (give it one, or set via: real)", vip)
	}
	// The reply comes by the interface of that address.
	if iface, err := net.InterfaceByIndex(from); err == nil && len(iface.HardwareAddr) == 6 && p.attached[from] == nil {
		return source, p.attach(iface)
	}
	return source, nil
}

// number finds a free one. Numbers are not reused soon: a late packet of an
// old path must not take a new one.
func (p *Path) number() (uint32, error) {
	for range maxPaths {
		p.last = p.last%maxPaths + 1
		if !p.used[p.last] {
			return p.last, nil
		}
	}
	return 0, fmt.Errorf("%d paths are open, no mark is left", maxPaths)
}

func (p *Path) release(number uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_ = p.objects.Probes.Delete(p.base | number) // gone is what is wanted
		delete(p.used, number)
	}
}

// Close takes the programs off the interfaces and ends every path. Nothing
// is left behind.
func (p *Path) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	for _, c := range p.attached {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, p.objects.Close())...)
}
