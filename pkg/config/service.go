package config

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// maxPersist is the longest persistence timeout: INT_MAX / HZ at the largest
// HZ there is, 1000, as ip_vs_ctl.c limits its timeouts; 24 days.
const maxPersist = 2147483 * time.Second

// markKinds are the names that marks are told apart by: as for the kernel, one
// mark may be a service of either family (ip_vs_svc_fwm_hash).
var markKinds = map[bool]string{false: "mark", true: "mark of IPv6"}

// service is a service with the places that later comparisons blame.
type service struct {
	Service
	object   *object
	listens  []*cursor // for every entry of Listeners
	portless bool      // all listeners are for every port
	realsAt  []realAt
	macs     map[netip.Addr]boundMAC
}

// boundMAC is the MAC of a real server that the file gives.
type boundMAC struct {
	mac [6]byte
	at  *cursor
}

// service reads one entry of services.
func (d *decoder) service(c *cursor, backend Backend) service {
	o := c.object()
	s := service{object: o}
	s.Line = c.line
	s.Name = need(o, "name", "a name that no other service has", name)
	if s.Name != "" {
		o.at("name").unique("service", s.Name, quoted(s.Name))
	}
	listeners(&s)
	s.Mark = get(o, "mark", 0, number[uint32](1, 1<<32-1))
	s.Scheduler = get(o, "scheduler", lb.WLC, oneOf("a scheduler", lb.Schedulers()...))
	s.Flags = flags(o, s.Scheduler)
	s.OnePacket = get(o, "ops", false, boolean)
	s.Stateless = get(o, "stateless", false, boolean)
	s.Persistence = get(o, "persistence", lb.Persistence{}, persistence(s.bits()))
	s.Deny, s.Allow = clients(o)
	s.OnDown = get(o, "on_down", Remove, oneOf("a way to go", Remove, Quiesce))
	s.Hooks = get(o, "hooks", Hooks{}, hooks)
	s.Quorum = get(o, "quorum", 1, number(1, 1<<24))
	s.Hysteresis = get(o, "hysteresis", 0, number(0, 1<<24))
	sorry := get(o, "sorry_server", sorryServer{}, readSorry)
	s.Sorry, s.SorryPort, s.SorryForward, s.SorryEncap, s.SorryInhibit = sorry.addr, sorry.port, sorry.forward, sorry.encap, sorry.inhibit
	s.ForceClaim = get(o, "claim", "probe", oneOf("a way to take a VIP", "probe", "force")) == "force"
	way := get(o, "forward", way{}, forwarding)
	encap := get(o, "tunnel", nil, tunnel)
	common := get(o, "check", nil, checks)
	rs := need(o, "reals", "a list such as [{address: 192.0.2.11}]; [] is none", list(func(c *cursor) real {
		return readReal(c, real{
			way: way, tunnel: encap, forwards: o.at("forward"),
			checks: common, checked: o.at("check"),
		})
	}))
	if o.done() {
		s.compare()
		s.compareStateless(backend)
		s.reals(rs, backend)
	}
	return s
}

// listeners reads the listen of s and remembers where each one is.
func listeners(s *service) {
	need(s.object, "listen", `a list such as ["192.0.2.1:80/tcp"]`, list(func(c *cursor) struct{} {
		for _, l := range listen(c) {
			s.Listeners = append(s.Listeners, l)
			s.listens = append(s.listens, c)
		}
		return struct{}{}
	}))
	if at := s.object.at("listen"); at.key == "listen" && at.d.errors == s.object.before && len(s.Listeners) == 0 {
		at.errorf(`no listeners (want at least one such as "192.0.2.1:80/tcp")`)
	}
}

// sorryServer is who answers when no real server can.
type sorryServer struct {
	addr    netip.Addr
	port    uint16
	forward lb.Forward
	encap   lb.Encap
	inhibit bool
}

// readSorry reads an address, or a map with the way to it.
func readSorry(c *cursor) sorryServer {
	if c.node.ShortTag() != "!!map" {
		return sorryServer{addr: address(c)}
	}
	o := c.object()
	how, made := get(o, "forward", way{}, forwarding), get(o, "tunnel", nil, tunnel)
	s := sorryServer{
		addr:    need(o, "address", "the sorry server's IP address", address),
		port:    get(o, "port", 0, number[uint16](1, 65535)),
		forward: how.forward,
		encap:   encapsulation(o, how, made, o.at("forward")),
		inhibit: get(o, "inhibit", false, boolean),
	}
	if o.done() && s.port != 0 && s.forward != lb.NAT {
		o.at("port").errorf("%d with forward: %s (want no port: only nat can change it)", s.port, s.forward)
	}
	return s
}

// bits is the length of the service's addresses.
func (s *service) bits() int {
	if len(s.Listeners) > 0 && s.Listeners[0].Addr.Is6() {
		return 128
	}
	return 32
}

var flagNames = map[string]lb.SchedFlags{
	"sh-port": lb.SHPort, "sh-fallback": lb.SHFallback, "mh-port": lb.MHPort, "mh-fallback": lb.MHFallback,
}

// flags reads the scheduler's flags. Each begins with the scheduler's name.
func flags(o *object, s lb.Scheduler) lb.SchedFlags {
	var all lb.SchedFlags
	word := oneOf("a flag of a scheduler", "sh-port", "sh-fallback", "mh-port", "mh-fallback")
	get(o, "flags", nil, list(func(c *cursor) struct{} {
		f := word(c)
		if f != "" && s != "" && f[:2] != string(s) {
			c.errorf("%s with the scheduler %s (want it with %s)", f, s, f[:2])
		}
		all |= flagNames[f]
		return struct{}{}
	}))
	return all
}

// persistence reads true, false or a map. Bits is the length of the addresses
// that a netmask is for.
func persistence(bits int) read[lb.Persistence] {
	return func(c *cursor) lb.Persistence {
		if c.node.ShortTag() == "!!bool" {
			if boolean(c) {
				return lb.Persistence{Timeout: DefaultPersist}
			}
			return lb.Persistence{}
		}
		o := c.object()
		p := lb.Persistence{
			Timeout: get(o, "timeout", DefaultPersist, duration(time.Second, maxPersist, time.Second)),
			Prefix:  get(o, "netmask", 0, netmask(bits)),
		}
		o.done()
		return p
	}
}

// compare looks at what the keys of s say about each other.
func (s *service) compare() {
	first := s.Listeners[0]
	s.portless = !slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool { return !l.EveryPort() })
	for i, l := range s.Listeners {
		if l.Addr.Is4() != first.Addr.Is4() {
			s.listens[i].errorf("%s beside %s (want one family of addresses per service)", l, first)
		}
		if s.OnePacket && l.Proto != lb.UDP {
			s.object.at("ops").errorf("ops with the listener %s (want it where all listeners are UDP)", l)
			break
		}
	}
	if s.Hysteresis >= s.Quorum && s.Hysteresis > 0 {
		s.object.at("hysteresis").errorf("%d with a quorum of %d (want it smaller than quorum)", s.Hysteresis, s.Quorum)
	}
	if s.Sorry.IsValid() && s.Sorry.Is4() != first.Addr.Is4() {
		s.object.at("sorry_server").errorf("%s with the listener %s (want an address of the same family)", s.Sorry, first)
	}
	if s.Mark != 0 {
		s.object.at("mark").unique(markKinds[s.IsIPv6()], mark(s.Mark), mark(s.Mark))
	}
}

// real is a real server with what is checked of it.
type real struct {
	lb.Real
	way      way
	tunnel   *lb.Encap // what tunnel says, nil without it
	checks   []health.Spec
	own      RealOverrides
	object   *object
	checked  *cursor // where the checks are
	forwards *cursor // where forward is
	mac      [6]byte // zero: it is asked for
}

// readReal reads one entry of reals. What it leaves out is the service's.
func readReal(c *cursor, r real) real {
	o := c.object()
	r.object = o
	r.Addr = need(o, "address", "the real server's IP address", address)
	r.Port = get(o, "port", 0, number[uint16](1, 65535))
	r.Weight = get(o, "weight", 1, number[uint16](0, 65535))
	r.way = get(o, "forward", r.way, forwarding)
	r.tunnel = get(o, "tunnel", r.tunnel, tunnel)
	r.Upper = get(o, "upper_threshold", 0, number[uint32](0, 1<<32-1))
	r.Lower = get(o, "lower_threshold", 0, number[uint32](0, 1<<32-1))
	r.own.OnDown = get(o, "on_down", "", oneOf("a way to go", Remove, Quiesce))
	r.own.Hooks = get(o, "hooks", RealHooks{}, realHooks)
	r.mac = get(o, "mac", [6]byte{}, hardwareAddress)
	r.checks = get(o, "check", r.checks, checks)
	if o.has("check") {
		r.checked = o.at("check")
	}
	if o.has("forward") {
		r.forwards = o.at("forward")
	}
	r.Forward, r.Encap = r.way.forward, encapsulation(o, r.way, r.tunnel, r.forwards)
	if o.done() && r.Lower > r.Upper {
		o.at("lower_threshold").errorf("%d with an upper threshold of %d (want lower_threshold at most upper_threshold)", r.Lower, r.Upper)
	}
	return r
}

// reals takes the real servers into s, one by one.
func (s *service) reals(rs []real, backend Backend) {
	seen := map[netip.AddrPort]int{}
	weight := 0
	var own []RealOverrides
	hasOwn := false
	for _, r := range rs {
		s.fit(&r)
		at := r.object.at("address")
		if line, ok := seen[r.Key()]; ok {
			at.errorf("%s is there already, on line %d (want every real server of a service once)", r.Addr, line)
		}
		if backend == BackendXDP && r.Encap.Checksum != lb.NoChecksum {
			r.forwards.errorf("%s with %s and backend: xdp (want nocsum, or backend: auto or ipvs)", r.Way(), r.Encap.Checksum)
		}
		if backend == BackendXDP && r.Forward == lb.NAT && r.Addr.Is6() {
			r.forwards.errorf("%s with backend: xdp and IPv6 (want dr or a tunnel, or backend: auto or ipvs)", r.Forward)
		}
		seen[r.Key()] = at.line
		s.realsAt = append(s.realsAt, realAt{r.Addr, at})
		weight += int(r.Weight)
		s.Reals = append(s.Reals, r.Real)
		s.Checks = append(s.Checks, r.checks)
		own = append(own, r.own)
		hasOwn = hasOwn || r.own.OnDown != "" || r.own.Hooks.Up != nil || r.own.Hooks.Down != nil
		s.bindMAC(r)
	}
	if hasOwn {
		s.Own = own
	}
	if s.object.has("tunnel") && !slices.ContainsFunc(s.Reals, func(r lb.Real) bool { return r.Encap.Kind != lb.IPIP }) {
		s.object.at("tunnel").warnf("tunnel has no effect: no real server is reached by gue or gre")
	}
	switch at := s.object.at("reals"); {
	case len(rs) == 0:
		at.warnf("no real servers")
	case weight < s.Quorum+s.Hysteresis:
		at.warnf("the weights add up to %d, which is less than quorum + hysteresis, %d", weight, s.Quorum+s.Hysteresis)
	}
}

// fit reports whether r can serve what s listens on.
func (s *service) fit(r *real) {
	first := s.Listeners[0]
	if r.Addr.Is4() != first.Addr.Is4() && r.Forward != lb.Tunnel {
		r.object.at("address").errorf("%s behind the listener %s (want an address of the same family, or a tunnel)", r.Addr, first)
	}
	if r.Port != 0 && r.Forward != lb.NAT {
		if len(s.Listeners) != 1 || first.First != r.Port || first.Last != r.Port {
			r.object.at("port").errorf("%d with forward: %s (want no port: only nat can change it)", r.Port, r.Forward)
		}
		r.Port = 0 // the listener's
	}
	s.fitStateless(r)
	for _, spec := range r.checks {
		s.fitCheck(r, spec)
	}
}

// fitCheck reports whether a check can ask r.
func (s *service) fitCheck(r *real, spec health.Spec) {
	at := r.checked
	if asksPort(spec.Type) && spec.Port == 0 && r.Port == 0 && s.portless {
		at.errorf("no port in the %s check of a service that listens on every port (want port)", spec.Type)
	}
	if spec.Via == health.ViaVIP && r.Forward == lb.NAT {
		at.errorf("via: vip with forward: %s (want via: real: with nat no real server has the VIP)", r.Forward)
	}
	asked := r.Addr
	if spec.Address.IsValid() {
		asked = spec.Address
	}
	if spec.Source.IsValid() && spec.Source.Is4() != asked.Is4() {
		at.errorf("source %s with the real server %s (want an address of the same family)", spec.Source, asked)
	}
}
