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

	"github.com/lvx-lb/lvx/internal/kernellist"
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
	list, err := kernellist.Complete(func() ([]netlink.Addr, error) {
		return netlink.AddrList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, netlink.FAMILY_ALL)
	})
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

// request is one change of what an interface has.
type request struct {
	op     uint16 // RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE
	prefix netip.Prefix
}

// changeAddrs asks the kernel for one change per address, many in one
// message: one by one, hundreds of VIPs would delay a failover.
func changeAddrs(op uint16, index int, ps []netip.Prefix) error {
	var errs []error
	for part := range slices.Chunk(requests(op, index, ps), batch) {
		failed, err := sendRequests(index, part)
		if err != nil {
			return fmt.Errorf("addresses of interface %d: %w", index, err)
		}
		errs = append(errs, failed...)
	}
	return errors.Join(errs...)
}

// requests are what adds or removes addresses. An IPv6 address is
// local only when a work queue of the kernel's has come to it (addrconf_dad_work
// in net/ipv6/addrconf.c), which takes up to a tenth of a second on a busy host:
// what arrives meanwhile is lost. A local route of lvx's own counts at once, and
// goes with the address. What a real server has on lo is in no haste, and is gone
// with the address alone, whoever takes it off.
func requests(op uint16, index int, ps []netip.Prefix) (rs []request) {
	for _, p := range ps {
		if op == unix.RTM_DELADDR && p.Addr().Is6() {
			rs = append(rs, request{unix.RTM_DELROUTE, p})
		}
		rs = append(rs, request{op, p})
		if op == unix.RTM_NEWADDR && p.Addr().Is6() && index != loopback {
			rs = append(rs, request{unix.RTM_NEWROUTE, p})
		}
	}
	return rs
}

func sendRequests(index int, rs []request) (failed []error, err error) {
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
	for i, r := range rs {
		msg = r.append(msg, uint32(i), index)
	}
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for answers := 0; answers < len(rs); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR { // a socket with a time limit is not asked again by itself (signal(7))
			continue
		}
		if err != nil {
			return nil, err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || int(m.Header.Seq) >= len(rs) {
				continue
			}
			answers++
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if r := rs[m.Header.Seq]; errno != 0 && !r.isDone(errno) {
				failed = append(failed, fmt.Errorf("address %s: %w", r.prefix, errno))
			}
		}
	}
	return failed, nil
}

// isDone reports whether a refusal is none: it is as wanted already, or a route
// was refused, without which the address serves all the same.
func (r request) isDone(errno syscall.Errno) bool {
	switch r.op {
	case unix.RTM_NEWADDR:
		return errno == unix.EEXIST
	case unix.RTM_DELADDR:
		return errno == unix.EADDRNOTAVAIL || errno == unix.ENODEV
	}
	return true
}

func (r request) append(b []byte, seq uint32, index int) []byte {
	hdr := unix.NlMsghdr{Type: r.op, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK, Seq: seq}
	if r.op == unix.RTM_NEWADDR || r.op == unix.RTM_NEWROUTE {
		hdr.Flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	body := r.appendAddr
	if r.op == unix.RTM_NEWROUTE || r.op == unix.RTM_DELROUTE {
		body = r.appendRoute
	}
	begin := len(b)
	b = append(b, make([]byte, unix.SizeofNlMsghdr)...)
	b = body(b, index)
	hdr.Len = uint32(len(b) - begin)
	copy(b[begin:], (*[unix.SizeofNlMsghdr]byte)(unsafe.Pointer(&hdr))[:])
	return b
}

// appendAddr appends an address. One of IPv6 comes without duplicate address
// detection: it would keep it unusable for a second, and VRRP has settled whose
// it is. It is deprecated, so that connections of this host's own come from another
// address as long as there is one (RFC 6724 section 5): of two in a network the kernel
// would take the newer one, and before both one with a longer prefix.
func (r request) appendAddr(b []byte, index int) []byte {
	ifa := unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: uint8(r.prefix.Bits()), Index: uint32(index)}
	if r.prefix.Addr().Is6() {
		ifa.Family, ifa.Flags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	b = append(b, (*[unix.SizeofIfAddrmsg]byte)(unsafe.Pointer(&ifa))[:]...)
	b = appendAttr(b, unix.IFA_LOCAL, r.prefix.Addr().AsSlice())
	b = appendAttr(b, unix.IFA_ADDRESS, r.prefix.Addr().AsSlice())
	if r.op == unix.RTM_NEWADDR && r.prefix.Addr().Is6() {
		b = appendAttr(b, unix.IFA_CACHEINFO, deprecated)
	}
	return b
}

// deprecated is struct ifa_cacheinfo (linux/if_addr.h): preferred at no time, valid without an end.
var deprecated = []byte{4: 0xff, 5: 0xff, 6: 0xff, 7: 0xff, 15: 0}

// loopback is the index of lo in every namespace (LOOPBACK_IFINDEX).
const loopback = 1

// localMetric is the metric of a local route of lvx's: the kernel's own has 0.
const localMetric = 1

// appendRoute appends the local route of an IPv6 address.
func (r request) appendRoute(b []byte, index int) []byte {
	rtm := unix.RtMsg{
		Family: unix.AF_INET6, Dst_len: 128, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL,
		Protocol: unix.RTPROT_STATIC, Scope: unix.RT_SCOPE_UNIVERSE,
	}
	b = append(b, (*[unix.SizeofRtMsg]byte)(unsafe.Pointer(&rtm))[:]...)
	b = appendAttr(b, unix.RTA_DST, r.prefix.Addr().AsSlice())
	b = appendAttr(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	return appendAttr(b, unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, localMetric))
}

// appendAttr appends an attribute, whose value is a multiple of four bytes long.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}
