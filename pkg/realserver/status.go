package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/vip"
)

// Status is what this host is to its VIPs.
type Status struct {
	VIPs     []VIP
	Settings []Setting // of the interfaces that the IPv4 VIPs face
}

// VIP is one VIP of a [Status].
type VIP struct {
	Addr      netip.Addr
	On        string // the interface that takes packets for it: lo, or one without ARP as a dummy; "" if none
	Ours      bool   // put there by [Up]
	Interface string // the one that faces its segment; "" if unknown
	Tunnel    Tunnel // what its packets come in; "" = none
	Faults    []string
}

// Setting is one setting as it acts on an interface or on a VIP's connections.
type Setting struct {
	Name        string // "arp_ignore of eth0"
	Value       int    // the larger of the interface's and that of "all", which the kernel goes by
	Want        string
	Faulty      bool
	UnreadTable string // table whose rules may lower Value and only root can read; "" = none
}

// IsReady reports whether the host serves all of the VIPs as a real server
// must.
func (s Status) IsReady() bool {
	for _, v := range s.VIPs {
		if len(v.Faults) > 0 {
			return false
		}
	}
	for _, x := range s.Settings {
		if x.Faulty {
			return false
		}
	}
	return len(s.VIPs) > 0
}

// remembered is what [Up] has changed.
func (o Options) remembered() (s *state, err error) {
	if o.Notes == nil {
		s, _, err = load(o.file())
		return s, err
	}
	_, err = o.Notes.change(func(known *state) ([]string, error) { s = known; return nil, nil })
	return s, err
}

// Inspect finds out how things stand for the given VIPs, or for those that are
// up if none is given. It judges what works, whoever set it and wherever. It
// changes nothing and needs no privileges: a setting that it cannot read whole
// is not faulty, and [Setting].UnreadTable names what is missing.
func Inspect(o Options) (Status, error) {
	remembered, err := o.remembered()
	if err != nil {
		return Status{}, err
	}
	vips := o.VIPs
	if len(vips) == 0 {
		for _, v := range remembered.VIPs {
			vips = append(vips, v.Addr)
		}
	}
	var st Status
	judged := map[Setting]bool{}
	for _, addr := range vips {
		v, places, err := inspectVIP(addr, o, remembered)
		if err != nil {
			return Status{}, err
		}
		var settings []Setting
		if v.Tunnel != "" {
			var faults []string
			if faults, settings, err = judgeTunnel(v); err != nil {
				return Status{}, err
			}
			v.Faults = append(v.Faults, faults...)
		}
		st.VIPs = append(st.VIPs, v)
		if addr.Is4() && v.Interface != "" {
			arp, err := judgeSettings(v, places)
			if err != nil {
				return Status{}, err
			}
			settings = append(arp, settings...)
		}
		for _, x := range settings {
			if !judged[x] {
				judged[x] = true
				st.Settings = append(st.Settings, x)
			}
		}
	}
	return st, nil
}

func inspectVIP(addr netip.Addr, o Options, remembered *state) (VIP, []found, error) {
	places, err := find(addr)
	if err != nil {
		return VIP{}, nil, err
	}
	v := VIP{Addr: addr, Interface: o.Interface, Tunnel: o.Tunnel}
	i := remembered.find(addr)
	if i >= 0 && v.Interface == "" {
		v.Interface = remembered.VIPs[i].Interface
	}
	if i >= 0 && v.Tunnel == "" {
		v.Tunnel = remembered.VIPs[i].Tunnel
	}
	if v.Interface == "" {
		v.Interface, _ = facing(addr) // not known is what "" says
	}
	if _, err := netlink.LinkByName(v.Interface); v.Interface != "" && errors.As(err, new(netlink.LinkNotFoundError)) {
		v.Faults = append(v.Faults, fmt.Sprintf("faces %s, which is not there (lvx real up --interface)", v.Interface))
		v.Interface = ""
	}
	for _, p := range places {
		switch {
		case p.name != lo && !p.noARP:
			v.Faults = append(v.Faults, fmt.Sprintf("also on %s, where it is answered for", p.name))
			continue
		case !p.prefix.IsSingleIP():
			v.Faults = append(v.Faults, fmt.Sprintf("%s on %s makes all of %s this host itself", p.prefix, p.name, p.prefix.Masked()))
		}
		if v.On == "" || p.name == lo {
			v.On = p.name
		}
	}
	if addr.Is6() {
		faults, err := proxyFaults(addr)
		if err != nil {
			return VIP{}, nil, err
		}
		v.Faults = append(v.Faults, faults...)
	}
	if v.On == "" {
		v.Faults = append([]string{"on no interface that takes packets for it"}, v.Faults...)
	}
	v.Ours = v.On == lo && i >= 0 && !remembered.VIPs[i].Before
	return v, places, nil
}

// judgeSettings reports how the interface that faces the segment answers
// questions about a VIP, and in whose name it asks. The kernel goes by the
// larger of the interface's value and that of "all" (IN_DEV_MAXCONF).
func judgeSettings(v VIP, places []found) ([]Setting, error) {
	values := map[string]int{}
	for _, k := range keys("all", v.Interface) {
		text, err := k.read()
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		values[k.name] = max(values[k.name], n)
	}
	ignore := Setting{Name: "arp_ignore of " + v.Interface, Value: values["arp_ignore"], Want: "1"}
	ignore.Faulty = !isSilent(ignore.Value, v, places)
	announce := Setting{Name: "arp_announce of " + v.Interface, Value: values["arp_announce"], Want: "2"}
	near, err := isInNetwork(v.Interface, v.Addr)
	announce.Faulty = announce.Value != 2 && (announce.Value != 1 || near)
	return []Setting{ignore, announce}, err
}

// isSilent reports whether an interface with this arp_ignore says nothing
// about a VIP that it does not have itself (arp_ignore in
// net/ipv4/arp.c). With 8 it says nothing about its own address either.
func isSilent(ignore int, v VIP, places []found) bool {
	if ignore == 3 {
		p, there := on(places, v.On)
		return there && p.scope == unix.RT_SCOPE_HOST
	}
	return ignore == 1 || ignore == 2
}

// isInNetwork reports whether an address is of a network of an interface: with
// arp_announce=1 the interface then asks in its name.
func isInNetwork(nic string, addr netip.Addr) (bool, error) {
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return false, fmt.Errorf("interface %s: %w", nic, err)
	}
	list, _, err := vip.List(link.Attrs().Index)
	for _, p := range list {
		if p.Contains(addr) {
			return true, err
		}
	}
	return false, err
}
