package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Bounds of what a virtual_server_group may stand for.
const (
	manyEndpoints = 256
	maxEndpoints  = 4096
)

// service is a virtual_server, or one entry of its group, as the output has
// it.
type service struct {
	item   *item
	name   string
	listen []string
	mark   uint32
	body   *body
}

// body is what all services of one virtual_server share.
type body struct {
	from     *Statement
	protocol string
	keys     []pair
	reals    []*realOut
	services []*service
}

func (b *body) put(key, format string, args ...any) {
	b.keys = append(b.keys, pair{key, fmt.Sprintf(format, args...)})
}

func (r *realOut) put(key, format string, args ...any) {
	r.keys = append(r.keys, pair{key, fmt.Sprintf(format, args...)})
}

// readService reads a virtual_server.
func (m *mapper) readService(s *Statement) {
	ends := m.endpoints(s)
	v := readVirtual(s)
	switch {
	case len(ends) == 0:
		s.mark(Harmless, "keepalived ignores a virtual_server without a usable address")
	case len(v.reals) == 0:
		s.overrule(Harmless, "keepalived ignores a virtual_server without real servers")
	case len(m.services)+len(ends) > maxEndpoints:
		s.overrule(Lost, "more than %d services", maxEndpoints)
	default:
		own, other := byFamily(ends)
		v.isMixed = len(other) > 0
		for _, c := range s.children("persistence_granularity") {
			if s.arg(0) == "group" {
				c.overrule(Changed, "keepalived 2.2 forgets it for a group, later versions and lvx do not")
			}
		}
		if v.isMixed {
			s.mark(Changed, "both families: keepalived 2.2 serves nothing of such a group, later versions and lvx serve all of it")
		}
		m.serve(v, own)
		if v.isMixed {
			m.serve(v, other)
		}
		return
	}
	s.markBlock(s.verdict.Level, "of a virtual_server that is left out")
}

// byFamily parts the entries of a group that are of another family than the
// first one with an address.
func byFamily(ends []endpoint) (own, other []endpoint) {
	i := slices.IndexFunc(ends, func(e endpoint) bool { return e.mark == 0 })
	for _, e := range ends {
		if i >= 0 && e.mark == 0 && e.addr.Is4() != ends[i].addr.Is4() {
			other = append(other, e)
		} else {
			own = append(own, e)
		}
	}
	return own, other
}

// isOther reports whether addr is of another family than the service.
func isOther(ends []endpoint, addr netip.Addr) bool {
	return slices.ContainsFunc(ends, func(e endpoint) bool { return e.mark == 0 && e.addr.Is4() != addr.Is4() })
}

// marksOfFamily gives the marks of a service its family: that of ip_family, of
// addresses beside the marks, or of the first real server.
func (v *virtual) marksOfFamily(ends []endpoint) []endpoint {
	is6 := v.is6
	if i := slices.IndexFunc(ends, func(e endpoint) bool { return e.mark == 0 }); i >= 0 {
		is6 = ends[i].addr.Is6()
	} else if len(v.reals) > 0 {
		addr, ok := hostAddress(v.reals[0].arg(0))
		is6 = is6 || ok && addr.Is6()
	}
	ends = slices.Clone(ends)
	for i := range ends {
		ends[i].is6 = is6
	}
	return ends
}

// ofFamily are the listeners of a mark that are of one family: rules of both
// may set it, and each is another service's.
func ofFamily(listen []string, is6 bool) []string {
	return slices.DeleteFunc(slices.Clone(listen), func(l string) bool { return strings.Count(l, ":") > 1 != is6 })
}

// serve makes services of a virtual_server.
func (m *mapper) serve(v *virtual, ends []endpoint) {
	notes := m.complete(v, ends)
	b := &body{from: v.from, protocol: v.protocol}
	m.balanceKeys(b, v, ends)
	weights := m.readReals(b, v, ends)
	m.quorumKeys(b, v, weights)
	m.sorryKeys(b, v, ends)
	m.hookKeys(b, v)
	if len(b.reals) == 0 && !v.isMixed {
		v.from.overrule(Harmless, "keepalived ignores a virtual_server without real servers")
		return
	}
	m.addServices(b, v, v.marksOfFamily(ends))
	v.from.mark(Mapped, "%s", strings.Join(notes, "; "))
}

// complete fills what keepalived fills; the notes say what is surprising.
func (m *mapper) complete(v *virtual, ends []endpoint) (notes []string) {
	isMarked := ends[0].mark != 0
	if v.protocol == "" && !isMarked {
		v.protocol = "udp"
		notes = append(notes, "WITHOUT protocol IT IS UDP, as for keepalived: write `protocol TCP` where TCP is meant")
	}
	if v.scheduler == "" {
		v.scheduler = string(lb.WLC)
		notes = append(notes, "no usable lb_algo: wlc")
	}
	if v.way == nil {
		v.way = &way{word: "nat"}
		notes = append(notes, "no usable lb_kind: NAT")
	}
	if v.onePacket && v.protocol != "udp" {
		v.onePacket = false
		notes = append(notes, "ops is for UDP: off")
	}
	isPortless := slices.ContainsFunc(ends, func(e endpoint) bool { return e.mark == 0 && e.port == 0 })
	if isPortless && v.persistence == 0 {
		v.persistence = defaultPersistence
		notes = append(notes, "every port: persistent for 360 s")
	}
	if v.timing.interval == nil {
		notes = append(notes, "no delay_loop: checks every 60 s")
	}
	return notes
}

// balanceKeys writes scheduling, persistence and forwarding.
func (m *mapper) balanceKeys(b *body, v *virtual, ends []endpoint) {
	b.put("scheduler", "%s", v.scheduler)
	if len(v.flags) > 0 {
		b.put("flags", "[%s]", strings.Join(v.flags, ", "))
	}
	if v.onePacket {
		b.put("ops", "true")
	}
	if v.persistence > 0 {
		mask := ""
		if v.granularity != "" {
			mask = ", netmask: " + scalar(v.granularity)
		}
		b.put("persistence", "{timeout: %ds%s}", v.persistence, mask)
	}
	b.put("forward", "%s", v.way.word)
	if v.way.tunnel != "" {
		b.put("tunnel", "%s", v.way.tunnel)
	}
	if v.inhibit {
		b.put("on_down", "quiesce")
	}
}

// quorumKeys writes quorum and hysteresis as keepalived corrects them.
func (m *mapper) quorumKeys(b *body, v *virtual, weights uint64) {
	quorum := max(1, min(v.quorum, weights))
	hysteresis := min(v.hysteresis, quorum-1)
	if quorum != 1 {
		b.put("quorum", "%d", quorum)
	}
	if hysteresis != 0 {
		b.put("hysteresis", "%d", hysteresis)
	}
	for _, c := range v.from.children("quorum") {
		if quorum != v.quorum {
			c.overrule(Mapped, "%d: keepalived brings it down to the sum of the weights", quorum)
		}
	}
	for _, c := range v.from.children("hysteresis") {
		if hysteresis != v.hysteresis {
			c.overrule(Mapped, "%d: keepalived keeps it below quorum", hysteresis)
		}
	}
}

// sorryKeys writes the sorry server.
func (m *mapper) sorryKeys(b *body, v *virtual, ends []endpoint) {
	s := v.sorry
	if s == nil {
		return
	}
	way := or(*v.way, s.way)
	switch {
	case isOther(ends, s.addr) && v.isMixed:
		return
	case isOther(ends, s.addr):
		s.from.mark(Harmless, "keepalived ignores a sorry server of another family than the VIP's")
		return
	}
	s.from.mark(Mapped, "")
	isTranslated := way.word == "nat" && s.port != 0 && !slices.ContainsFunc(ends, func(e endpoint) bool { return e.port == s.port })
	if s.addr.IsLoopback() && !isTranslated {
		way.word, way.tunnel = "dr", "" // this host itself
	}
	if way.word == "dr" && !s.inhibit {
		b.put("sorry_server", "%s", scalar(s.addr.String()))
		return
	}
	words := "address: " + scalar(s.addr.String()) + ", forward: " + way.word
	if way.tunnel != "" {
		words += ", tunnel: " + way.tunnel
	}
	if isTranslated {
		words += fmt.Sprintf(", port: %d", s.port)
	}
	if s.inhibit {
		words += ", inhibit: true"
	}
	b.put("sorry_server", "{%s}", words)
}

// hookKeys writes the commands of the service.
func (m *mapper) hookKeys(b *body, v *virtual) {
	words := hookWords(v.hooks)
	if v.omega {
		words = strings.TrimPrefix(words+", at_stop: true", ", ")
	}
	if words != "" {
		b.put("hooks", "{%s}", words)
	}
}

// hookWords are commands as the keys of a map.
func hookWords(hooks []hook) string {
	var parts []string
	for _, h := range hooks {
		parts = append(parts, h.event+": "+scalars(h.argv))
	}
	return strings.Join(parts, ", ")
}

// addServices adds a service for every endpoint.
func (m *mapper) addServices(b *body, v *virtual, ends []endpoint) {
	add := func(e endpoint, listen []string) {
		m.served[e.addr] = true
		svc := &service{
			item: &item{from: v.from}, name: m.unique("service ", e.name(v.protocol)), listen: listen, mark: e.mark, body: b,
		}
		b.services = append(b.services, svc)
		m.services = append(m.services, svc)
	}
	isPlain := !slices.ContainsFunc(ends, func(e endpoint) bool { return e.mark != 0 })
	if m.o.MergeGroups && isPlain && len(ends) > 1 {
		var listen []string
		for _, e := range ends {
			listen = append(listen, e.listen(v.protocol))
		}
		add(ends[0], listen)
		return
	}
	for _, e := range ends {
		listen := ofFamily(m.o.Marks[e.mark], e.is6)
		if e.mark == 0 {
			listen = []string{e.listen(v.protocol)}
		}
		if where, isFree := m.take("listener ", fmt.Sprint(e.listen(v.protocol), e.mark, e.is6), e.from); !isFree {
			e.from.overrule(Lost, "line %d serves %s already", where.line, e.name(v.protocol))
			continue
		}
		if e.mark != 0 && len(listen) == 0 {
			e.from.overrule(Lost, "nobody says which packets carry mark %d: name their rules with --iptables, "+
				`or write listen: ["ADDR:PORT/tcp"] for it`, e.mark)
			continue
		}
		add(e, listen)
	}
	if len(b.services) == 0 {
		v.from.mark(Lost, "none of its listeners is left")
		v.from.markBlock(Lost, "of a service without listeners")
	}
}
