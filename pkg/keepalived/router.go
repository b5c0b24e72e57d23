package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepalived's defaults of a VRRP instance, and lvx's bounds.
const (
	defaultPriority = 100
	ownerPriority   = 255
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
	authType  *Statement
	authPass  string
	state     *Statement // MASTER, or what keepalived takes for BACKUP
	isStrict  bool
	isVersion bool // it names its version itself, before its addresses
	noPreempt *Statement
	preempt   *time.Duration
	peers     []string
	tracks    []track
	addresses []vip
	source    *Statement // of unicast_src_ip or mcast_src_ip
	from      netip.Addr // of source
	routes    []routed
	rules     []routed
	lines     []pair       // of track_exec, track_file, track_process, track_bfd, each an entry
	weighted  []*Statement // those of the lines whose weight keepalived ignores in a sync group
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

// readRouter reads a vrrp_instance. What is tracked changes the priority, which
// may stand behind it.
func (m *mapper) readRouter(s *Statement) {
	if where, isFree := m.take("vrrp_instance ", s.arg(0), s); !isFree {
		s.mark(Harmless, "keepalived ignores a second instance of this name: line %d has it", where.line)
		s.markBlock(Harmless, "of a vrrp_instance that is left out")
		return
	}
	r := &router{
		item: &item{from: s}, ifname: m.globals.ifname, advert: time.Second,
		version: m.globals.version, isStrict: m.globals.isStrict,
	}
	for _, c := range s.Block {
		switch {
		case c.keyword == nil:
		case r.election(c), r.authenticated(c), r.sent(c), m.addressed(r, c), r.readRouting(c), r.notified(s, c):
		}
	}
	r.orderAddresses()
	r.defaultPriority()
	for _, c := range s.Block {
		if c.keyword != nil {
			m.tracked(r, c, r.ifname)
		}
	}
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
		switch word := c.arg(0); {
		case word == "BACKUP" && r.isMaster():
			c.mark(Harmless, "keepalived has taken it for MASTER already")
		case word == "MASTER", word == "BACKUP":
			c.mark(Harmless, "the priority decides who is master")
			r.state = c
		default:
			c.mark(Harmless, "keepalived takes %s for BACKUP", quote(word))
			r.state = c
		}
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
			r.isVersion = len(r.addresses) == 0
		}
	case "strict_mode":
		c.mark(Harmless, textLenient)
		r.isStrict = or(r.isStrict, truth(c))
	case "advert_int":
		r.advert = or(r.advert, atMost(c, maxAdvertV2, seconds(c, 10*time.Millisecond)))
	case "nopreempt":
		r.noPreempt = c
		c.mark(Mapped, "")
	case "preempt":
		r.noPreempt = nil
		c.mark(Mapped, "lvx's default")
	case "preempt_delay":
		r.preempt = atMost(c, maxPreempt, seconds(c, 0))
	default:
		return false
	}
	return true
}

// atMost is a time that keepalived takes only up to a bound.
func atMost(c *Statement, bound time.Duration, d *time.Duration) *time.Duration {
	if d != nil && *d > bound {
		c.overrule(Harmless, "keepalived ignores %s here (it wants at most %s)", quote(c.arg(0)), duration(bound))
		return nil
	}
	return d
}

// isMaster reports whether the instance has state MASTER.
func (r *router) isMaster() bool { return r.state != nil && r.state.arg(0) == "MASTER" }

// startsAsMaster reports whether keepalived takes the instance for one that
// begins as master. In strict mode that is the address owner alone.
func (r *router) startsAsMaster() bool {
	if r.state == nil || r.isStrict {
		return r.priority == ownerPriority
	}
	return r.isMaster()
}

// defaultPriority gives an instance without a priority the one of its state.
func (r *router) defaultPriority() {
	switch {
	case r.priority != 0:
	case r.isMaster():
		r.priority = ownerPriority
		r.state.overrule(Mapped, "without a priority MASTER has %d, as for keepalived", ownerPriority)
	default:
		r.priority = defaultPriority
	}
}

// authenticated reads what is about passwords. None of them is reported.
func (r *router) authenticated(c *Statement) bool {
	switch c.Word {
	case "authentication":
		c.mark(Mapped, "")
		for _, a := range c.Block {
			switch {
			case a.keyword == nil:
			case a.Word == "auth_type" && a.arg(0) != "AH" && a.arg(0) != "PASS":
				a.mark(Harmless, "keepalived does not know the type %s (it wants PASS or AH) and ignores it", quote(a.arg(0)))
			case a.Word == "auth_type":
				r.authType = a
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
			addr, ok := hostAddress(p.Word)
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

// tracked reads what lowers the priority or makes a fault. An instance names its
// own interface in vain.
func (m *mapper) tracked(r *router, c *Statement, own string) bool {
	switch c.Word {
	case "track_interface":
		c.mark(Mapped, "")
		for _, t := range c.Block {
			if t.Word == own {
				t.mark(Harmless, "keepalived ignores the instance's own interface here: it counts anyway, without a weight")
				continue
			}
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
	case n != 0 && r.priority == ownerPriority:
		t.mark(Harmless, textOwner)
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
	r.checkFamily()
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
	r.checkPreempt()
	r.checkPassword()
}

// checkFamily drops peers of another family than the adverts, and gives IPv6
// the version that has it.
func (r *router) checkFamily() {
	is6 := r.addresses[0].Addr().Is6()
	for _, block := range r.item.from.children("unicast_peer") {
		for _, p := range block.Block {
			if a, ok := hostAddress(p.Word); ok && a.Is6() != is6 {
				p.overrule(Harmless, "keepalived ignores a peer of another family than the adverts")
				r.peers = slices.DeleteFunc(r.peers, func(o string) bool { return o == a.String() })
			}
		}
	}
	for _, v := range r.addresses {
		if v.Addr().Is6() != is6 && !v.isHidden {
			v.statement.overrule(Changed, "keepalived ignores an address of another family than the first; lvx has it, and does not advertise it")
		}
	}
	if !is6 || r.version != 2 {
		return
	}
	r.version = 3
	if !r.isVersion || r.isStrict {
		r.item.from.mark(Mapped, "version 3, because of IPv6")
		return
	}
	for _, c := range r.item.from.children("version") {
		c.overrule(Changed, "keepalived sends version 2 for IPv6, which no standard has, and lvx version 3: they do not hear each other")
	}
}

// checkPreempt drops what keepalived drops about preemption.
func (r *router) checkPreempt() {
	if r.noPreempt != nil && (r.startsAsMaster() || r.priority == ownerPriority) {
		r.noPreempt.overrule(Harmless, "keepalived ignores it with state MASTER or priority 255")
		r.noPreempt = nil
	}
	if r.preempt != nil && (r.startsAsMaster() || r.isStrict || r.noPreempt != nil) {
		for _, c := range r.item.from.children("preempt_delay") {
			c.overrule(Harmless, "keepalived ignores it with state MASTER, priority 255, nopreempt or in strict mode")
		}
		r.preempt = nil
	}
}

// checkPassword drops a password that keepalived does not send: whoever sent
// one would not be heard.
func (r *router) checkPassword() {
	ignored := ""
	switch {
	case r.version == 3:
		ignored = "version 3 has no authentication"
	case r.isStrict:
		ignored = "keepalived sends no password in strict mode"
	case r.authType == nil:
		ignored = "keepalived sends no password without auth_type PASS"
	}
	switch {
	case ignored != "":
		r.authPass = ""
	case r.authType.arg(0) == "AH":
		r.authType.overrule(Lost, "lvx does not sign with IPSEC-AH: keepalived and lvx do not hear each other")
		r.authPass = ""
	}
	for _, c := range r.passes {
		switch {
		case ignored != "":
			c.overrule(Harmless, "%s", ignored)
		case r.authType.arg(0) == "AH":
			c.overrule(Lost, "lvx does not sign with IPSEC-AH")
		case len(c.arg(0)) > passwordLength:
			c.overrule(Mapped, "the first %d characters, as for keepalived", passwordLength)
		}
	}
	if ignored != "" && r.authType != nil {
		r.authType.mark(Harmless, "%s", ignored)
	}
	if len(r.authPass) > passwordLength {
		r.authPass = strings.ToValidUTF8(r.authPass[:passwordLength], "")
	}
}

// checkSource drops a source address that is none, or of another family than
// the adverts.
func (r *router) checkSource() {
	if r.source == nil {
		return
	}
	a, ok := hostAddress(r.source.arg(0))
	if ok && a.Is4() == r.addresses[0].Addr().Is4() {
		r.source.mark(Mapped, "")
		r.from = a
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
		put("unicast_source", "%s", scalar(r.from.String()))
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
