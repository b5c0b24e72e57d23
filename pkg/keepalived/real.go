package keepalived

import (
	"net/netip"
	"strconv"
	"strings"
)

// realOut is a real_server as the output has it.
type realOut struct {
	item    *item
	isPlain bool // without a heading
	keys    []pair
	checks  []*check
}

// readReals reads the real servers, and gives the sum of their weights.
func (m *mapper) readReals(b *body, v *virtual, ends []endpoint) (weights uint64) {
	seen := map[netip.AddrPort]bool{}
	for _, s := range v.reals {
		addr, ok := hostAddress(s.arg(0))
		port, okPort := parsePort(s.arg(1))
		switch {
		case !ok || !okPort:
			s.mark(Harmless, "keepalived ignores the real server %s", quote(strings.Join(s.Args, " ")))
		case isOther(ends, addr) && v.isMixed:
			continue // the other half of the group has it
		case isOther(ends, addr) && !v.readBlock(s, netip.AddrPortFrom(addr, port)).way.isTunnel():
			s.mark(Harmless, "keepalived ignores a real server of another family than the VIP's")
		default:
			weights += m.readReal(b, v, s, netip.AddrPortFrom(addr, port), ends, seen)
			continue
		}
		s.markBlock(s.verdict.Level, "of a real server that is left out")
	}
	return weights
}

// realBlock is what the block of a real_server says.
type realBlock struct {
	from    *Statement
	where   netip.AddrPort
	way     way
	inhibit bool
	weight  uint64
	host    string
	timing  timing
	limits  [2]*uint64 // upper and lower threshold
	hooks   []hook
}

// readBlock reads the block of a real_server; what it leaves out is the
// virtual_server's.
func (v *virtual) readBlock(s *Statement, where netip.AddrPort) realBlock {
	r := realBlock{from: s, where: where, way: *v.way, inhibit: v.inhibit, weight: v.weight, host: v.host}
	for _, c := range s.Block {
		if c.keyword == nil || r.timing.take(c) {
			continue
		}
		switch c.Word {
		case "weight":
			r.weight = or(r.weight, count(c, 0, 65535))
		case "lvs_method":
			r.way = or(r.way, forwarding(c))
		case "inhibit_on_failure":
			r.inhibit = or(r.inhibit, truth(c))
		case "uthreshold":
			r.limits[0] = first(count(c, 0, 1<<32-1), r.limits[0])
		case "lthreshold":
			r.limits[1] = first(count(c, 0, 1<<32-1), r.limits[1])
		case "virtualhost":
			r.host = hostName(c)
		case "notify_up", "notify_down":
			r.hooks = takeHook(r.hooks, strings.TrimPrefix(c.Word, "notify_"), c)
		}
	}
	return r
}

// readReal reads one real server, and gives its weight.
func (m *mapper) readReal(b *body, v *virtual, s *Statement, where netip.AddrPort, ends []endpoint, seen map[netip.AddrPort]bool) uint64 {
	block := v.readBlock(s, where)
	listener := ends[0].port
	checkPort := where.Port()
	if checkPort == 0 {
		checkPort = listener
	}
	isTranslated := block.way.word == "nat" && where.Port() != 0
	identity := netip.AddrPortFrom(where.Addr(), listener)
	if isTranslated {
		identity = where
	}
	if seen[identity] {
		s.mark(Harmless, "the same real server as one before it")
		s.markBlock(Harmless, "of a real server that is there twice")
		return 0
	}
	seen[identity] = true
	r := &realOut{item: &item{from: s}}
	r.put("address", "%s", scalar(where.Addr().String()))
	switch {
	case where.Port() == 0 || where.Port() == listener:
	case isTranslated:
		r.put("port", "%d", where.Port())
	default:
		s.mark(Mapped, "%s cannot change ports: keepalived takes the virtual server's, %s", block.way.word, portName(listener))
	}
	s.mark(Mapped, "")
	r.put("weight", "%d", block.weight)
	r.putWay(block.way, *v.way)
	if block.inhibit != v.inhibit {
		r.put("on_down", "%s", onDown(block.inhibit))
	}
	if words := hookWords(block.hooks); words != "" {
		r.put("hooks", "{%s}", words)
	}
	m.limitKeys(r, block.limits)
	a := asked{real: where.Addr(), port: checkPort, way: block.way, host: block.host, timing: []timing{block.timing, v.timing}}
	for _, c := range s.Block {
		if _, ok := checkers[c.Word]; ok && c.keyword != nil {
			r.checks = append(r.checks, m.readChecker(c, a)...)
		}
	}
	b.reals = append(b.reals, r)
	return block.weight
}

func portName(port uint16) string {
	if port == 0 {
		return "every port"
	}
	return strconv.Itoa(int(port))
}

// limitKeys writes the thresholds of connections.
func (m *mapper) limitKeys(r *realOut, limits [2]*uint64) {
	upper, lower := or(0, limits[0]), or(0, limits[1])
	if lower > upper {
		for _, c := range r.item.from.children("lthreshold") {
			c.overrule(Changed, "the kernel refuses a lower threshold above the upper one: left out")
		}
		lower = 0
	}
	if upper > 0 {
		r.put("upper_threshold", "%d", upper)
	}
	if lower > 0 {
		r.put("lower_threshold", "%d", lower)
	}
}

// onDown is the word for what becomes of a real server that fails.
func onDown(inhibit bool) string {
	if inhibit {
		return "quiesce"
	}
	return "remove"
}
