package vrrp

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// link is what counts of an interface.
type link struct {
	index int
	up    bool // administratively and by carrier
	addrs []netip.Prefix
}

// links are the interfaces of the host by name.
type links map[string]link

// readLinks asks the kernel for all interfaces and their addresses. An IPv6
// address that is still being probed for duplicates does not count.
func readLinks() (links, error) {
	list, err := kernellist.Complete(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	addrs, err := kernellist.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	byIndex := map[int][]netip.Prefix{}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE == 0 {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], vips.PrefixOf(a))
		}
	}
	ls := links{}
	for _, l := range list {
		at := l.Attrs()
		const running = unix.IFF_UP | unix.IFF_RUNNING
		ls[at.Name] = link{index: at.Index, up: at.RawFlags&running == running, addrs: byIndex[at.Index]}
	}
	return ls, nil
}

// putVIPsLast puts the VIPs of all instances behind the host's other addresses: those of
// one instance must not be what another one's advertisements come from, though the kernel
// may list them first, of IPv6 what came last.
func (ls links) putVIPsLast(all []Instance) {
	isVIP := map[netip.Addr]bool{}
	for _, i := range all {
		for _, p := range i.Addresses {
			isVIP[p.Addr()] = true
		}
	}
	rank := func(p netip.Prefix) int {
		if isVIP[p.Addr()] {
			return 1
		}
		return 0
	}
	for _, l := range ls {
		slices.SortStableFunc(l.addrs, func(a, b netip.Prefix) int { return rank(a) - rank(b) })
	}
}

// primaryAddr is the address that advertisements of i come from: the first of
// the family (IPv6: link-local) that is no VIP, or the configured one if the
// interface has it. An address owner may have no other than its VIP.
func (l link) primaryAddr(i Instance) netip.Addr {
	var own netip.Addr
	for _, p := range l.addrs {
		a := p.Addr()
		switch {
		case i.Source.IsValid():
			if a == i.Source {
				return a
			}
		case a.Is4() != i.isIPv4() || a.Is6() && !a.IsLinkLocalUnicast():
		case !vips.Has(i.Addresses, a):
			return a
		case i.Priority == OwnerPriority && !own.IsValid():
			own = a
		}
	}
	return own
}

// hasVIPs reports whether this host has all VIPs of i where they belong.
func (ls links) hasVIPs(i Instance) bool {
	for _, p := range i.Addresses {
		if !vips.Has(ls[i.device(p.Addr())].addrs, p.Addr()) {
			return false
		}
	}
	return true
}

// device is the interface that a VIP goes on.
func (i Instance) device(vip netip.Addr) string {
	if name, ok := i.Devices[vip]; ok {
		return name
	}
	return i.Interface
}

// Place is VIPs on one interface.
type Place struct {
	Interface string
	VIPs      []netip.Prefix
}

// Places lists the VIPs by the interface that they go on.
func (i Instance) Places() []Place {
	var places []Place
	for _, p := range i.Addresses {
		name := i.device(p.Addr())
		n := slices.IndexFunc(places, func(at Place) bool { return at.Interface == name })
		if n < 0 {
			n = len(places)
			places = append(places, Place{Interface: name})
		}
		places[n].VIPs = append(places[n].VIPs, p)
	}
	return places
}

// linkCondition is how the interfaces are that i cannot do without.
func (ls links) linkCondition(i Instance) Condition {
	own, ok := ls[i.Interface]
	c := Condition{Self: own.primaryAddr(i), IsLink: true}
	for _, p := range i.Places() {
		switch l, ok := ls[p.Interface]; {
		case !ok:
			c.Fault = "no interface " + p.Interface
		case !l.up:
			c.Fault = p.Interface + " is down" // as with keepalived
		}
	}
	switch {
	case !ok:
		c.Fault = "no interface " + i.Interface
	case !own.up:
		c.Fault = i.Interface + " is down"
	case c.Fault != "":
	case !c.Self.IsValid() && i.Source.IsValid():
		c.Fault = fmt.Sprintf("no address %s on %s", i.Source, i.Interface)
	case !c.Self.IsValid() && i.isIPv4():
		c.Fault = "no IPv4 address on " + i.Interface
	case !c.Self.IsValid():
		c.Fault = "no IPv6 link-local address on " + i.Interface
	}
	for _, t := range i.Track {
		if !ls[t.Interface].up {
			c.weigh(-t.Weight, t.Interface+" is down")
		}
	}
	c.IsLink = c.Fault != ""
	return c
}

// weigh lets something that is not well take its weight, which is not above
// 0, off the priority; without a weight it is a fault.
func (c *Condition) weigh(weight int, why string) {
	c.Penalty -= weight
	if weight == 0 && c.Fault == "" {
		c.Fault = why
	}
}

// conditionFor is how the host is for i: the state of its interfaces, of the
// services that it answers for, and of what else is tracked. A service without
// a report counts as well.
func (ls links) conditionFor(i Instance, services map[string]bool, tracked readings) Condition {
	c := ls.linkCondition(i)
	for _, s := range i.TrackServices {
		if usable, known := services[s]; known && !usable {
			c.weigh(-i.TrackWeight, "no usable real server in "+s)
			break // one is enough: the weight counts once
		}
	}
	tracked.applyTo(&c, i)
	return c
}

// monitor hears that some interface or address has changed. It does not
// read what the kernel says in detail: after any message, or after too many
// of them, [readLinks] gives the whole truth.
type monitor struct{ file *os.File }

func newMonitor() (*monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscription to interface changes: %w", err)
	}
	return &monitor{os.NewFile(uintptr(fd), "rtnetlink")}, nil
}

// run puts a token into changed, which has room for one, whenever there was
// a change; it returns after close.
func (m *monitor) run(changed chan<- struct{}) {
	buf := make([]byte, 64<<10)
	for {
		// An overrun (ENOBUFS) means changes as well.
		if _, err := m.file.Read(buf); err != nil && !isOverrun(err) {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

func (m *monitor) close() { m.file.Close() }
