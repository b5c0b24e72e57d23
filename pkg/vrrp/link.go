package vrrp

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	list, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
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

// primaryAddr is the address that advertisements of i come from: the first of
// the family (IPv6: link-local) that is no VIP. An address owner may have no
// other than its VIP.
func (l link) primaryAddr(i Instance) netip.Addr {
	var own netip.Addr
	for _, p := range l.addrs {
		a := p.Addr()
		switch {
		case a.Is4() != i.isIPv4() || a.Is6() && !a.IsLinkLocalUnicast():
		case !vips.Has(i.Addresses, a):
			return a
		case i.Priority == 255 && !own.IsValid():
			own = a
		}
	}
	return own
}

// hasVIPs reports whether l has all VIPs of i.
func (l link) hasVIPs(i Instance) bool {
	for _, p := range i.Addresses {
		if !vips.Has(l.addrs, p.Addr()) {
			return false
		}
	}
	return true
}

// conditionFor is how the host is for i: the state of its interfaces and of
// the services it answers for. A service without a report counts
// as well.
func (ls links) conditionFor(i Instance, services map[string]bool) Condition {
	own, ok := ls[i.Interface]
	c := Condition{Self: own.primaryAddr(i)}
	switch {
	case !ok:
		c.Fault = "no interface " + i.Interface
	case !own.up:
		c.Fault = i.Interface + " is down"
	case !c.Self.IsValid() && i.isIPv4():
		c.Fault = "no IPv4 address on " + i.Interface
	case !c.Self.IsValid():
		c.Fault = "no IPv6 link-local address on " + i.Interface
	}
	weigh := func(weight int, why string) {
		c.Penalty += weight
		if weight == 0 && c.Fault == "" {
			c.Fault = why
		}
	}
	for _, t := range i.Track {
		if !ls[t.Interface].up {
			weigh(t.Weight, t.Interface+" is down")
		}
	}
	for _, s := range i.TrackServices {
		if usable, known := services[s]; known && !usable {
			weigh(i.TrackWeight, "no usable real server in "+s)
			break // one is enough: the weight counts once
		}
	}
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
