package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// batch is how many requests go to the kernel in one message: their
// answers must fit the socket's receive buffer.
const batch = 64

// addrMutex makes looking at an interface and changing it one step within this
// process: virtual routers and the VIPs of no instance share interfaces.
var addrMutex sync.Mutex

// List lists the addresses of interface index, and those of them that
// the kernel calls secondary.
func List(index int) (all, secondary []netip.Prefix, err error) {
	list, err := netlink.AddrList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("addresses of interface %d: %w", index, err)
	}
	for _, a := range list {
		all = append(all, PrefixOf(a))
		if a.Flags&unix.IFA_F_SECONDARY != 0 && a.IP.To4() != nil {
			secondary = append(secondary, PrefixOf(a))
		}
	}
	return all, secondary, nil
}

// PrefixOf is an address with its prefix length as the kernel lists it.
func PrefixOf(a netlink.Addr) netip.Prefix {
	addr, _ := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

// Add makes sure that interface index has the addresses ps and counts
// those that were missing. An address that is there already, with whatever
// prefix length, is adopted as it is.
func Add(index int, ps []netip.Prefix) (added int, err error) {
	addrMutex.Lock()
	defer addrMutex.Unlock()
	have, _, err := List(index)
	if err != nil {
		return 0, err
	}
	missing := slices.DeleteFunc(slices.Clone(ps), func(p netip.Prefix) bool { return Has(have, p.Addr()) })
	err = changeAddrs(unix.RTM_NEWADDR, index, missing)
	return len(missing), err
}

// Remove takes the addresses of ps off interface index and nothing else,
// whatever their prefix lengths. What is removed already, or with its
// interface, is success.
func Remove(index int, ps []netip.Prefix) error {
	return removeWhere(index, func(p netip.Prefix) bool { return Has(ps, p.Addr()) })
}

// removeExactly spares an address of ps that the interface has with another
// prefix length: it is the host's own.
func removeExactly(index int, ps []netip.Prefix) error {
	return removeWhere(index, func(p netip.Prefix) bool { return slices.Contains(ps, p) })
}

func removeWhere(index int, isMeant func(netip.Prefix) bool) error {
	addrMutex.Lock()
	defer addrMutex.Unlock()
	have, secondary, err := List(index)
	if err != nil {
		return err
	}
	removed := slices.DeleteFunc(have, func(p netip.Prefix) bool { return !isMeant(p) })
	if len(removed) == 0 {
		return nil
	}
	slices.Reverse(removed) // secondaries first, or they go with their primary
	return errors.Join(changeAddrs(unix.RTM_DELADDR, index, removed), restoreSecondaries(index, removed, secondary))
}

// restoreSecondaries brings back what the kernel took away with a primary address of
// removed: without promote_secondaries all others of its subnet (__inet_del_ifa
// in net/ipv4/devinet.c).
func restoreSecondaries(index int, removed, secondary []netip.Prefix) error {
	lost := slices.DeleteFunc(slices.Clone(secondary), func(p netip.Prefix) bool {
		with := func(g netip.Prefix) bool { return g.Masked() == p.Masked() && !slices.Contains(secondary, g) }
		return slices.Contains(removed, p) || !slices.ContainsFunc(removed, with)
	})
	if len(lost) == 0 {
		return nil
	}
	return changeAddrs(unix.RTM_NEWADDR, index, lost) // those that are still there are no error
}

// Has reports whether addr is among ps, whatever its prefix length.
func Has(ps []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Addr() == addr })
}

// changeAddrs asks the kernel for one change per address, many in one
// message: one by one, hundreds of VIPs would delay a failover.
func changeAddrs(op uint16, index int, ps []netip.Prefix) error {
	var errs []error
	for part := range slices.Chunk(ps, batch) {
		failed, err := sendRequests(op, index, part)
		if err != nil {
			return fmt.Errorf("addresses of interface %d: %w", index, err)
		}
		errs = append(errs, failed...)
	}
	return errors.Join(errs...)
}

func sendRequests(op uint16, index int, ps []netip.Prefix) (failed []error, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// Answers come at once or never; the limit is for "never".
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // shorter answers
	var msg []byte
	for i, p := range ps {
		msg = appendRequest(msg, op, uint32(i), index, p)
	}
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for answers := 0; answers < len(ps); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || int(m.Header.Seq) >= len(ps) {
				continue
			}
			answers++
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if errno != 0 && !alreadyDone(op, errno) {
				failed = append(failed, fmt.Errorf("address %s: %w", ps[m.Header.Seq], errno))
			}
		}
	}
	return failed, nil
}

// alreadyDone reports whether the kernel refused a change because it is already
// as wanted.
func alreadyDone(op uint16, errno syscall.Errno) bool {
	if op == unix.RTM_NEWADDR {
		return errno == unix.EEXIST
	}
	return errno == unix.EADDRNOTAVAIL || errno == unix.ENODEV
}

// appendRequest appends one RTM_NEWADDR or RTM_DELADDR request. IPv6
// addresses come without duplicate address detection: it would keep them
// unusable for a second, and VRRP has settled whose they are.
func appendRequest(b []byte, op uint16, seq uint32, index int, p netip.Prefix) []byte {
	addr := p.Addr().AsSlice()
	attr := unix.SizeofRtAttr + len(addr)
	hdr := unix.NlMsghdr{
		Len:   uint32(unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg + 2*attr),
		Type:  op,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK,
		Seq:   seq,
	}
	ifa := unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: uint8(p.Bits()), Index: uint32(index)}
	if p.Addr().Is6() {
		ifa.Family, ifa.Flags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	if op == unix.RTM_NEWADDR {
		hdr.Flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	b = append(b, (*[unix.SizeofNlMsghdr]byte)(unsafe.Pointer(&hdr))[:]...)
	b = append(b, (*[unix.SizeofIfAddrmsg]byte)(unsafe.Pointer(&ifa))[:]...)
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		b = binary.NativeEndian.AppendUint16(b, uint16(attr))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, addr...)
	}
	return b
}
