package oracle

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Host is how frames reach an address on the segment.
type Host struct {
	MAC     [6]byte
	Source  [6]byte // of the director's interface that they leave by
	IfIndex int
	MTU     int
	From    netip.Addr // the director's address that an outer header has as source
	Far     bool       // a router is between: MAC is the router's
	Local   bool       // the address is the director's
	Silent  bool       // it does not answer ARP
}

// World is what surrounds the director.
type World struct {
	MAC         [6]byte       // of the interface that frames come by
	IfIndex     int           // its number
	MTU         int           // of that interface
	Generic     bool          // the program runs in generic mode
	IPv6        bool          // it serves IPv6 too
	Own         []netip.Addr  // the director's addresses, besides VIPs
	Tick        time.Duration // of the packet path's clock
	Host        func(netip.Addr) Host
	Lives       func(lease uint32) bool // is the lease being renewed?
	ExpectsNews func() bool             // has it just taken over, and may yet be told of connections?
	Name        func(netip.Addr) uint32 // what connections of IPv6 know a client by

	// Way is how replies by NAT get to a client; false if that is not known.
	Way func(client netip.Addr) (Host, bool)

	// Order lists the VIPs' ports that a reply by NAT from a port may come from
	// now. Where a client has connections to several of them by one port of its
	// own, which nothing tells apart, the first of them is meant.
	Order func(proto lb.Protocol, from netip.AddrPort) []netip.AddrPort
}

// Director is the model. Make it with [New].
type Director struct {
	world     World
	now       int64 // ticks
	state     lb.State
	services  map[string]*service
	flows     map[tuple]*flow
	templates map[client]*template
	notes     map[datagram]note
}

// New is a director that serves nothing yet.
func New(w World) *Director {
	return &Director{
		world: w, services: map[string]*service{}, flows: map[tuple]*flow{},
		templates: map[client]*template{}, notes: map[datagram]note{},
	}
}

// service is a virtual service: one in force, or one that was removed and
// whose connections still live.
type service struct {
	conf    lb.Service
	there   bool
	reals   map[netip.AddrPort]*real
	sched   *scheduler
	rows    []row       // of a stateless service
	relaid  bool        // its rows have changed since the last sweep
	removed lb.Counters // of reals that were forgotten
}

// real is a real server of a service: one in force, or one that was removed
// and is remembered for its connections. When it returns it is the same one.
type real struct {
	conf      lb.Real
	service   *service
	there     bool
	unchecked bool // out only until it has been checked
	host      Host
	mac       [6]byte // the last that was known
	counters  lb.Counters
	live      bool // connections or templates referred to it at this sweep
	idle      int  // sweeps since it was removed in which none did
}

// reachable reports whether packets can be sent to r at all.
func (r *real) reachable() bool { return r.there && (r.host.Local || r.mac != [6]byte{}) }

// usable reports whether r may get new connections.
func (r *real) usable() bool { return r.there && !r.host.Silent && r.conf.Weight > 0 }

// isAwaited reports whether no real of v is usable, and one may yet turn out
// to be.
func (v *service) isAwaited() bool {
	isUsable := func(c lb.Real) bool { return v.reals[c.Key()].usable() }
	return !slices.ContainsFunc(v.conf.Reals, isUsable) && slices.ContainsFunc(v.conf.Absent, func(c lb.Real) bool { return c.Unchecked && c.Weight > 0 })
}

// Apply puts a state in force.
func (d *Director) Apply(s lb.State) {
	d.state = s.Clone()
	for _, conf := range d.state.Services {
		v, ok := d.services[conf.Name]
		if !ok {
			v = &service{reals: map[netip.AddrPort]*real{}}
			d.services[conf.Name] = v
		}
		if !v.there {
			v.sched = &scheduler{} // a service that returns begins its list anew
		}
		isSame := v.sched.name == conf.Scheduler && (v.sched.flags^conf.Flags)&(lb.SHPort|lb.MHPort) == 0
		v.conf, v.there = conf, true
		d.settle(v)
		d.layRows(v, !ok, isSame)
	}
	for name, v := range d.services {
		if _, ok := d.state.Service(name); !ok {
			v.there, v.rows = false, nil
			for _, r := range v.reals {
				r.there, r.unchecked = false, false
			}
		}
	}
}

// settle brings the reals of a service in line with its configuration.
func (d *Director) settle(v *service) {
	for _, r := range v.reals {
		r.there = false
		r.unchecked = slices.ContainsFunc(v.conf.Absent, func(c lb.Real) bool { return c.Unchecked && c.Key() == r.conf.Key() })
	}
	conf := slices.Clone(v.conf.Reals)
	sorry := lb.Real{Addr: v.conf.Sorry, Weight: 1}
	if v.conf.Sorry.IsValid() && !slices.ContainsFunc(conf, sorry.Same) {
		conf = append(conf, sorry)
	}
	for _, c := range conf {
		r, ok := v.reals[c.Key()]
		if !ok {
			r = &real{service: v}
			v.reals[c.Key()] = r
		}
		r.conf, r.there, r.host, r.idle = c, true, d.world.Host(c.Addr), 0
		isMapped := r.host.Local && c.Forward == lb.NAT && c.Port != 0 // on this host no port is changed
		r.host.Silent = r.host.Silent || isMapped || r.host.Far && c.Forward == lb.DR
		if r.host.MAC != ([6]byte{}) {
			r.mac = r.host.MAC
		}
	}
	// The schedulers' list: those that answer, the last of the file first.
	var list []*real
	for _, c := range slices.Backward(v.conf.Reals) {
		if r := v.reals[c.Key()]; !r.host.Silent && (c.Weight > 0 || !v.conf.KeepsNoFlows()) {
			list = append(list, r)
		}
	}
	v.sched.update(v.conf, list)
}

// sorry is the server that stands in while no real is usable, nil if none
// does.
func (v *service) sorry() *real {
	if !v.conf.Sorry.IsValid() {
		return nil
	}
	if r := v.reals[netip.AddrPortFrom(v.conf.Sorry, 0)]; r != nil && r.there && !r.host.Silent {
		return r
	}
	return nil
}

// Pass lets time pass.
func (d *Director) Pass(ticks int) { d.now += int64(ticks) }

// Sweep is what the daemon does every few seconds: it ends what has expired,
// renews templates, and forgets removed reals in the third sweep that finds no
// reference to them.
func (d *Director) Sweep() {
	for _, v := range d.services {
		for _, r := range v.reals {
			r.live = false
		}
	}
	for k, f := range d.flows {
		if d.expired(f) {
			delete(d.flows, k)
			continue
		}
		f.real.live = true
		d.renew(k, f)
		d.noteRow(k, f)
	}
	for k, t := range d.templates {
		if t.expires < d.now {
			delete(d.templates, k)
			continue
		}
		t.real.live = true
	}
	for _, v := range d.services {
		d.settleRows(v)
	}
	for name, v := range d.services {
		for k, r := range v.reals {
			if r.there || r.live {
				r.idle = 0
			} else if r.idle++; r.idle == 3 {
				add(&v.removed, r.counters)
				delete(v.reals, k)
			}
		}
		if !v.there && len(v.reals) == 0 {
			delete(d.services, name)
		}
	}
}

// ticks is a duration on the packet path's clock, rounded up.
func (d *Director) ticks(t time.Duration) int64 {
	return int64((t + d.world.Tick - 1) / d.world.Tick)
}

func add(to *lb.Counters, c lb.Counters) {
	to.Conns += c.Conns
	to.InPkts += c.InPkts
	to.InBytes += c.InBytes
	to.OutPkts += c.OutPkts
	to.OutBytes += c.OutBytes
}
