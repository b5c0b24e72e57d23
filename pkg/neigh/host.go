package neigh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// network is what a [Resolver] needs of the host it runs on. Only the
// goroutine of Run calls it.
type network interface {
	open() (<-chan event, error)
	// routes says how each address is reached, never from one of avoid.
	routes(addrs []netip.Addr, avoid map[netip.Addr]bool) ([]path, error)
	// ask sends one question for addr to a station, or to all.
	ask(to MAC, p path, addr netip.Addr) error
	// keep closes what only serves interfaces that are not used.
	keep(used map[int]bool)
	close()
}

// kind is the kind of an [event].
type kind uint8

const (
	routesChanged kind = iota // routes, addresses or interfaces have changed
	spokeItself               // addr has said itself that it is at mac
	kernelHint                // the kernel's table has addr at mac
)

type event struct {
	kind    kind
	ifindex int
	addr    netip.Addr
	mac     MAC
}

// liveNetwork is the network of the machine itself.
type liveNetwork struct {
	events  chan event
	done    chan struct{} // closed when Run takes no more events
	readers sync.WaitGroup
	handle  *netlink.Handle
	sub     *nl.NetlinkSocket
	conns   map[int]*arpConn // by interface index
}

// arpConn is a packet socket that knows that it was closed on purpose.
type arpConn struct {
	*packet.Conn
	closed atomic.Bool
}

// closeForGood ends it, and its reader.
func (c *arpConn) closeForGood() {
	c.closed.Store(true)
	c.Close()
}

func (h *liveNetwork) open() (<-chan event, error) {
	var err error
	if h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	h.sub, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE)
	if err != nil {
		h.handle.Close()
		return nil, fmt.Errorf("netlink events: %w", err)
	}
	h.events, h.done = make(chan event, 64), make(chan struct{})
	h.conns = map[int]*arpConn{}
	h.readers.Go(h.readNetlink)
	return h.events, nil
}

func (h *liveNetwork) close() {
	close(h.done)
	h.sub.Close()
	h.keep(nil)
	h.readers.Wait()
	h.handle.Close()
}

// sendEvent hands an event to Run; false when it has ended.
func (h *liveNetwork) sendEvent(e event) bool {
	select {
	case h.events <- e:
		return true
	case <-h.done:
		return false
	}
}

// readNetlink turns netlink messages into events.
func (h *liveNetwork) readNetlink() {
	for {
		msgs, from, err := h.sub.Receive()
		select {
		case <-h.done:
			return
		default:
		}
		if err != nil { // lost messages (ENOBUFS): anything may have happened
			if !h.sendEvent(event{kind: routesChanged}) {
				return
			}
			continue
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			e := event{kind: routesChanged}
			if m.Header.Type == unix.RTM_NEWNEIGH || m.Header.Type == unix.RTM_DELNEIGH {
				n, err := netlink.NeighDeserialize(m.Data)
				if err != nil || n.Family != unix.AF_INET {
					continue
				}
				e.kind, e.ifindex = kernelHint, n.LinkIndex
				e.addr, _ = netip.AddrFromSlice(n.IP.To4())
				e.mac, _ = macFrom(n.HardwareAddr)
			}
			if !h.sendEvent(e) {
				return
			}
		}
	}
}

func (h *liveNetwork) routes(addrs []netip.Addr, avoid map[netip.Addr]bool) ([]path, error) {
	links, err := h.handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	own, err := h.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	byIndex := make(map[int]*netlink.LinkAttrs, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	paths := make([]path, len(addrs))
	for i, a := range addrs {
		paths[i] = h.routeTo(a, byIndex)
		if paths[i].err == "" && !paths[i].local {
			paths[i].src = chooseSource(a, paths[i].ifindex, own, avoid)
		}
	}
	return paths, nil
}

// routeTo asks the kernel for the way to one real.
func (h *liveNetwork) routeTo(a netip.Addr, links map[int]*netlink.LinkAttrs) path {
	if !a.Is4() {
		return path{err: fmt.Sprintf("%s is not an IPv4 address (neighbour discovery is not built in)", a)}
	}
	routes, err := h.handle.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return path{err: fmt.Sprintf("no route to %s (is the interface of its segment up?)", a)}
	}
	r := routes[0]
	l := links[r.LinkIndex]
	if l == nil {
		return path{err: fmt.Sprintf("the interface of the route to %s has gone", a)}
	}
	p := path{ifindex: l.Index, device: l.Name, mtu: l.MTU}
	p.mac, _ = macFrom(l.HardwareAddr)
	if r.MTU > 0 {
		p.mtu = r.MTU
	}
	switch {
	case r.Type == unix.RTN_LOCAL:
		p.local = true
	case r.Type != unix.RTN_UNICAST:
		p.err = fmt.Sprintf("%s is not the address of one host", a)
	case r.Gw != nil || r.Via != nil:
		p.err = fmt.Sprintf("%s is behind a gateway, not on the segment of %s (direct routing cannot reach it)", a, l.Name)
	case l.RawFlags&unix.IFF_UP == 0:
		p.err = l.Name + " is down"
	case l.RawFlags&unix.IFF_RUNNING == 0:
		p.err = l.Name + " has no carrier"
	case l.RawFlags&unix.IFF_NOARP != 0 || p.mac == MAC{}:
		p.err = l.Name + " is not an Ethernet interface (no ARP on it)"
	}
	return p
}

// chooseSource chooses the sender of the questions for a: an address of the
// interface that is not a VIP, best one of the same network.
func chooseSource(a netip.Addr, ifindex int, own []netlink.Addr, avoid map[netip.Addr]bool) srcAddr {
	var other srcAddr
	for _, o := range own {
		ip, ok := netip.AddrFromSlice(o.IP.To4())
		if !ok || o.LinkIndex != ifindex || avoid[ip] {
			continue
		}
		if o.Contains(a.AsSlice()) {
			return srcAddr{ip}
		}
		if !other.IsValid() {
			other = srcAddr{ip}
		}
	}
	return other
}

func (h *liveNetwork) ask(to MAC, p path, addr netip.Addr) error {
	frame, err := requestFrame(to, p, addr)
	if err != nil {
		return err
	}
	conn, err := h.arpConnOn(p)
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	return err
}

// arpConnOn is the ARP socket of an interface.
func (h *liveNetwork) arpConnOn(p path) (*arpConn, error) {
	if c := h.conns[p.ifindex]; c != nil {
		return c, nil
	}
	conn, err := packet.Listen(&net.Interface{Index: p.ifindex, Name: p.device}, packet.Raw, etherARP, &packet.Config{Filter: filterForUs()})
	if err != nil {
		return nil, err
	}
	c := &arpConn{Conn: conn}
	h.conns[p.ifindex] = c
	h.readers.Go(func() { h.readARP(p.ifindex, c) })
	return c, nil
}

// filterForUs is a filter that accepts what is addressed to this host or to all.
// The kernel counts frames of other VLANs as addressed to others.
func filterForUs() []bpf.RawInstruction {
	const wholeFrame = 1 << 16
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		bpf.RetConstant{Val: wholeFrame},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(err) // a constant program
	}
	return raw
}

// readARP reports the senders of ARP on an interface, until its socket is closed.
func (h *liveNetwork) readARP(ifindex int, c *arpConn) {
	buf := make([]byte, 128)
	for {
		n, _, err := c.ReadFrom(buf)
		if c.closed.Load() {
			return
		}
		if err != nil { // ENETDOWN, once each time the interface goes down
			if !h.sendEvent(event{kind: routesChanged}) {
				return
			}
			time.Sleep(burstGap) // should it be another one, and stay
			continue
		}
		addr, mac, ok := parseSender(buf[:n])
		if ok && !h.sendEvent(event{kind: spokeItself, ifindex: ifindex, addr: addr, mac: mac}) {
			return
		}
	}
}

func (h *liveNetwork) keep(used map[int]bool) {
	for i, c := range h.conns {
		if !used[i] {
			c.closeForGood()
			delete(h.conns, i)
		}
	}
}
