package ipvs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nftTable is the firewall of the kernel: a table of family inet with
//
//	map marks4, marks6     VIP . protocol . ports : mark
//	map guards4, guards6   VIP . protocol . ports : jump to a guard
//	chain guard-N          ip saddr @denied-N-4 / -6: count, drop
//	chain input, output    guards, then marks, before IPVS has the packet
//
// The input hook sees packets whole, after reassembly; a fragment has its
// ports there. The output hook is for connections of the director itself.
type nftTable struct {
	name string
	open func() (*nftables.Conn, error)
	base uint64 // dropped packets that tables before this one counted
}

func newNftables(name string) *nftTable {
	return &nftTable{name: name, open: func() (*nftables.Conn, error) {
		return nftables.New(nftables.WithSockOptions(growBuffer))
	}}
}

// growBuffer makes room for a batch, which is sent as one message.
func growBuffer[C interface{ SetWriteBuffer(int) error }](c C) error {
	return c.SetWriteBuffer(16 << 20)
}

// hookPriority is before IPVS (98 and up) and with iptables' mangle.
const hookPriority = nftables.ChainPriority(-150)

// chunk is how many elements one message carries: an attribute ends at 64 KiB.
const chunk = 400

const deniedCounter = "denied"

// baseChains are the chains on the input and the output hook.
var baseChains = [...]string{"input", "output"}

func (t *nftTable) table() *nftables.Table {
	return &nftables.Table{Name: t.name, Family: nftables.TableFamilyINet}
}

func (t *nftTable) Set(r ruleset) error {
	if r.empty() {
		return t.Remove()
	}
	c, err := t.open()
	if err != nil {
		return err
	}
	want := t.layout(r)
	if t.holds(c, want) {
		return nil
	}
	if n, err := t.counted(c); err == nil {
		t.base += n
	}
	// One transaction: packets see the old table or the new one.
	tab := c.AddTable(t.table())
	c.DelTable(tab)
	c.AddTable(tab)
	if err := want.queue(c, tab); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("table inet %s: %w (needs the kernel's nf_tables)", t.name, err)
	}
	return nil
}

func (t *nftTable) Remove() error {
	c, err := t.open()
	if err != nil {
		return err
	}
	// A kernel without nf_tables has no table of ours either.
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil || !slices.ContainsFunc(tables, func(o *nftables.Table) bool { return o.Name == t.name }) {
		return nil
	}
	if n, err := t.counted(c); err == nil {
		t.base += n
	}
	c.DelTable(t.table())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("table inet %s: removal: %w", t.name, err)
	}
	return nil
}

func (t *nftTable) Denied() (uint64, error) {
	c, err := t.open()
	if err != nil {
		return t.base, err
	}
	n, err := t.counted(c)
	if err != nil {
		return t.base, nil // no table, no packets
	}
	return t.base + n, nil
}

// counted reads the table's counter.
func (t *nftTable) counted(c *nftables.Conn) (uint64, error) {
	objs, err := c.GetNamedObjects(t.table())
	if err != nil {
		return 0, err
	}
	for _, o := range objs {
		named, ok := o.(*nftables.NamedObj)
		if !ok || named.Name != deniedCounter {
			continue
		}
		if counter, ok := named.Obj.(*expr.Counter); ok {
			return counter.Packets, nil
		}
	}
	return 0, errors.New("no counter")
}

// A layout is the table in nftables' terms.
type layout struct {
	sets   []*filledSet
	guards []guard
}

type filledSet struct {
	set      *nftables.Set
	elements []nftables.SetElement
}

// A guard drops the clients of its ranges.
type guard struct {
	chain  string
	ranges []addrRange
}

func (t *nftTable) layout(r ruleset) layout {
	var l layout
	chains := map[string]string{} // by content: services with the same lists share a guard
	guardOf := map[string]string{}
	for _, sp := range r.spans {
		ranges := r.denied[sp.service]
		if len(ranges) == 0 || guardOf[sp.service] != "" {
			continue
		}
		content := fmt.Sprint(ranges)
		if chains[content] == "" {
			chains[content] = fmt.Sprintf("guard-%d", len(l.guards))
			l.guards = append(l.guards, guard{chains[content], ranges})
		}
		guardOf[sp.service] = chains[content]
	}
	for _, is4 := range []bool{true, false} {
		marks, guards := newMap("marks", is4, nftables.TypeMark), newMap("guards", is4, nftables.TypeVerdict)
		for _, sp := range r.spans {
			if sp.addr.Is4() != is4 {
				continue
			}
			e := nftables.SetElement{Key: spanKey(sp, sp.first), KeyEnd: spanKey(sp, sp.last)}
			if sp.mark != 0 {
				m := e
				m.Val = binary.NativeEndian.AppendUint32(nil, sp.mark)
				marks.elements = append(marks.elements, m)
			}
			if chain := guardOf[sp.service]; chain != "" {
				g := e
				g.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}
				g.Val = verdictAttributes(g.VerdictData)
				guards.elements = append(guards.elements, g)
			}
		}
		l.sets = append(l.sets, guards, marks)
		for _, g := range l.guards {
			l.sets = append(l.sets, deniedSet(g, is4))
		}
	}
	return l
}

func suffix(is4 bool) string {
	if is4 {
		return "4"
	}
	return "6"
}

func addrType(is4 bool) nftables.SetDatatype {
	if is4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

func newMap(name string, is4 bool, data nftables.SetDatatype) *filledSet {
	return &filledSet{set: &nftables.Set{
		Name: name + suffix(is4), IsMap: true, Interval: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(addrType(is4), nftables.TypeInetProto, nftables.TypeInetService),
		DataType: data,
	}}
}

// spanKey is VIP, protocol and port, each padded to four bytes.
func spanKey(sp span, port uint16) []byte {
	k := append(sp.addr.AsSlice(), byte(sp.proto), 0, 0, 0)
	k = binary.BigEndian.AppendUint16(k, port)
	return append(k, 0, 0)
}

// deniedSet holds the ranges of one family: each is its first address and,
// unless it reaches the end, the address after its last.
func deniedSet(g guard, is4 bool) *filledSet {
	f := &filledSet{set: &nftables.Set{Name: deniedName(g, is4), Interval: true, KeyType: addrType(is4)}}
	for _, r := range g.ranges {
		if r.first.Is4() != is4 {
			continue
		}
		f.elements = append(f.elements, nftables.SetElement{Key: r.first.AsSlice()})
		if next := r.last.Next(); next.IsValid() {
			f.elements = append(f.elements, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return f
}

func deniedName(g guard, is4 bool) string {
	return "denied" + g.chain[len("guard"):] + "-" + suffix(is4)
}

func (l layout) named(name string) *nftables.Set {
	for _, f := range l.sets {
		if f.set.Name == name {
			return f.set
		}
	}
	return nil
}

// queue adds everything to the batch.
func (l layout) queue(c *nftables.Conn, tab *nftables.Table) error {
	c.AddObj(&nftables.NamedObj{Table: tab, Name: deniedCounter, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	chains := map[string]*nftables.Chain{}
	for _, g := range l.guards {
		chains[g.chain] = c.AddChain(&nftables.Chain{Name: g.chain, Table: tab})
	}
	for _, f := range l.sets {
		f.set.Table = tab
		if err := c.AddSet(f.set, nil); err != nil {
			return fmt.Errorf("set %s: %w", f.set.Name, err)
		}
		for some := range slices.Chunk(f.elements, chunk) {
			if err := c.SetAddElements(f.set, some); err != nil {
				return fmt.Errorf("set %s: %w", f.set.Name, err)
			}
		}
	}
	for _, g := range l.guards {
		for _, is4 := range []bool{true, false} {
			c.AddRule(&nftables.Rule{Table: tab, Chain: chains[g.chain], Exprs: dropRule(l.named(deniedName(g, is4)), is4)})
		}
	}
	policy, priority := nftables.ChainPolicyAccept, hookPriority
	for i, hook := range []*nftables.ChainHook{nftables.ChainHookInput, nftables.ChainHookOutput} {
		base := c.AddChain(&nftables.Chain{
			Name: baseChains[i], Table: tab, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority, Policy: &policy,
		})
		for _, is4 := range []bool{true, false} {
			c.AddRule(&nftables.Rule{Table: tab, Chain: base, Exprs: guardRule(l.named("guards"+suffix(is4)), is4)})
			c.AddRule(&nftables.Rule{Table: tab, Chain: base, Exprs: markRule(l.named("marks"+suffix(is4)), is4)})
		}
	}
	return nil
}

// holds reports whether the kernel's table has the layout. Whatever it cannot
// read it takes for different.
func (t *nftTable) holds(c *nftables.Conn, l layout) bool {
	sets, err := c.GetSets(t.table())
	if err != nil || len(sets) != len(l.sets) {
		return false
	}
	for _, f := range l.sets {
		got, err := c.GetSetElements(&nftables.Set{Table: t.table(), Name: f.set.Name})
		if err != nil || !slices.Equal(prints(got), prints(f.elements)) {
			return false
		}
	}
	rules := map[string]int{baseChains[0]: 4, baseChains[1]: 4}
	for _, g := range l.guards {
		rules[g.chain] = 2
	}
	for name, n := range rules {
		got, err := c.GetRules(t.table(), &nftables.Chain{Name: name, Table: t.table()})
		if err != nil || len(got) != n {
			return false
		}
	}
	return true
}

// verdictAttributes is a verdict as the kernel returns it: the netlink
// attributes NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN. What is sent is made from
// the element's VerdictData.
func verdictAttributes(v *expr.Verdict) []byte {
	attribute := func(b []byte, number uint16, data []byte) []byte {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(data)))
		b = binary.NativeEndian.AppendUint16(b, number)
		b = append(b, data...)
		return append(b, make([]byte, -len(data)&3)...)
	}
	b := attribute(nil, unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, uint32(v.Kind)))
	return attribute(b, unix.NFTA_VERDICT_CHAIN, []byte(v.Chain+"\x00"))
}

// prints are elements in a form that can be compared.
func prints(es []nftables.SetElement) []string {
	out := make([]string, len(es))
	for i, e := range es {
		out[i] = fmt.Sprintf("%x-%x:%x %v", e.Key, e.KeyEnd, e.Val, e.IntervalEnd)
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
