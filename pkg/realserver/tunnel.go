package realserver

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	"github.com/lvx-lb/lvx/pkg/vip"
)

// openTunnel makes this host take packets out of the tunnel: the device is there
// and up, and has the VIP if that is one of IPv4. Without an address there is no
// loose reverse-path filter (the kernel's __fib_validate_source).
func (r *reporter) openTunnel(s *state, v record) error {
	if port := v.Tunnel.port(); port != 0 {
		if err := r.openPort(s, v.Tunnel.family(), port); err != nil {
			return err
		}
	}
	name := v.Tunnel.device(v.Addr)
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	isUp := link.Attrs().Flags&unix.IFF_UP != 0
	if _, known := s.Devices[name]; !known {
		s.Devices[name] = isUp
		if err := s.save(); err != nil {
			return err
		}
	}
	if v.Addr.Is4() {
		added, err := vip.Add(link.Attrs().Index, []netip.Prefix{netip.PrefixFrom(v.Addr, v.Addr.BitLen())})
		if err != nil {
			return err
		}
		if added > 0 {
			r.say("%s: put on %s", v.Addr, name)
		}
	}
	if isUp {
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: up: %w", name, err)
	}
	r.say("%s: up", name)
	return nil
}

// addDevice sees to it that the device of a tunnel is there. Asking for one
// loads the module, which brings the kernel's own.
func (r *reporter) addDevice(s *state, name string) error {
	if _, err := netlink.LinkByName(name); err == nil {
		return nil
	}
	k := deviceKinds[name]
	err := netlink.LinkAdd(k.link(netlink.LinkAttrs{Name: name}))
	switch {
	case err == nil:
		r.say("%s: made", name)
		s.Made = append(s.Made, name)
		return s.save()
	case errors.Is(err, unix.EOPNOTSUPP):
		return k.missing()
	case !errors.Is(err, unix.EEXIST):
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if _, err := netlink.LinkByName(name); err != nil {
		return fmt.Errorf("interface %s: another %s device takes the packets of every tunnel already, and there can be one alone (remove it: ip -d link): %w", name, k.name, err)
	}
	return nil
}

// leaveTunnel takes a VIP off the tunnel's device, unless it was there before.
func (r *reporter) leaveTunnel(v record) error {
	if v.Tunnel == "" || v.Addr.Is6() {
		return nil
	}
	name := v.Tunnel.device(v.Addr)
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil // and the VIP with it
	}
	list, _, err := vip.List(link.Attrs().Index)
	if err != nil || !vip.Has(list, v.Addr) {
		return err
	}
	if v.BeforeTunnel {
		r.say("%s: stays on %s, where it was before", v.Addr, name)
		return nil
	}
	r.say("%s: taken off %s", v.Addr, name)
	return vip.Remove(link.Attrs().Index, []netip.Prefix{netip.PrefixFrom(v.Addr, v.Addr.BitLen())})
}

// closeTunnels undoes what no VIP needs any more: rules, ports and devices.
func (r *reporter) closeTunnels(s *state) error {
	if len(s.Devices) == 0 && len(s.Made) == 0 {
		return nil
	}
	if err := r.lowerSegments(s); err != nil {
		return err
	}
	if err := r.closePorts(s); err != nil {
		return err
	}
	names := append(slices.Sorted(maps.Keys(s.Devices)), s.Made...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if slices.ContainsFunc(s.VIPs, func(v record) bool { return v.Tunnel != "" && v.Tunnel.device(v.Addr) == name }) {
			continue
		}
		if err := r.closeDevice(s, name); err != nil {
			return err
		}
	}
	return nil
}

// closeDevice takes a device down again, or away if lvx has made it.
func (r *reporter) closeDevice(s *state, name string) error {
	wasUp, known := s.Devices[name]
	link, err := netlink.LinkByName(name)
	switch {
	case err != nil: // it is not there any more
	case slices.Contains(s.Made, name):
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("interface %s: remove: %w", name, err)
		}
		r.say("%s: removed", name)
		delete(s.Before, key{name, reversePath}.String())
	case known && !wasUp:
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("interface %s: down: %w", name, err)
		}
		r.say("%s: down again", name)
	}
	delete(s.Devices, name)
	s.Made = slices.DeleteFunc(s.Made, func(made string) bool { return made == name })
	return s.save()
}

// judgeTunnel says what keeps packets in the tunnel to v from being taken out of
// it, and from coming at all.
func judgeTunnel(v VIP) (faults []string, settings []Setting, err error) {
	links, err := kernellist.Complete(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("interfaces: %w", err)
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return v.Tunnel.isTakenBy(l, v.Addr) })
	switch {
	case i < 0:
		faults = append(faults, fmt.Sprintf("no tunnel device is up that takes %s (as %s does): what comes in the tunnel is refused",
			v.Tunnel.contents(v.Addr), v.Tunnel.device(v.Addr)))
	case v.Addr.Is6():
		if fault := judgeIPv6(links[i].Attrs().Name); fault != "" {
			faults = append(faults, fault)
		}
	default:
		filter, fault, err := judgeReversePath(links[i])
		if err != nil {
			return nil, nil, err
		}
		settings = append(settings, filter)
		if fault != "" {
			faults = append(faults, fault)
		}
	}
	if port := v.Tunnel.port(); port != 0 {
		isOpen, err := hasPort(v.Tunnel.family(), port)
		if err != nil {
			return nil, nil, err
		}
		if !isOpen {
			faults = append(faults, fmt.Sprintf("nothing takes packets out of GUE at UDP port %d over %s: what comes in the tunnel is refused", port, v.Tunnel.outer()))
		}
	}
	segment, err := judgeSegment(v)
	if err != nil || segment.Name == "" {
		return faults, settings, err
	}
	return faults, append(settings, segment), nil
}

// judgeIPv6 says that a tunnel device takes no IPv6.
func judgeIPv6(name string) (fault string) {
	text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"))
	if err == nil && strings.TrimSpace(string(text)) == "0" {
		return ""
	}
	return name + " takes no IPv6 (disable_ipv6, or an MTU below 1280): what comes out of the tunnel is dropped"
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
