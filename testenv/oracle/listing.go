package oracle

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Connections lists what a director would list, in any order.
func (d *Director) Connections() []lb.Connection {
	var all []lb.Connection
	for k, f := range d.flows {
		if d.expired(f) {
			continue
		}
		all = append(all, lb.Connection{
			Service: f.real.service.conf.Name, Proto: k.proto, State: f.state,
			Expires: d.shown(d.timeout(f.state) - (d.now - f.seen)),
			Client:  k.client, Virtual: k.vip, Real: f.real.portFor(k.vip.Port()),
		})
	}
	for k, t := range d.templates {
		if t.expires >= d.now {
			all = append(all, d.templateConnection(k, t))
		}
	}
	return all
}

func (d *Director) templateConnection(k client, t *template) lb.Connection {
	conf := k.service.conf
	c := lb.Connection{
		Service: conf.Name, Template: true, State: "NONE", Expires: d.shown(t.expires - d.now),
		Client: netip.AddrPortFrom(k.addr, 0), Real: netip.AddrPortFrom(t.real.conf.Addr, 0),
	}
	if t.assured {
		c.State = "ASSURED"
	}
	if conf.ByMark() {
		m := conf.Mark
		c.Virtual = netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}), 0)
		return c
	}
	l := conf.Listeners[0]
	c.Proto, c.Virtual = l.Proto, netip.AddrPortFrom(l.Addr, l.First)
	c.Real = t.real.portFor(l.First)
	return c
}

// shown is the time of so many ticks in a listing: a second less than has
// begun.
func (d *Director) shown(ticks int64) time.Duration {
	return max(time.Duration(ticks)*d.world.Tick-time.Second, 0)
}

// Stats counts as a director would: services in order, reals in order, the
// sorry server while it stands in.
func (d *Director) Stats() []lb.ServiceStats {
	var all []lb.ServiceStats
	persist := map[*real]uint32{}
	for _, t := range d.templates {
		if t.expires >= d.now {
			persist[t.real]++
		}
	}
	for _, conf := range d.state.Services {
		v := d.services[conf.Name]
		s := lb.ServiceStats{Name: conf.Name, Counters: v.removed}
		for _, r := range v.reals {
			add(&s.Counters, r.counters)
		}
		for _, r := range v.listed() {
			act, inact := d.load(r)
			s.Reals = append(s.Reals, lb.RealStats{
				Addr: r.conf.Addr, Port: r.conf.Port, Counters: r.counters, Persist: persist[r],
				Active: uint32(act), Inactive: uint32(inact),
			})
		}
		all = append(all, s)
	}
	return all
}

// listed are the reals of a listing.
func (v *service) listed() []*real {
	var rs []*real
	for _, c := range v.conf.Reals {
		rs = append(rs, v.reals[c.Key()])
	}
	if s := v.sorry(); v.sched.idle() && s != nil && !slices.Contains(rs, s) {
		rs = append(rs, s)
	}
	return rs
}
