// Package onearm is the smallest network that a director can be judged on:
// one veth pair in a network namespace of its own. The director's end is
// called eth0 and has the addresses; the other end is the wire, on which the
// test is every client and every real server at once. Neighbours are
// permanent entries, so a frame's destination MAC says which real was chosen
// and nothing but the packets under test is on the wire.
//
// It knows nothing of IPVS or XDP, and it is no place for throughput: after
// each packet it waits until the director is idle again, so that what comes
// out can be told to belong to what went in. The one trap: a [Net] belongs to
// the thread that made it, which stays locked and pinned to its processor
// until [Net.Close].
package onearm

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The director's addresses and MAC, and those of the router that all clients
// are behind. Reals are 10.0.0.11 and up, see [Real].
var (
	Director  = netip.MustParseAddr("10.0.0.1")
	Director6 = netip.MustParseAddr("2001:db8::1")
	Router    = netip.MustParseAddr("10.0.0.200")
	Router6   = netip.MustParseAddr("2001:db8::200")

	DirectorMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	RouterMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 200}
)

// Device is the name of the director's interface, Wire that of its peer.
const (
	Device = "eth0"
	Wire   = "wire"
)

// Reals is how many real servers there are neighbour entries for.
const Reals = 20

// Real is the address of real server n, from 1 to [Reals]: 10.0.0.11 is 1.
func Real(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)}) }

// Real6 is the IPv6 address of real server n: 2001:db8::11 is 1.
func Real6(n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 10+n))
}

// RealMAC is the MAC of real server n, whatever its address family.
func RealMAC(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, byte(n)} }

// Net is the network. It is used by the goroutine that made it.
type Net struct {
	own, outer netns.NsHandle
	affinity   unix.CPUSet
	sock       int
	buf        [1 << 16]byte
}

// New makes a network and moves the calling goroutine into it, locked to its
// thread. The addresses in vips are put on eth0. Commands that the goroutine
// starts run in the network too.
func New(vips ...netip.Addr) (*Net, error) {
	runtime.LockOSThread()
	n := &Net{own: -1, outer: -1, sock: -1}
	if err := n.open(vips); err != nil {
		return nil, errors.Join(fmt.Errorf("one-armed network: %w", err), n.Close())
	}
	return n, nil
}

func (n *Net) open(vips []netip.Addr) error {
	if err := n.pin(); err != nil {
		return err
	}
	var err error
	if n.outer, err = netns.Get(); err != nil {
		return err
	}
	if n.own, err = netns.New(); err != nil {
		return err
	}
	if err := addLinks(); err != nil {
		return err
	}
	if err := addAddresses(vips); err != nil {
		return err
	}
	n.sock, err = openWire()
	return err
}

// Close leaves and removes the network.
func (n *Net) Close() error {
	var errs []error
	if n.sock >= 0 {
		errs = append(errs, unix.Close(n.sock))
	}
	if n.own >= 0 {
		errs = append(errs, netns.Set(n.outer), n.own.Close())
	}
	if n.outer >= 0 {
		errs = append(errs, n.outer.Close())
	}
	errs = append(errs, unix.SchedSetaffinity(0, &n.affinity))
	runtime.UnlockOSThread()
	return errors.Join(errs...)
}

// pin keeps the thread on one processor: veth hands a frame to the receiving
// stack on the processor that sends it, so one processor means one order.
func (n *Net) pin() error {
	if err := unix.SchedGetaffinity(0, &n.affinity); err != nil {
		return fmt.Errorf("processor affinity: %w", err)
	}
	var one unix.CPUSet
	for cpu := range 1024 {
		if n.affinity.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	return unix.SchedSetaffinity(0, &one)
}

// addLinks makes the pair. Its ends keep quiet: no IPv6 autoconfiguration, no
// ARP of their own on the wire's end.
func addLinks() error {
	for _, knob := range []string{"all", "default"} {
		for name, value := range map[string]string{"accept_dad": "0", "accept_ra": "0", "router_solicitations": "0", "addr_gen_mode": "1"} {
			// A kernel without IPv6 has no such knobs.
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+knob+"/"+name, []byte(value), 0o644)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = Device, DirectorMAC
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: Wire, PeerHardwareAddr: RouterMAC}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth pair: %w", err)
	}
	wire, err := netlink.LinkByName(Wire)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetARPOff(wire); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, l := range []netlink.Link{lo, veth, wire} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("%s up: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

func addAddresses(vips []netip.Addr) error {
	dev, err := netlink.LinkByName(Device)
	if err != nil {
		return err
	}
	add := func(a netip.Addr, bits int) error {
		addr := &netlink.Addr{IPNet: prefix(a, bits), Flags: unix.IFA_F_NODAD}
		if a.Is6() && bits == a.BitLen() {
			addr.ValidLft = math.MaxInt32 // and deprecated: no VIP is the source of a tunnel
		}
		if err := netlink.AddrAdd(dev, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
		return nil
	}
	if err := errors.Join(add(Director, 24), add(Director6, 64)); err != nil {
		return err
	}
	for _, v := range vips {
		if err := add(v, v.BitLen()); err != nil {
			return err
		}
	}
	neighbours := map[netip.Addr]net.HardwareAddr{Router: RouterMAC, Router6: RouterMAC}
	for i := 1; i <= Reals; i++ {
		neighbours[Real(i)] = RealMAC(i)
		neighbours[Real6(i)] = RealMAC(i)
	}
	for a, mac := range neighbours {
		entry := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
		if err := netlink.NeighSet(entry); err != nil {
			return fmt.Errorf("neighbour %s: %w", a, err)
		}
	}
	for _, gw := range []netip.Addr{Router, Router6} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("default route by %s: %w", gw, err)
		}
	}
	return nil
}

func prefix(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}
