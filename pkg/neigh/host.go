package neigh

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// rtnlgrpIPv6Rule is RTNLGRP_IPV6_RULE (linux/rtnetlink.h).
const rtnlgrpIPv6Rule = 19

// network is what a [Resolver] needs of the host it runs on. Only the
// goroutine of Run calls it.
type network interface {
	open() (<-chan event, error)
	// routes says how each address is reached, never from one of avoid.
	// bound are the MACs that the configuration gives.
	routes(addrs []netip.Addr, avoid map[netip.Addr]bool, bound map[netip.Addr]MAC) ([]path, error)
	// table is the host's routes of IPv4, the longest prefixes first.
	table() ([]Route, error)
	// ask sends one question for addr to a station, or to all.
	ask(to MAC, p path, addr netip.Addr) error
	// keep closes what only serves segments that are not used.
	keep(used map[segmentKey]bool)
	close()
}

// segmentKey is one family on one interface, which has a socket of its own.
type segmentKey struct {
	ifindex int
	isIPv6  bool
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
	conns   map[segmentKey]*arpConn
}

func (h *liveNetwork) open() (<-chan event, error) {
	var err error
	if h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	h.sub, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, rtnlgrpIPv6Rule)
	if err != nil {
		h.handle.Close()
		return nil, fmt.Errorf("netlink events: %w", err)
	}
	h.events, h.done = make(chan event, 64), make(chan struct{})
	h.conns = map[segmentKey]*arpConn{}
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
			if e, ok := eventOf(m); ok && !h.sendEvent(e) {
				return
			}
		}
	}
}

// eventOf reads one message of rtnetlink. What the kernel thinks of a
// neighbour is a hint, but for the entries that somebody has put there by
// hand: these are part of the way to a real, like a route.
func eventOf(m syscall.NetlinkMessage) (event, bool) {
	if m.Header.Type != unix.RTM_NEWNEIGH && m.Header.Type != unix.RTM_DELNEIGH {
		return event{kind: routesChanged}, true
	}
	n, err := netlink.NeighDeserialize(m.Data)
	if err != nil || n.Family != unix.AF_INET && n.Family != unix.AF_INET6 {
		return event{}, false
	}
	if n.State&unix.NUD_PERMANENT != 0 {
		return event{kind: routesChanged}, true
	}
	e := event{kind: kernelHint, ifindex: n.LinkIndex}
	addr, _ := netip.AddrFromSlice(n.IP)
	e.addr = addr.Unmap()
	e.mac, _ = macFrom(n.HardwareAddr)
	return e, true
}

func (h *liveNetwork) routes(addrs []netip.Addr, avoid map[netip.Addr]bool, bound map[netip.Addr]MAC) ([]path, error) {
	links, err := kernellist.Complete(h.handle.LinkList)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	own, err := kernellist.Complete(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	permanent, err := h.permanentEntries()
	if err != nil {
		return nil, err
	}
	byIndex := make(map[int]*netlink.LinkAttrs, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	paths := make([]path, len(addrs))
	for i, a := range addrs {
		p := h.routeTo(a, byIndex)
		if p.err == "" && !p.local {
			p.src = chooseSource(a, p.ifindex, own, avoid)
			p.srcIP = chooseConnectSource(a, p, own, avoid)
			if p.routeSrc.IsValid() && !avoid[p.routeSrc] {
				p.srcIP = p.routeSrc
			}
			if p.fixed = bound[a]; p.fixed == (MAC{}) {
				p.fixed = permanent[neighbour{p.ifindex, a.WithZone("")}]
			}
			if p.gateway.IsValid() && p.fixed != (MAC{}) {
				p.gateway = netip.Addr{} // the user's word: it is on the segment
			}
			if !p.gateway.IsValid() {
				p.err = p.missingMAC()
			}
		}
		paths[i] = p
	}
	return paths, nil
}

// routeTo asks the kernel for the way to one real.
func (h *liveNetwork) routeTo(a netip.Addr, links map[int]*netlink.LinkAttrs) path {
	var by *netlink.RouteGetOptions
	if index, err := strconv.Atoi(a.Zone()); err == nil {
		by = &netlink.RouteGetOptions{OifIndex: index}
	}
	routes, err := h.handle.RouteGetWithOptions(a.AsSlice(), by)
	if err != nil || len(routes) == 0 {
		return path{isLink: true, err: fmt.Sprintf("no route to %s (is the interface of its segment up?)", a)}
	}
	r := routes[0]
	l := links[r.LinkIndex]
	if l == nil {
		return path{isLink: true, err: fmt.Sprintf("the interface of the route to %s has gone", a)}
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
	case r.Via != nil:
		p.err = fmt.Sprintf("%s is behind a gateway, not on the segment of %s (lvx cannot reach it there)", a, l.Name)
	case l.RawFlags&unix.IFF_UP == 0:
		p.err, p.isLink = l.Name+" is down", true
	case l.RawFlags&unix.IFF_RUNNING == 0:
		p.err, p.isLink = l.Name+" has no carrier", true
	}
	if gateway, ok := netip.AddrFromSlice(r.Gw); ok && p.err == "" && !p.local {
		p.gateway = onLink(gateway.Unmap(), l.Index)
		p.routeSrc, _ = netip.AddrFromSlice(r.Src)
		p.routeSrc = p.routeSrc.Unmap()
	}
	p.noARP = l.RawFlags&unix.IFF_NOARP != 0
	return p
}

// onLink is a router's address as a key of its own: a link-local one is of one
// interface, whose index is its zone.
func onLink(router netip.Addr, ifindex int) netip.Addr {
	if router.Is6() && router.IsLinkLocalUnicast() {
		return router.WithZone(strconv.Itoa(ifindex))
	}
	return router
}

// chooseSource chooses the sender of the questions for a: an address of the
// interface that is not a VIP, for IPv4 best one of the same network, for IPv6
// best the link-local one.
func chooseSource(a netip.Addr, ifindex int, own []netlink.Addr, avoid map[netip.Addr]bool) srcAddr {
	var other srcAddr
	for _, o := range own {
		raw, _ := netip.AddrFromSlice(o.IP)
		ip := raw.Unmap()
		if o.LinkIndex != ifindex || ip.Is4() != a.Is4() || avoid[ip] ||
			o.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		if ip.Is4() && o.Contains(a.AsSlice()) || ip.IsLinkLocalUnicast() && ip.Is6() {
			return srcAddr{ip}
		}
		if !other.IsValid() {
			other = srcAddr{ip}
		}
	}
	return other
}
