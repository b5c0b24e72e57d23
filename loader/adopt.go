package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/lvx-lb/lvx/bpf"
)

// leftMap is a predecessor's map that cannot be adopted, because its layout
// or its size is another. What it holds is copied.
type leftMap struct {
	old      *ebpf.Map
	from, to btf.Type // of its values; nil if from is not known
	memory   mapped   // of old, if that can be mapped
	pieces   *Pieces  // to read old with, if it is a table in pieces
	why      string   // it cannot be adopted
}

// newPrefix stands before the name of a map that takes the place of a pinned
// one, until packets have changed over to it.
const newPrefix = "new_"

// pinnedMaps opens a predecessor's maps, each by itself: what can be adopted
// is, what cannot is left behind and copied. A map whose pin is gone is taken
// from the program in force, if there is one. Without the settings, which hold
// the seeds of the tables' hashes, nothing can be understood.
func (d *Datapath) pinnedMaps() (adopted map[string]*ebpf.Map, err error) {
	adopted = map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			closeMaps(adopted)
		}
	}()
	for name := range d.spec.Maps {
		if !pinned(name) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(d.pins.file(name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			if m = d.mapInForce(name); m == nil {
				continue
			}
			d.unpinned[name] = true
		} else if err != nil {
			return adopted, fmt.Errorf("pinned map %s: %w", name, err)
		}
		d.keepRoom(name, m)
		l := d.compareLayout(name, m)
		if l.why == "" {
			adopted[name] = m
			continue
		}
		d.left[name] = l
	}
	return adopted, nil
}

// compareLayout says in why if a pinned map cannot be adopted.
func (d *Datapath) compareLayout(name string, m *ebpf.Map) *leftMap {
	spec := d.spec.Maps[name]
	l := &leftMap{old: m, to: bpf.ElementOf(spec)}
	if err := spec.Compatible(m); err != nil {
		l.why = err.Error()
	}
	if spec.InnerMap != nil {
		l.comparePieces(spec)
		return l
	}
	for _, t := range []btf.Type{spec.Key, l.to} {
		if t == nil || t.TypeName() == "" {
			continue
		}
		if _, ok := btf.UnderlyingType(t).(*btf.Struct); !ok {
			if _, ok := btf.UnderlyingType(t).(*btf.Int); ok && t == l.to && m.ValueSize() == spec.ValueSize {
				l.from = t // a number, of which there may be more now
			}
			continue
		}
		from, err := valueType(m, t.TypeName())
		switch {
		case err != nil:
			l.why = err.Error()
		case !isSameLayout(t, from):
			l.why = "its layout is another"
		}
		if t == l.to {
			l.from = from
		}
	}
	if name == "verdicts" && l.old.Type() == ebpf.PerCPUArray {
		l.from, _ = valueType(m, "tally") // of a version that had one for each verdict and CPU
	}
	return l
}

// reportLeft tells the user what is copied.
func (d *Datapath) reportLeft() {
	var names []string
	for name, l := range d.left {
		names = append(names, name+" ("+l.why+")")
	}
	slices.Sort(names)
	if len(names) > 0 {
		d.opts.Log.Info("maps of another layout or size are copied; connections go along", "maps", strings.Join(names, ", "))
	}
}

// copyLeft fills the new maps from those left behind, all but the tables that
// packets write.
func (d *Datapath) copyLeft() error {
	return d.eachMap(func(name string, m **ebpf.Map) error {
		l := d.left[name]
		if l == nil || l.from == nil {
			return nil
		}
		if err := d.opts.fail("copy"); err != nil {
			return err
		}
		switch name {
		case "flows", "flow_pieces", "templates", "flows6", "flow_pieces6", "templates6":
			return nil // by moveTables
		case "families":
			return nil // by putFamilies
		case "locks", "fragments", "fragments6", "held", "answers", "turns", "flow_news", "template_news", "flow_news6", "template_news6", "absorptions":
			return nil // nothing that lasts
		case "vips", "ports", "ranges", "services", "replies":
			if elementsOf(l.old, l.from) != elementsOf(*m, l.to) {
				return nil // where a thing lies depends on the size: laid out anew
			}
		}
		switch (*m).Type() {
		case ebpf.Array:
			if l.old.Type() == ebpf.PerCPUArray {
				return l.copyVerdicts(*m)
			}
			return l.copyArray(name, *m)
		case ebpf.PerCPUArray:
			return d.copyPerCPU(l, *m)
		case ebpf.LPMTrie, ebpf.Hash:
			return l.copyEntries(*m)
		}
		return nil
	})
}

func (l *leftMap) copyArray(name string, m *ebpf.Map) error {
	from, err := mapMemory(l.old)
	if err != nil {
		return err
	}
	defer from.unmap()
	to, err := mapMemory(m)
	if err != nil {
		return err
	}
	defer to.unmap()
	plan := planCopies(l.to, l.from)
	fromSize, toSize := strideOfType(l.from), strideOfType(l.to)
	for i := range min(elementsOf(l.old, l.from), elementsOf(m, l.to)) {
		convertValue(plan, to.bytes[i*toSize:(i+1)*toSize], from.bytes[i*fromSize:(i+1)*fromSize])
	}
	return nil
}

// copyVerdicts copies the verdicts' counts of a version that had them in an array
// of the kernel's own for each CPU.
func (l *leftMap) copyVerdicts(m *ebpf.Map) error {
	to, err := mapMemory(m)
	if err != nil {
		return err
	}
	defer to.unmap()
	counts := viewAll[bpf.VerdictCounts](to, m)
	for v := range min(l.old.MaxEntries(), bpf.CountedVerdicts) {
		var was []bpf.Tally
		if err := l.old.Lookup(v, &was); err != nil {
			return fmt.Errorf("%s: %w", l.old, err)
		}
		for cpu := range min(len(was), len(counts)) {
			counts[cpu].Of[v] = was[cpu]
		}
	}
	return nil
}

// strideOfType is how far apart values of a type lie.
func strideOfType(t btf.Type) int {
	size, err := btf.Sizeof(t)
	if err != nil {
		return 0
	}
	return (size + 7) / 8 * 8
}

// elementsOf is how many values of a type an array holds, as entries or in one
// ([bpf.ElementOf]).
func elementsOf(m *ebpf.Map, t btf.Type) int {
	return int(m.MaxEntries()) * stride(m) / max(strideOfType(t), 1)
}

// copyPerCPU copies the counters of the slots that are in use.
func (d *Datapath) copyPerCPU(l *leftMap, m *ebpf.Map) error {
	plan := planCopies(l.to, l.from)
	n := min(l.old.MaxEntries(), m.MaxEntries())
	if used := d.usedReals(); n > used && n > 4096 {
		n = used
	}
	for i := range n {
		var was [][]byte
		if err := l.old.Lookup(i, &was); err != nil {
			return fmt.Errorf("%s: %w", l.old, err)
		}
		now := make([][]byte, len(was))
		for cpu := range was {
			now[cpu] = make([]byte, m.ValueSize())
			convertValue(plan, now[cpu], was[cpu])
		}
		if err := m.Put(i, now); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	return nil
}

// usedReals is how many slots of reals may be in use by the predecessor's map,
// which was adopted or is left behind.
func (d *Datapath) usedReals() uint32 {
	reals := d.Maps.Reals
	if l := d.left["reals"]; l != nil {
		reals = l.old
	}
	mem, err := mapMemory(reals)
	if err != nil {
		return reals.MaxEntries()
	}
	defer mem.unmap()
	size := stride(reals)
	for n := reals.MaxEntries(); n > 0; n-- {
		entry := mem.bytes[int(n-1)*size : int(n)*size]
		if slices.ContainsFunc(entry, func(b byte) bool { return b != 0 }) {
			return n
		}
	}
	return 0
}

// copyEntries copies a hash or a trie whose keys are the same.
func (l *leftMap) copyEntries(m *ebpf.Map) error {
	if l.old.KeySize() != m.KeySize() {
		return nil
	}
	plan := planCopies(l.to, l.from)
	var key, was []byte
	for it := l.old.Iterate(); it.Next(&key, &was); {
		now := make([]byte, m.ValueSize())
		convertValue(plan, now, was)
		if err := m.Put(key, now); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	return nil
}

// commitMaps gives the new maps the names of those that are left behind:
// from here on a successor adopts them.
func (d *Datapath) commitMaps() error {
	return d.eachMap(func(name string, m **ebpf.Map) error {
		if d.left[name] == nil {
			return nil
		}
		if err := os.Remove(d.pins.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin the map that is left behind: %w", err)
		}
		if err := (*m).Pin(d.pins.file(name)); err != nil {
			return fmt.Errorf("pin map to %s: %w", d.pins.file(name), err)
		}
		return nil
	})
}

// closeLeft lets go of what is left behind.
func (d *Datapath) closeLeft() {
	for name, l := range d.left {
		l.memory.unmap()
		l.pieces.close()
		_ = l.old.Close()
		delete(d.left, name)
	}
	for _, p := range d.previous {
		_ = p.Close()
	}
	d.previous = nil
}
