package loader

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/lvx-lb/lvx/bpf"
)

// wordsOfSet is the number of words of a set: its keys, then its values; of
// IPv6's tables ([bpf.SetWords6]) there are addresses behind them.
const wordsOfSet = 2 * bpf.Ways

// strideOf is the number of words of a set of a table.
func strideOf(table string) int {
	if isTable6(table) {
		return bpf.SetWords6
	}
	return wordsOfSet
}

// attachMoving changes over from the maps that are left behind: it copies
// their tables, puts programs on the interfaces that look into both, copies
// again what was opened in between, and puts the programs in force that know
// the new maps alone.
func (d *Datapath) attachMoving(ctx context.Context) error {
	moving := map[string]*ebpf.Program{}
	moving6 := map[uint32]*ebpf.Program{}
	defer closePrograms(moving)
	defer closePrograms(moving6)
	for _, a := range d.Attachments {
		var err error
		if moving[a.Name], err = d.loadMoving(a); err != nil {
			return err
		}
		if moving6[a.Slot], err = d.loadMoving6(a); err != nil {
			return err
		}
	}
	if err := d.moveTables(); err != nil {
		return err
	}
	if err := d.putFamilies(moving6); err != nil {
		return err
	}
	for i := range d.Attachments {
		if err := d.attach(ctx, &d.Attachments[i], moving[d.Attachments[i].Name]); err != nil {
			return err
		}
	}
	Grace() // no packet is under way any more that writes to the old tables
	if err := d.moveTables(); err != nil {
		return err
	}
	for _, a := range d.Attachments {
		if err := d.putFamily(a.Slot, d.program6[a.Slot]); err != nil {
			return err
		}
		if err := d.exchange(a.Name, d.program[a.Name]); err != nil {
			return err
		}
	}
	if err := d.separateTwins(); err != nil {
		return err
	}
	if err := d.commitMaps(); err != nil {
		return err
	}
	d.closeLeft()
	return nil
}

// closePrograms lets go of programs, of which some may be nil.
func closePrograms[K comparable](programs map[K]*ebpf.Program) {
	for _, p := range programs {
		_ = p.Close()
	}
}

// loadMoving makes a program of an interface that finds what is not copied
// yet: in the table that is left behind, if that table's words are today's.
func (d *Datapath) loadMoving(a Attachment) (*ebpf.Program, error) {
	spec := d.spec.Copy()
	more, err := d.leaveTables(spec, "flows", "templates")
	if err != nil {
		return nil, err
	}
	prog, ownMAC, err := d.load(spec, a.Slot, more)
	if err != nil {
		return nil, err
	}
	if err := ownMAC.Set(d.Interfaces[a.Slot].MAC); err != nil {
		return nil, fmt.Errorf("interface %s: MAC of the packet path: %w", a.Name, err)
	}
	return prog, nil
}

// loadMoving6 is [Datapath.loadMoving] of IPv6; nil where IPv6 is not served.
func (d *Datapath) loadMoving6(a Attachment) (*ebpf.Program, error) {
	if !d.opts.IPv6 {
		return nil, nil
	}
	spec, err := bpf.LoadSpec6()
	if err != nil {
		return nil, err
	}
	more, err := d.leaveTables(spec, "flows6", "templates6")
	if err != nil {
		return nil, err
	}
	prog, ownMAC, err := d.loadProgram6(spec, a.Slot, more)
	if err != nil {
		return nil, err
	}
	if err := ownMAC.Set(d.Interfaces[a.Slot].MAC); err != nil {
		return nil, fmt.Errorf("interface %s: MAC of the packet path: %w", a.Name, err)
	}
	return prog, nil
}

// leaveTables tells the packet path of an object which of its tables are left
// behind, and gives those that it can read.
func (d *Datapath) leaveTables(spec *ebpf.CollectionSpec, flows, templates string) (map[string]*ebpf.Map, error) {
	more := map[string]*ebpf.Map{}
	for table, constant := range map[string]string{flows: "old_flow_sets", templates: "old_template_sets"} {
		l, name := d.leftTable(table)
		if l == nil {
			continue
		}
		value := l.old.MaxEntries()
		if p := piecedTableOf(name); p != nil && name == p.pieces {
			value = p.sets(l.old) | inPieces
		}
		if !l.isReadable() {
			constant, value = "flows_are_unread", 1
			if table != flows {
				continue
			}
		} else {
			more[oldPrefix+name] = l.old
		}
		if err := spec.Variables[constant].Set(value); err != nil {
			return nil, fmt.Errorf("constant %s: %w", constant, err)
		}
	}
	return more, nil
}

// leftTable is the map that a table was in which is left behind, with its name;
// nil if there is none, or nothing was in it.
func (d *Datapath) leftTable(table string) (*leftMap, string) {
	if p := piecedTableOf(table); p != nil {
		if l := d.left[p.pieces]; l != nil && p.sets(l.old) > 0 {
			return l, p.pieces
		}
	}
	l := d.left[table]
	if l == nil || l.old.MaxEntries() <= 2 && piecedTableOf(table) != nil || isTable6(table) && l.old.MaxEntries() <= 1 {
		return nil, "" // of a director that served IPv4 alone, or whose flows are in pieces
	}
	return l, table
}

// isReadable reports whether the packet path can read the values of a map.
func (l *leftMap) isReadable() bool { return l.from != nil && isSameLayout(l.to, l.from) }

// moveTables copies flows and templates. It is called before packets change
// over to the new tables, for nearly all of them, and after, for those that
// were opened in between.
func (d *Datapath) moveTables() error {
	for name, into := range map[string][]uint64{"flows": d.Flows, "templates": d.Templates, "flows6": d.Flows6, "templates6": d.Templates6} {
		l, _ := d.leftTable(name)
		if l == nil || isTable6(name) && !d.opts.IPv6 {
			continue
		}
		m, err := d.newMover(name, l, into)
		if err != nil {
			return err
		}
		if m == nil {
			d.opts.Log.Warn("a table of another kind cannot be read: its entries are lost", "table", name, "why", l.why)
			continue
		}
		if err := m.run(); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		if m.lost > 0 {
			d.opts.Log.Warn("the new table is too small for all entries of the old one", "table", name, "lost", m.lost)
		}
	}
	return nil
}

// separateTwins looks once more at the flows of IPv6 that were moved, when no
// packet is under way any more that could not see one of two twins.
func (d *Datapath) separateTwins() error {
	l, _ := d.leftTable("flows6")
	if l == nil || !d.opts.IPv6 || d.pieces[1] != nil { // into pieces it was the packet path that put them
		return nil
	}
	m, err := d.newMover("flows6", l, d.Flows6)
	if m == nil || err != nil {
		return err
	}
	Grace()
	m.each(func(e moved, sets [2]uint32) { m.disproveTwins(sets, e) })
	return nil
}

// newMover is nil for a table that is not made of sets as they are now.
func (d *Datapath) newMover(name string, l *leftMap, into []uint64) (*mover, error) {
	stride := strideOf(name)
	to, from := tableTypes(l, stride)
	if from == nil {
		return nil, nil
	}
	m := &mover{
		into: into, stride: stride,
		keys: planCopies(to.key, from.key), values: planCopies(to.value, from.value),
		toValue: to.value, fromValue: from.value, sameValues: isSameLayout(to.value, from.value),
	}
	if err := d.openLeft(m, name, l); err != nil {
		return nil, err
	}
	switch name {
	case "flows":
		d.moveFlows(m)
	case "flows6":
		d.moveFlows(m)
		m.hasTwins = true
		m.hashOf = func(key, value uint64) (uint64, bool) {
			return d.Settings.FlowHash6(bpf.FlowKey(key), bpf.FlowValue(value).Port()), true
		}
	default:
		d.moveTemplates(m)
	}
	return m, nil
}

// openLeft has m read a table that is left behind, and write one in pieces if
// that is where its flows go.
func (d *Datapath) openLeft(m *mover, name string, l *leftMap) (err error) {
	family := 0
	if isTable6(name) {
		family = 1
	}
	if p := piecedTableOf(name); p != nil && d.pieces[family] != nil {
		m.intoPieces = &pieceMover{d: d, family: family}
	}
	if l.old.Type() == ebpf.ArrayOfMaps {
		if l.pieces == nil {
			l.pieces, err = d.newPieces(family, l.old)
		}
		m.fromPieces = l.pieces
		return err
	}
	if l.memory.bytes == nil {
		if l.memory, err = mapMemory(l.old); err != nil {
			return err
		}
	}
	m.from = view[uint64](l.memory, uint32(m.stride)*l.old.MaxEntries())
	return nil
}

// entryTypes are the types of a table's keys and values.
type entryTypes struct{ key, value *btf.Struct }

// tableTypes are the types of a table and of the one that is left behind; nil
// if that is not made of sets as they are now.
func tableTypes(l *leftMap, stride int) (to, from *entryTypes) {
	of := func(t btf.Type) *entryTypes {
		s, ok := t.(*btf.Struct)
		if !ok || int(s.Size) != stride*8 || len(s.Members) != 2 && stride == wordsOfSet || len(s.Members) != 3 && stride != wordsOfSet {
			return nil
		}
		e := &entryTypes{key: elementOf(s.Members[0]), value: elementOf(s.Members[1])}
		if e.key == nil || e.value == nil {
			return nil
		}
		return e
	}
	return of(l.to), of(l.from)
}

// elementOf is the struct that a member is an array of.
func elementOf(m btf.Member) *btf.Struct {
	if a, ok := btf.UnderlyingType(m.Type).(*btf.Array); ok && a.Nelems == bpf.Ways {
		s, _ := btf.UnderlyingType(a.Type).(*btf.Struct)
		return s
	}
	return nil
}

func (d *Datapath) moveFlows(m *mover) {
	vips := d.addressesOfNumbers()
	m.hashOf = func(key, value uint64) (uint64, bool) {
		k, v := bpf.FlowKey(key), bpf.FlowValue(value)
		vip, ok := vips[k.VIP()]
		if !ok {
			return 0, false
		}
		return d.Settings.FlowHash(netip.AddrPortFrom(k.Client(), k.ClientPort()), netip.AddrPortFrom(vip, v.Port())), true
	}
	m.mergeProven = provenMerger(m.toValue, m.fromValue)
	m.isSame = func(a, b uint64) bool { return bpf.FlowValue(a).Port() == bpf.FlowValue(b).Port() }
	m.isLive = func(v uint64) bool { return bpf.FlowValue(v).IsLive() }
	m.isWorthLess = func(a, b uint64) bool { return !bpf.FlowValue(a).IsProven() && bpf.FlowValue(b).IsProven() }
	m.busy = func(v uint64) uint64 { return uint64(bpf.FlowValue(v).Claimed()) }
	m.withNonce = func(v, of uint64) uint64 { return uint64(bpf.FlowValue(v).WithNonce(bpf.FlowValue(of).Nonce())) }
}

// addressesOfNumbers are the addresses that flow keys name by numbers. Where the halves
// differ, the one in force is right: the other one may name the VIP that had the number
// before.
func (d *Datapath) addressesOfNumbers() map[uint16]netip.Addr {
	vips := map[uint16]netip.Addr{}
	half := d.Settings.Half & 1
	for _, h := range []uint32{1 - half, half} {
		for _, line := range d.VIPs[h*bpf.VIPLines : (h+1)*bpf.VIPLines] {
			for _, v := range line.Way {
				for _, n := range []uint16{v.TCP, v.UDP} {
					if n != 0 {
						vips[n] = v.Addr.Addr()
					}
				}
			}
		}
	}
	return vips
}

func (d *Datapath) moveTemplates(m *mover) {
	m.hashOf = func(key, _ uint64) (uint64, bool) { return d.Settings.TemplateHash(bpf.TemplateKey(key)), true }
	m.isSame = func(uint64, uint64) bool { return true }
	m.isLive = func(v uint64) bool { return bpf.TemplateValue(v).IsLive() }
	m.isWorthLess = func(a, b uint64) bool { return !bpf.TemplateValue(a).IsAssured() && bpf.TemplateValue(b).IsAssured() }
	m.busy = func(v uint64) uint64 { return uint64(bpf.TemplateValue(v).Claimed()) }
	m.withNonce = func(v, of uint64) uint64 {
		return uint64(bpf.TemplateValue(v).WithNonce(bpf.TemplateValue(of).Nonce()))
	}
}
