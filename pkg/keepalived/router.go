package keepalived

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepalived's defaults of a VRRP instance, and lvx's bounds.
const (
	defaultPriority = 100
	maxPreempt      = 1000 * time.Second
	maxAdvertV3     = 40950 * time.Millisecond
	maxAdvertV2     = 255 * time.Second
	maxWeight       = 253
	passwordLength  = 8 // what an advertisement holds
)

// router is a vrrp_instance.
type router struct {
	item      *item
	name      string
	ifname    string
	vrid      uint64
	version   int
	priority  uint64
	advert    time.Duration
	authPass  string
	isAH      bool
	isMaster  bool
	noPreempt *Statement
	preempt   *time.Duration
	peers     []string
	tracks    []track
	addresses []vip
	source    *Statement // of unicast_src_ip or mcast_src_ip
	routes    []routed
	rules     []routed
	lines     []pair // of track_exec, track_file, track_process, track_bfd, each an entry
	group     string
	smtpAlert *Statement
	hooks     []roleHook // of one role
	all       []roleHook // of notify
	passes    []*Statement
}

// track is an interface that counts.
type track struct {
	name   string
	weight int
}

// readRouter reads a vrrp_instance.
func (m *mapper) readRouter(s *Statement) {
	r := &router{
		item: &item{from: s}, ifname: m.globals.ifname, priority: defaultPriority, advert: time.Second,
		version: m.globals.version,
	}
	for _, c := range s.Block {
		switch {
		case c.keyword == nil:
		case r.election(c), r.authenticated(c), r.sent(c), m.addressed(r, c), r.readRouting(c), m.tracked(r, c), r.notified(c, "INSTANCE", s.arg(0)):
		}
	}
	r.orderAddresses()
	switch {
	case r.vrid == 0:
		s.mark(Harmless, "keepalived ignores a vrrp_instance without a virtual_router_id")
	case !isInterface(r.ifname):
		s.mark(Lost, "%s is not the name of an interface", quote(r.ifname))
	case len(r.addresses) == 0:
		s.mark(Lost, "no address that lvx could own")
	case !m.takeID(r):
	default:
		m.completeRouter(r)
		r.name = m.unique("router ", s.arg(0))
		s.mark(Mapped, "")
		m.routers = append(m.routers, r)
		return
	}
	s.markBlock(s.verdict.Level, "of a vrrp_instance that is left out")
}

// takeID reports whether no other instance has the virtual router
// identifier on the same interface.
func (m *mapper) takeID(r *router) bool {
	id := fmt.Sprint(r.vrid, r.addresses[0].Addr().Is4(), r.ifname)
	where, isFree := m.take("vrid ", id, r.item.from)
	if !isFree {
		r.item.from.mark(Lost, "line %d has virtual_router_id %d on %s already", where.line, r.vrid, r.ifname)
	}
	return isFree
}

// election reads what decides who is master.
func (r *router) election(c *Statement) bool {
	switch c.Word {
	case "state":
		if r.isMaster = r.isMaster || c.arg(0) == "MASTER"; c.arg(0) == "MASTER" || c.arg(0) == "BACKUP" {
			c.mark(Harmless, "the priority decides who is master")
		}
		c.mark(Harmless, "keepalived takes %s for BACKUP", quote(c.arg(0)))
	case "virtual_router_id":
		r.vrid = or(r.vrid, count(c, 1, 255))
	case "priority":
		if n := count(c, 1, 255); n != nil {
			r.priority = *n
		} else {
			r.priority = defaultPriority
		}
	case "version":
		if n := count(c, 2, 3); n != nil {
			r.version = int(*n)
		}
	case "advert_int":
		r.advert = or(r.advert, seconds(c, 10*time.Millisecond))
	case "nopreempt":
		r.noPreempt = c
		c.mark(Mapped, "")
	case "preempt":
		c.mark(Mapped, "lvx's default")
	case "preempt_delay":
		r.preempt = first(seconds(c, 0), r.preempt)
	default:
		return false
	}
	return true
}

// authenticated reads what is about passwords. None of them is reported.
func (r *router) authenticated(c *Statement) bool {
	switch c.Word {
	case "authentication":
		c.mark(Mapped, "")
		for _, a := range c.Block {
			switch {
			case a.keyword == nil:
			case a.Word == "auth_type" && strings.ToUpper(a.arg(0)) == "AH":
				r.isAH = true
				a.mark(Lost, "lvx does not sign with IPSEC-AH: keepalived and lvx do not hear each other")
			case a.Word == "auth_type":
				a.mark(Mapped, "")
			case a.Word == "auth_pass":
				r.authPass = a.arg(0)
				r.passes = append(r.passes, a)
				a.mark(Mapped, "")
			}
		}
	case "auth_hmac":
		c.mark(Lost, "lvx signs no advertisements: keepalived and lvx do not hear each other")
		c.markBlock(Lost, "of a signature that lvx does not have")
	default:
		return false
	}
	return true
}

// sent reads where adverts come from and go to.
func (r *router) sent(c *Statement) bool {
	switch c.Word {
	case "interface":
		r.ifname = c.arg(0)
		c.mark(Mapped, "")
	case "unicast_peer":
		c.mark(Mapped, "")
		for _, p := range c.Block {
			addr, ok := parseAddress(p.Word)
			switch {
			case !ok:
				p.mark(Harmless, "keepalived ignores the peer %s", quote(p.Word))
			case slices.Contains(r.peers, addr.String()):
				p.mark(Harmless, "a peer that is there already")
			default:
				p.mark(Mapped, "")
				r.peers = append(r.peers, addr.String())
			}
		}
	case "unicast_src_ip", "mcast_src_ip":
		if r.source != nil {
			r.source.overrule(Harmless, "the last one counts")
		}
		r.source = c
	case "mcast_dst_ip":
		c.mark(Lost, "lvx sends to 224.0.0.18 and ff02::12")
	default:
		return false
	}
	return true
}

// tracked reads what lowers the priority or makes a fault.
func (m *mapper) tracked(r *router, c *Statement) bool {
	switch c.Word {
	case "track_interface":
		c.mark(Mapped, "")
		for _, t := range c.Block {
			r.trackInterface(t)
		}
	case "track_script", "track_process", "track_file", "track_bfd":
		c.mark(Mapped, "")
		for _, t := range c.Block {
			m.trackOther(r, c.Word, t)
		}
	default:
		return false
	}
	return true
}

// trackInterface reads "eth1", "eth1 weight -20" or "eth1 weight 20". A
// positive weight is added while the interface is up, which is a higher
// priority that falls by as much.
func (r *router) trackInterface(t *Statement) {
	n := 0
	if t.arg(0) == "weight" {
		v, err := strconv.Atoi(t.arg(1))
		if err != nil || v < -254 || v > 254 {
			v = 0
		}
		n = max(-maxWeight, min(maxWeight, v))
	}
	switch {
	case slices.ContainsFunc(r.tracks, func(o track) bool { return o.name == t.Word }):
		t.mark(Harmless, "an interface that is tracked already")
		return
	case slices.Contains(t.Args, "reverse"):
		t.mark(Lost, "lvx lowers the priority when the interface is down, not when it is up")
		return
	case n > 0 && r.priority+uint64(n) <= 254:
		t.mark(Mapped, "priority %d with the interface, %d without", r.priority+uint64(n), r.priority)
		r.priority += uint64(n)
	case n > 0:
		t.mark(Changed, "keepalived adds %d to the priority up to 254; lvx takes it off", n)
	}
	t.mark(Mapped, "")
	r.tracks = append(r.tracks, track{t.Word, max(n, -n)})
}

// completeRouter corrects what keepalived corrects.
func (m *mapper) completeRouter(r *router) {
	for i := range r.addresses {
		if r.addresses[i].dev == r.ifname {
			r.addresses[i].dev = ""
		}
	}
	r.checkSource()
	if r.addresses[0].Addr().Is6() && r.version == 2 {
		r.version = 3
		r.item.from.mark(Mapped, "version 3, because of IPv6")
	}
	step, longest := 10*time.Millisecond, maxAdvertV3
	if r.version == 2 {
		step, longest = time.Second, maxAdvertV2
	}
	if rounded := max(step, min(r.advert.Round(step), longest)); rounded != r.advert {
		for _, c := range r.item.from.children("advert_int") {
			c.overrule(Mapped, "%s, as keepalived rounds it for version %d", duration(rounded), r.version)
		}
		r.advert = rounded
	}
	if r.noPreempt != nil && (r.isMaster || r.priority == 255) {
		r.noPreempt.overrule(Harmless, "keepalived ignores it with state MASTER or priority 255")
		r.noPreempt = nil
	}
	for _, c := range r.passes {
		switch {
		case r.version == 3:
			c.overrule(Harmless, "version 3 has no authentication")
			r.authPass = ""
		case r.isAH:
			c.overrule(Lost, "lvx does not sign with IPSEC-AH")
			r.authPass = ""
		case len(c.arg(0)) > passwordLength:
			c.overrule(Mapped, "the first %d characters, as for keepalived", passwordLength)
		}
	}
	if len(r.authPass) > passwordLength {
		r.authPass = strings.ToValidUTF8(r.authPass[:passwordLength], "")
	}
	if r.preempt != nil && *r.preempt > maxPreempt {
		*r.preempt = maxPreempt
	}
}

// checkSource drops a source address that is none, or of another family than
// the adverts.
func (r *router) checkSource() {
	if r.source == nil {
		return
	}
	a, ok := parseAddress(r.source.arg(0))
	if ok && a.Is4() == r.addresses[0].Addr().Is4() {
		r.source.mark(Mapped, "")
		return
	}
	r.source.mark(Harmless, "keepalived ignores the address %s", quote(r.source.arg(0)))
	r.source = nil
}

// keys are the keys of an entry of vrrp.
func (r *router) keys() []pair {
	var all []pair
	put := func(key, format string, args ...any) { all = append(all, pair{key, fmt.Sprintf(format, args...)}) }
	put("name", "%s", scalar(r.name))
	put("interface", "%s", scalar(r.ifname))
	put("virtual_router_id", "%d", r.vrid)
	put("version", "%d", r.version)
	put("priority", "%d", r.priority)
	put("advert_interval", "%s", duration(r.advert))
	if r.authPass != "" {
		put("auth_pass", "%s", scalar(r.authPass))
	}
	if r.noPreempt != nil {
		put("preempt", "false")
	}
	if r.preempt != nil && *r.preempt > 0 {
		put("preempt_delay", "%s", duration(r.preempt.Round(time.Millisecond)))
	}
	if len(r.peers) > 0 {
		put("unicast_peers", "%s", scalars(r.peers))
	}
	if r.source != nil {
		put("unicast_source", "%s", scalar(r.source.arg(0)))
	}
	if len(r.tracks) > 0 {
		var tracks []string
		for _, t := range r.tracks {
			tracks = append(tracks, fmt.Sprintf("{interface: %s, weight: %d}", scalar(t.name), t.weight))
		}
		put("track_interfaces", "[%s]", strings.Join(tracks, ", "))
	}
	for _, kind := range []string{"track_exec", "track_file", "track_process", "track_bfd"} {
		var entries []string
		for _, l := range r.lines {
			if l.key == kind {
				entries = append(entries, "{"+l.value+"}")
			}
		}
		if len(entries) > 0 {
			put(kind, "[%s]", strings.Join(entries, ", "))
		}
	}
	if text := r.hookText(); text != "" {
		put("hooks", "%s", text)
	}
	if r.group != "" {
		put("sync_group", "%s", scalar(r.group))
	}
	return all
}
