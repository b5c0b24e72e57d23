package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridge     = "br0"
	defaultMTU = 1500
)

func (n NIC) switchName() string {
	if n.Switch == "" {
		return DefaultSwitch
	}
	return n.Switch
}

// port names a NIC's port of its switch: "d1", and "d1.1" for the second.
func port(host string, nic int) string {
	if nic == 0 {
		return host
	}
	return fmt.Sprintf("%s.%d", host, nic)
}

// addSwitch makes a learning switch without spanning tree, which would hold
// frames back for 30 s, and without multicast snooping, which would hide
// adverts from ports that did not ask for them.
func (c *Cluster) addSwitch(name string) error {
	h, err := c.newHost(name)
	if err != nil {
		return err
	}
	// The switch itself must not talk on the segment.
	if err := h.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	if err := h.Netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	return h.up(bridge)
}

func (c *Cluster) newHost(name string) (*Host, error) {
	if name == "" || len(name) > unix.IFNAMSIZ-1 || strings.ContainsAny(name, "/ ") {
		return nil, fmt.Errorf("name %q: want 1 to 15 bytes that can name an interface", name)
	}
	if c.Host(name) != nil {
		return nil, fmt.Errorf("name %q: used twice", name)
	}
	h, err := newHost(c.name, name, c.dir)
	if h != nil {
		c.hosts = append(c.hosts, h)
	}
	return h, err
}

func (c *Cluster) addHost(spec HostSpec) error {
	h, err := c.newHost(spec.Name)
	if err != nil {
		return err
	}
	if err := h.quiet(spec.Forward); err != nil {
		return err
	}
	for i, n := range spec.NICs {
		if err := h.plug(c.Host(n.switchName()), i, n); err != nil {
			return fmt.Errorf("eth%d: %w", i, err)
		}
	}
	if spec.Gateway.IsValid() {
		everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if spec.Gateway.Is6() {
			everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		spec.Routes = append(slices.Clone(spec.Routes), Route{To: everything, Via: spec.Gateway})
	}
	for _, r := range spec.Routes {
		if err := h.SetRoute(r); err != nil {
			return err
		}
	}
	for key, value := range spec.Sysctls {
		if err := h.Sysctl(key, value); err != nil {
			return fmt.Errorf("sysctl %s: %w", key, err)
		}
	}
	return nil
}

// quiet gives a new namespace the kernel's own defaults: it may have been
// born with those of the machine.
func (h *Host) quiet(forward bool) error {
	settings := map[string]string{
		"net.ipv4.ip_forward":         "0",
		"net.ipv4.ping_group_range":   "0 2147483647",
		"net.ipv6.conf.all.accept_ra": "0",
		// An address that waits for duplicate detection cannot be used.
		"net.ipv6.conf.default.accept_dad": "0",
		"net.ipv6.conf.all.accept_dad":     "0",
	}
	for _, which := range []string{"all", "default", "lo"} {
		for _, key := range []string{"rp_filter", "arp_ignore", "arp_announce", "arp_notify"} {
			settings["net.ipv4.conf."+which+"."+key] = "0"
		}
	}
	if forward {
		settings["net.ipv4.ip_forward"] = "1"
		settings["net.ipv6.conf.all.forwarding"] = "1"
		// A router that says "send it there yourself" would hide itself.
		settings["net.ipv4.conf.all.send_redirects"] = "0"
		settings["net.ipv4.conf.default.send_redirects"] = "0"
	}
	for key, value := range settings {
		err := h.Sysctl(key, value)
		if errors.Is(err, unix.ENOENT) && strings.HasPrefix(key, "net.ipv6.") {
			continue // a machine without IPv6
		}
		if err != nil {
			return fmt.Errorf("sysctl %s: %w", key, err)
		}
	}
	return nil
}

// plug makes the i-th NIC and connects it to sw.
func (h *Host) plug(sw *Host, i int, n NIC) error {
	if n.MTU == 0 {
		n.MTU = defaultMTU
	}
	if n.MAC == nil {
		n.MAC = macOf(n.Addrs)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = port(h.Name, i), n.MTU
	name := fmt.Sprintf("eth%d", i)
	err := sw.Netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: name, PeerMTU: uint32(n.MTU),
		PeerHardwareAddr: n.MAC, PeerNamespace: netlink.NsFd(h.ns), PeerTxQLen: -1,
	})
	if err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}
	br, err := sw.Netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	end, err := sw.Netlink.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err := sw.Netlink.LinkSetMaster(end, br); err != nil {
		return fmt.Errorf("port %s: %w", attrs.Name, err)
	}
	if n.XDPPeer {
		if err := sw.Do(func() error { return PassXDP(end) }); err != nil {
			return err
		}
	}
	if n.FullChecksum {
		if err := h.fullChecksum(name); err != nil {
			return err
		}
	}
	if err := sw.up(attrs.Name); err != nil {
		return err
	}
	return h.configure(name, n.Addrs)
}

// configure brings the NIC up with its addresses.
func (h *Host) configure(name string, addrs []netip.Prefix) error {
	for _, a := range addrs {
		if err := h.AddAddr(name, a); err != nil {
			return err
		}
	}
	return h.up(name)
}

// AddAddr puts an address on an interface. One of IPv6 can be bound at once:
// nobody is asked whether it is a duplicate.
func (h *Host) AddAddr(nic string, a netip.Prefix) error {
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("interface %s: %w", nic, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(a)}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.Netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", a, nic, err)
	}
	return nil
}

// DelAddr takes an address off an interface.
func (h *Host) DelAddr(nic string, a netip.Prefix) error {
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("interface %s: %w", nic, err)
	}
	if err := h.Netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
		return fmt.Errorf("address %s on %s: %w", a, nic, err)
	}
	return nil
}

// SetRoute adds or replaces a route.
func (h *Host) SetRoute(r Route) error {
	route := &netlink.Route{Dst: ipNet(r.To), MTU: r.MTU, MTULock: r.MTU != 0}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	if r.NIC != "" {
		link, err := h.Netlink.LinkByName(r.NIC)
		if err != nil {
			return fmt.Errorf("interface %s: %w", r.NIC, err)
		}
		route.LinkIndex = link.Attrs().Index
	}
	if err := h.Netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to %s: %w", r.To, err)
	}
	return nil
}

// SetLink brings an interface up or down. The other end of the cable of a
// host that is down has no carrier.
func (h *Host) SetLink(nic string, up bool) error {
	if up {
		return h.up(nic)
	}
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("interface %s: %w", nic, err)
	}
	return h.Netlink.LinkSetDown(link)
}

func (h *Host) up(nic string) error {
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("interface %s: %w", nic, err)
	}
	if err := h.Netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s up: %w", nic, err)
	}
	return nil
}

// PassXDP attaches a program that passes every packet to an interface of the
// calling thread's namespace, in native mode. It lives as long as the
// interface.
func PassXDP(link netlink.Link) error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("memory limit for BPF: %w", err)
	}
	const pass = 2 // XDP_PASS
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "testenv_pass",
		Type:         ebpf.XDP,
		License:      "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("pass program: %w", err)
	}
	defer prog.Close()
	if err := netlink.LinkSetXdpFdWithFlags(link, prog.FD(), unix.XDP_FLAGS_DRV_MODE); err != nil {
		return fmt.Errorf("pass program on port %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// fullChecksum turns TX checksum offload off, as `ethtool -K NIC tx off`
// does.
func (h *Host) fullChecksum(nic string) error {
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// struct ethtool_value and struct ifreq.
		value := &struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
		req := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(value)}
		copy(req.name[:], nic)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		runtime.KeepAlive(value)
		if errno != 0 {
			return fmt.Errorf("checksum offload of %s: %w", nic, errno)
		}
		return nil
	})
}

// macOf derives a locally administered MAC that shows the address in a
// capture: 172.25.0.12 is 02:00:ac:19:00:0c.
func macOf(addrs []netip.Prefix) net.HardwareAddr {
	for _, a := range addrs {
		if a.Addr().Is4() {
			b := a.Addr().As4()
			return net.HardwareAddr{2, 0, b[0], b[1], b[2], b[3]}
		}
	}
	for _, a := range addrs {
		b := a.Addr().As16()
		return net.HardwareAddr{2, 6, b[12], b[13], b[14], b[15]}
	}
	return nil // the kernel's choice
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
