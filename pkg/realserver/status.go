package realserver

import (
	"net/netip"
	"slices"
)

// Status is what this host is to its VIPs.
type Status struct {
	VIPs     []VIP
	Settings []Setting // of all, lo and the interfaces of the IPv4 VIPs
}

// VIP is one VIP of a [Status].
type VIP struct {
	Addr      netip.Addr
	OnLo      bool
	Ours      bool     // put there by [Up]
	Interface string   // the one that faces its segment; "" if unknown
	Elsewhere []string // other interfaces that have it, and may answer ARP for it
}

// Setting is one ARP setting.
type Setting struct {
	Name  string // "net.ipv4.conf.all.arp_ignore"
	Value string
	Want  string
}

// Ready reports whether the host serves all of the VIPs as a real server must.
func (s Status) Ready() bool {
	for _, v := range s.VIPs {
		if !v.OnLo || len(v.Elsewhere) > 0 {
			return false
		}
	}
	for _, x := range s.Settings {
		if x.Value != x.Want {
			return false
		}
	}
	return len(s.VIPs) > 0
}

// Inspect tells how things stand for the given VIPs, or for those that are up
// if none is given. It changes nothing and needs no privileges.
func Inspect(o Options) (Status, error) {
	remembered, err := load(o.file())
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
	asked := &state{}
	for _, addr := range vips {
		v, err := inspect(addr, o.Interface, remembered)
		if err != nil {
			return Status{}, err
		}
		st.VIPs = append(st.VIPs, v)
		asked.VIPs = append(asked.VIPs, record{Addr: addr, Interface: v.Interface})
	}
	for _, k := range asked.needs() {
		if k.scope == "" {
			continue
		}
		now, err := k.read()
		if err != nil {
			return Status{}, err
		}
		st.Settings = append(st.Settings, Setting{Name: k.String(), Value: now, Want: k.want()})
	}
	return st, nil
}

func inspect(addr netip.Addr, nic string, remembered *state) (VIP, error) {
	places, err := find(addr)
	if err != nil {
		return VIP{}, err
	}
	v := VIP{Addr: addr, OnLo: slices.Contains(places, lo), Interface: nic}
	v.Elsewhere = slices.DeleteFunc(places, func(p string) bool { return p == lo })
	if i := remembered.find(addr); i >= 0 {
		v.Ours = v.OnLo && !remembered.VIPs[i].Before
		if nic == "" {
			v.Interface = remembered.VIPs[i].Interface
		}
	}
	if v.Interface == "" {
		v.Interface, _ = facing(addr) // not known is what "" says
	}
	return v, nil
}
