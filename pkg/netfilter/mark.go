package netfilter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Marks says which packets the rules of the prerouting hook give which marks:
// destinations, protocols and ports become listeners, with the rule that each
// is from. What else a rule asks no listener can express; the mark has a
// condition then.
func (r *Reader) Marks() ([]lb.MarkRules, error) {
	legacy, err := legacyMarks()
	if err != nil {
		return nil, err
	}
	gen, err := readGeneration()
	switch {
	case err != nil && isAbsent(err):
		return legacy, nil
	case err != nil:
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	if !r.marksKnown || gen != r.marksGen {
		rules, err := readRules(hooksToHost...)
		if err != nil {
			return nil, fmt.Errorf("nf_tables: %w", err)
		}
		r.marksKnown, r.marksGen, r.marks = true, gen, rules.marks()
	}
	return joinMarks(r.marks, legacy), nil
}

// ownTable is where lvx itself marks packets for the kernel's IPVS.
const ownTable = "lvx"

// joinMarks puts the rules of two firewalls together.
func joinMarks(all ...[]lb.MarkRules) []lb.MarkRules {
	var m markBook
	for _, marks := range all {
		for _, rules := range marks {
			for i, l := range rules.Listeners {
				m.listen(rules.Mark, l, rules.Origins[i])
			}
			if rules.Condition != "" {
				m.entry(rules.Mark).Condition = rules.Condition
			}
		}
	}
	return m.sorted()
}

// markBook collects what rules say of marks. A later rule overrides an earlier
// one for the same packets, as setting a mark ends no chain.
type markBook struct{ all []*lb.MarkRules }

func (m *markBook) entry(mark uint32) *lb.MarkRules {
	for _, e := range m.all {
		if e.Mark == mark {
			return e
		}
	}
	m.all = append(m.all, &lb.MarkRules{Mark: mark})
	return m.all[len(m.all)-1]
}

func (m *markBook) listen(mark uint32, l lb.Listener, origin string) {
	for _, e := range m.all {
		if i := slices.Index(e.Listeners, l); i >= 0 {
			e.Listeners, e.Origins = slices.Delete(e.Listeners, i, i+1), slices.Delete(e.Origins, i, i+1)
		}
	}
	e := m.entry(mark)
	e.Listeners, e.Origins = append(e.Listeners, l), append(e.Origins, origin)
}

func (m *markBook) sorted() (all []lb.MarkRules) {
	slices.SortFunc(m.all, func(a, b *lb.MarkRules) int { return int(int64(a.Mark) - int64(b.Mark)) })
	for _, e := range m.all {
		all = append(all, *e)
	}
	return all
}

// marks goes through every chain of the prerouting hook.
func (rs ruleset) marks() []lb.MarkRules {
	var m markBook
	for _, t := range rs.tables {
		if t.name == ownTable {
			continue
		}
		for _, base := range t.base {
			if *base.Hooknum == *nftables.ChainHookPrerouting {
				m.followChain(t, base, match{}, 0)
			}
		}
	}
	return m.sorted()
}

// followChain goes through a chain whose packets have met conditions.
func (m *markBook) followChain(t *table, c *chain, met match, depth int) {
	if c == nil || depth > nesting {
		return
	}
	for _, r := range c.rules {
		e := markRun{table: t, match: met.clone(), values: map[int]markValue{}}
		for _, x := range r.Exprs {
			e.applyExpr(x)
		}
		if e.jump != "" {
			m.followChain(t, t.chains[e.jump], e.match, depth+1)
		}
		if e.mark == 0 {
			continue
		}
		if why := e.match.why(); why != "" {
			m.entry(e.mark).Condition = fmt.Sprintf("table %s %s, chain %s, handle %d: %s", familyName(t.family), t.name, c.Name, r.Handle, why)
			continue
		}
		for _, l := range e.match.listeners() {
			m.listen(e.mark, l, fmt.Sprintf("table %s %s, chain %s, handle %d", familyName(t.family), t.name, c.Name, r.Handle))
		}
	}
}

// match is what packets have to be like.
type match struct {
	addrs  []netip.Addr // destinations; nil = any
	protos []lb.Protocol
	ports  [][2]uint16 // destination ports; nil = any
	asks   string      // what no listener can express, "" for nothing
}

func (c match) clone() match {
	c.addrs, c.protos, c.ports = slices.Clone(c.addrs), slices.Clone(c.protos), slices.Clone(c.ports)
	return c
}

// why is what keeps the packets from being a listener's.
func (c match) why() string {
	switch {
	case c.asks != "":
		return c.asks
	case c.addrs == nil:
		return "no destination address"
	case slices.ContainsFunc(c.protos, func(p lb.Protocol) bool { return p != lb.TCP && p != lb.UDP }):
		return "a protocol that is neither TCP nor UDP"
	}
	return ""
}

// listeners are the listeners whose packets match.
func (c match) listeners() (all []lb.Listener) {
	protos, ports := c.protos, c.ports
	if protos == nil {
		protos = []lb.Protocol{lb.TCP, lb.UDP}
	}
	if ports == nil {
		ports = [][2]uint16{{0, 0}}
	}
	for _, a := range c.addrs {
		for _, p := range protos {
			for _, r := range ports {
				if r == [2]uint16{0, 0xffff} {
					r[1] = 0 // every port
				}
				all = append(all, lb.Listener{Addr: a, Proto: p, First: r[0], Last: r[1]})
			}
		}
	}
	return all
}

// asked notes a condition that no listener can express; the first one is told.
func (c *match) asked(what string) {
	if c.asks == "" {
		c.asks = what
	}
}

// narrow adds a condition on values of a kind; they replace "any".
func narrow[T comparable](had *[]T, now []T) {
	if *had == nil {
		*had = now
		return
	}
	*had = slices.DeleteFunc(*had, func(v T) bool { return !slices.Contains(now, v) })
}

// narrowPorts adds a condition on ports: what both ranges have.
func narrowPorts(had *[][2]uint16, now [][2]uint16) {
	if *had == nil {
		*had = now
		return
	}
	both := [][2]uint16{}
	for _, a := range *had {
		for _, b := range now {
			if from, to := max(a[0], b[0]), min(a[1], b[1]); from <= to {
				both = append(both, [2]uint16{from, to})
			}
		}
	}
	*had = both
}

// markValue is what a register holds: something of a packet, or a number.
type markValue struct {
	of     about // destination, port, protocol; other with a name
	name   string
	n      int    // bytes
	number []byte // a constant
}

// markRun is one rule that is read for the mark that it sets.
type markRun struct {
	match
	table  *table
	values map[int]markValue // by register slot
	mark   uint32
	jump   string
}

func (e *markRun) applyExpr(x expr.Any) {
	switch x := x.(type) {
	case *expr.Payload:
		e.values[registerSlot(x.DestRegister)] = e.payload(x)
	case *expr.Meta:
		e.applyMeta(x)
	case *expr.Immediate:
		e.values[registerSlot(x.Register)] = markValue{number: x.Data}
	case *expr.Bitwise:
		v := e.values[registerSlot(x.SourceRegister)]
		if v.name == "mark" && isZero(x.Mask) { // the whole mark is new
			v = markValue{number: x.Xor}
		} else {
			v = markValue{of: other, name: "bits of " + v.describe()}
		}
		e.values[registerSlot(x.DestRegister)] = v
	case *expr.Cmp:
		e.compare(e.values[registerSlot(x.Register)], x)
	case *expr.Range:
		v := e.values[registerSlot(x.Register)]
		if v.of != port || x.Op != expr.CmpOpEq {
			e.asked("a range of " + v.describe())
			return
		}
		narrowPorts(&e.ports, [][2]uint16{{readPort(x.FromData), readPort(x.ToData)}})
	case *expr.Lookup:
		e.lookup(x)
	case *expr.Match:
		e.extension(x)
	case *expr.Target:
		e.target(x)
	case *expr.Verdict:
		if x.Kind == expr.VerdictJump || x.Kind == expr.VerdictGoto {
			e.jump = x.Chain
		}
	case *expr.Counter, *expr.Log, *expr.Notrack:
	default:
		e.asked("condition " + strings.TrimPrefix(fmt.Sprintf("%T", x), "*expr."))
	}
}

func (v markValue) describe() string {
	switch v.of {
	case destination:
		return "the destination"
	case port:
		return "the port"
	case protocol:
		return "the protocol"
	}
	if v.name == "" {
		return "something"
	}
	return v.name
}

func isZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

func readPort(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

// payload says what of a packet is loaded.
func (e *markRun) payload(x *expr.Payload) markValue {
	v := markValue{of: other, name: "packet bytes", n: int(x.Len)}
	if x.Base == expr.PayloadBaseTransportHeader {
		switch {
		case x.Offset == 2 && x.Len == 2:
			v.of = port
		case x.Offset == 0 && x.Len == 2:
			v.name = "the source port"
		}
		return v
	}
	if x.Base != expr.PayloadBaseNetworkHeader {
		return v
	}
	switch [2]uint32{x.Offset, x.Len} {
	case [2]uint32{16, 4}, [2]uint32{24, 16}:
		v.of = destination
	case [2]uint32{12, 4}, [2]uint32{8, 16}:
		v.name = "the source"
	case [2]uint32{9, 1}, [2]uint32{6, 1}:
		v.of = protocol
	default:
		if x.Offset == 16 || x.Offset == 24 {
			v.name = "a network of destinations"
		}
	}
	return v
}

func (e *markRun) applyMeta(x *expr.Meta) {
	if x.SourceRegister {
		if x.Key != expr.MetaKeyMARK {
			return
		}
		v := e.values[registerSlot(x.Register)]
		if len(v.number) != 4 {
			e.asked("a mark that depends on " + v.describe())
			return
		}
		e.mark = binary.NativeEndian.Uint32(v.number)
		return
	}
	v := markValue{of: other, name: fmt.Sprintf("meta %d", x.Key)}
	switch x.Key {
	case expr.MetaKeyL4PROTO:
		v.of = protocol
	case expr.MetaKeyNFPROTO, expr.MetaKeyPROTOCOL:
		v.name = "family"
	case expr.MetaKeyMARK:
		v.name = "mark"
	case expr.MetaKeyIIF, expr.MetaKeyIIFNAME:
		v.name = "the interface"
	}
	e.values[registerSlot(x.Register)] = v
}

func (e *markRun) compare(v markValue, x *expr.Cmp) {
	if v.name == "family" && x.Op == expr.CmpOpEq {
		return
	}
	switch {
	case x.Op == expr.CmpOpEq:
		e.require(v, [][2][]byte{{x.Data, x.Data}})
	case x.Op == expr.CmpOpGte && v.of == port:
		narrowPorts(&e.ports, [][2]uint16{{readPort(x.Data), 0xffff}})
	case x.Op == expr.CmpOpLte && v.of == port:
		narrowPorts(&e.ports, [][2]uint16{{0, readPort(x.Data)}})
	default:
		e.asked("a comparison of " + v.describe())
	}
}

// require adds the condition that a value lies in one of some ranges.
func (e *markRun) require(v markValue, ranges [][2][]byte) {
	switch v.of {
	case destination:
		var addrs []netip.Addr
		for _, r := range ranges {
			a, ok := netip.AddrFromSlice(r[0])
			if !ok || !slices.Equal(r[0], r[1]) {
				e.asked("a range of destinations")
				return
			}
			addrs = append(addrs, a)
		}
		narrow(&e.addrs, addrs)
	case protocol:
		var protos []lb.Protocol
		for _, r := range ranges {
			protos = append(protos, lb.Protocol(r[0][0]))
		}
		narrow(&e.protos, protos)
	case port:
		var ports [][2]uint16
		for _, r := range ranges {
			ports = append(ports, [2]uint16{readPort(r[0]), readPort(r[1])})
		}
		narrowPorts(&e.ports, ports)
	default:
		e.asked(v.describe())
	}
}

func (e *markRun) lookup(x *expr.Lookup) {
	v := e.values[registerSlot(x.SourceRegister)]
	elements, known := e.table.sets[x.SetName]
	if !known || x.IsDestRegSet || x.Invert {
		e.asked("a map, or a set that is not plain")
		return
	}
	var ranges [][2][]byte
	for _, el := range elements {
		n := min(len(el.from), max(v.n, 1))
		if v.n == 0 {
			n = len(el.from)
		}
		if v.of == protocol {
			n = 1
		}
		if v.of == destination && len(el.from) != v.n || v.of == port && len(el.from) < 2 {
			e.asked("a set of other keys")
			return
		}
		ranges = append(ranges, [2][]byte{el.from[:n], el.to[:n]})
	}
	if len(ranges) == 0 {
		e.addrs = []netip.Addr{} // an empty set matches nothing
		return
	}
	e.require(v, ranges)
}

// extension reads a match that iptables-nft left to an extension.
func (e *markRun) extension(x *expr.Match) {
	switch info := x.Info.(type) {
	case *xt.Comment:
		return
	case *xt.Tcp:
		if info.SrcPorts == [2]uint16{0, 0xffff} && info.Option == 0 && info.FlagsMask == 0 && info.InvFlags == 0 {
			narrowPorts(&e.ports, [][2]uint16{info.DstPorts})
			return
		}
	case *xt.Udp:
		if info.SrcPorts == [2]uint16{0, 0xffff} && info.InvFlags == 0 {
			narrowPorts(&e.ports, [][2]uint16{info.DstPorts})
			return
		}
	case *xt.Unknown:
		if ranges, invert, ok := parseMultiport(x.Name, *info); ok && !invert {
			narrowPorts(&e.ports, ranges)
			return
		}
		if x.Name == "comment" {
			return
		}
	}
	e.asked("match " + x.Name)
}

// target reads the target MARK (struct xt_mark_tginfo2: mark and mask; struct
// xt_mark_target_info_v1 has no mask).
func (e *markRun) target(x *expr.Target) {
	if x.Name != "MARK" {
		return
	}
	info, ok := x.Info.(*xt.Unknown)
	if !ok || len(*info) < 8 {
		e.asked("a MARK that lvx does not know")
		return
	}
	e.mark = binary.NativeEndian.Uint32(*info)
	if mask := binary.NativeEndian.Uint32((*info)[4:]); mask != 0xffffffff {
		e.asked("a mark of which some bits are kept")
	}
}
