package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	"github.com/lvx-lb/lvx/pkg/vip"
)

// Tunnel is what the packets to a real server come in.
type Tunnel string

// IPIP is IPv4 in IPv4 (RFC 2003).
const IPIP Tunnel = "ipip"

// tunnelDevice is the kernel's own IPIP device. It takes packets from every
// director, and the module makes it by itself.
const tunnelDevice = "tunl0"

// errNoTunnel is returned where the kernel cannot decapsulate.
var errNoTunnel = errors.New("this kernel has no IPIP device (CONFIG_NET_IPIP; where it is a module: modprobe ipip); " +
	"use direct routing, or decapsulate before the kernel, for example with XDP")

// fitsTunnel reports whether packets for a VIP can come by a tunnel.
func fitsTunnel(vip netip.Addr, t Tunnel) error {
	switch {
	case t == "":
		return nil
	case !t.IsTunnel():
		return fmt.Errorf("tunnel %q: not one that lvx sets up (want ipip, gue or gue:PORT)", t)
	case !vip.Is4():
		return fmt.Errorf("VIP %s: no tunnel for IPv6 (want an IPv4 VIP)", vip)
	}
	return nil
}

// openTunnel makes this host take packets out of the tunnel: the device is there
// and up, and has the VIP. Without an address there is no
// loose reverse-path filter (the kernel's __fib_validate_source).
func (r *reporter) openTunnel(s *state, addr netip.Addr) error {
	if port := s.VIPs[s.find(addr)].Tunnel.guePort(); port != 0 {
		if err := r.openPort(s, port); err != nil {
			return err
		}
	}
	link, err := findTunnel()
	if err != nil {
		return err
	}
	isUp := link.Attrs().Flags&unix.IFF_UP != 0
	if _, known := s.Devices[tunnelDevice]; !known {
		s.Devices[tunnelDevice] = isUp
		if err := s.save(); err != nil {
			return err
		}
	}
	added, err := vip.Add(link.Attrs().Index, []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())})
	if err != nil {
		return err
	}
	if added > 0 {
		r.say("%s: put on %s", addr, tunnelDevice)
	}
	if isUp {
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: up: %w", tunnelDevice, err)
	}
	r.say("%s: up", tunnelDevice)
	return nil
}

// findTunnel finds the kernel's device. Asking for it loads the module.
func findTunnel() (netlink.Link, error) {
	link, err := netlink.LinkByName(tunnelDevice)
	if err == nil {
		return link, nil
	}
	err = netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: tunnelDevice}})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, errNoTunnel
	case err != nil && !errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("interface %s: %w", tunnelDevice, err)
	}
	if link, err = netlink.LinkByName(tunnelDevice); err != nil {
		return nil, fmt.Errorf("interface %s: %w", tunnelDevice, err)
	}
	return link, nil
}

// leaveTunnel takes a VIP off the tunnel's device, unless it was there before.
func (r *reporter) leaveTunnel(v record) error {
	if v.Tunnel == "" {
		return nil
	}
	link, err := netlink.LinkByName(tunnelDevice)
	if err != nil {
		return nil // and the VIP with it
	}
	list, _, err := vip.List(link.Attrs().Index)
	if err != nil || !vip.Has(list, v.Addr) {
		return err
	}
	if v.BeforeTunnel {
		r.say("%s: stays on %s, where it was before", v.Addr, tunnelDevice)
		return nil
	}
	r.say("%s: taken off %s", v.Addr, tunnelDevice)
	return vip.Remove(link.Attrs().Index, []netip.Prefix{netip.PrefixFrom(v.Addr, v.Addr.BitLen())})
}

// closeTunnel takes the device down again once no VIP needs it.
func (r *reporter) closeTunnel(s *state) error {
	if len(s.Devices) == 0 {
		return nil
	}
	if err := r.lowerSegments(s); err != nil {
		return err
	}
	if err := r.closePorts(s); err != nil {
		return err
	}
	if slices.ContainsFunc(s.VIPs, func(v record) bool { return v.Tunnel != "" }) {
		return nil
	}
	wasUp, known := s.Devices[tunnelDevice]
	if !known {
		return nil
	}
	if link, err := netlink.LinkByName(tunnelDevice); err == nil && !wasUp {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("interface %s: down: %w", tunnelDevice, err)
		}
		r.say("%s: down again", tunnelDevice)
	}
	delete(s.Devices, tunnelDevice)
	return s.save()
}

// judgeTunnel says what keeps packets in the tunnel to v from being taken out of
// it, and from coming at all.
func judgeTunnel(v VIP) (faults []string, settings []Setting, err error) {
	links, err := kernellist.Complete(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("interfaces: %w", err)
	}
	i := slices.IndexFunc(links, takesTunnels)
	if i < 0 {
		faults = append(faults, "no tunnel device is up: what comes in the tunnel is refused")
	} else {
		filter, fault, err := judgeReversePath(links[i])
		if err != nil {
			return nil, nil, err
		}
		settings = append(settings, filter)
		if fault != "" {
			faults = append(faults, fault)
		}
	}
	if port := v.Tunnel.guePort(); port != 0 {
		isOpen, err := hasPort(port)
		if err != nil {
			return nil, nil, err
		}
		if !isOpen {
			faults = append(faults, fmt.Sprintf("nothing takes packets out of GUE at UDP port %d: what comes in the tunnel is refused", port))
		}
	}
	segment, err := judgeSegment(v)
	if err != nil || segment.Name == "" {
		return faults, settings, err
	}
	return faults, append(settings, segment), nil
}

// takesTunnels reports whether a device takes the packets of every director.
func takesTunnels(link netlink.Link) bool {
	t, isTunnel := link.(*netlink.Iptun)
	return link.Attrs().Flags&unix.IFF_UP != 0 &&
		(link.Attrs().Name == tunnelDevice || isTunnel && (t.FlowBased || t.Remote == nil || t.Remote.IsUnspecified()))
}

// judgeReversePath reports whether the kernel takes clients' packets from a
// tunnel device: the way back to the clients leads elsewhere.
func judgeReversePath(link netlink.Link) (filter Setting, fault string, err error) {
	name := link.Attrs().Name
	value := 0
	for _, k := range []key{{"all", reversePath}, {name, reversePath}} {
		text, err := k.read()
		if err != nil {
			return Setting{}, "", err
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return Setting{}, "", fmt.Errorf("%s: %w", k, err)
		}
		value = max(value, n)
	}
	filter = Setting{Name: "rp_filter of " + name, Value: value, Want: wanted[reversePath], Faulty: value == 1}
	own, err := kernellist.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return Setting{}, "", fmt.Errorf("addresses of %s: %w", name, err)
	}
	if value != 0 && len(own) == 0 {
		fault = fmt.Sprintf("%s has no address: with rp_filter %d the kernel drops what comes out of the tunnel", name, value)
	}
	return filter, fault, nil
}
