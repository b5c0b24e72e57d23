package loader

import (
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// takeBack undoes a change to new maps that has failed: packets meet the
// programs, and with them the maps, that they met before.
func (d *Datapath) takeBack() {
	for name, prog := range d.previous {
		if l := d.links[name]; l != nil {
			_ = l.Update(prog)
		}
	}
	for name := range d.left {
		_ = os.Remove(d.pins.file(newPrefix + name))
	}
}

// recoverPins ends what a predecessor has begun: if packets use the new maps
// already, these take their names, else they go.
func (d *Datapath) recoverPins() error {
	entries, err := os.ReadDir(string(d.pins))
	if err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	var used map[ebpf.MapID]bool
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), newPrefix)
		if !ok {
			continue
		}
		if used == nil {
			used = d.mapsInForce()
		}
		if err := d.recoverPin(name, used); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) recoverPin(name string, used map[ebpf.MapID]bool) error {
	path := d.pins.file(newPrefix + name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return fmt.Errorf("pinned map %s%s: %w", newPrefix, name, err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("pinned map %s%s: %w", newPrefix, name, err)
	}
	if id, ok := info.ID(); !ok || !used[id] {
		return os.Remove(path)
	}
	return os.Rename(path, d.pins.file(name))
}

// mapsInForce are the maps of the programs in the pinned links.
func (d *Datapath) mapsInForce() map[ebpf.MapID]bool {
	used := map[ebpf.MapID]bool{}
	names, _ := d.pins.linked()
	for _, name := range names {
		l, err := link.LoadPinnedLink(d.pins.link(name), nil)
		if err != nil {
			continue
		}
		if prog := programOf(l); prog != nil {
			if info, err := prog.Info(); err == nil {
				ids, _ := info.MapIDs()
				for _, id := range ids {
					used[id] = true
				}
			}
			_ = prog.Close()
		}
		_ = l.Close()
	}
	for id := range maps.Clone(used) {
		addCalled(used, id)
	}
	return used
}

// addCalled adds the maps of the programs that others call by a map, if it is
// such a map.
func addCalled(used map[ebpf.MapID]bool, id ebpf.MapID) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return
	}
	defer m.Close()
	if m.Type() != ebpf.ProgramArray {
		return
	}
	for slot := range m.MaxEntries() {
		var prog *ebpf.Program
		if m.Lookup(slot, &prog) != nil {
			continue
		}
		if info, err := prog.Info(); err == nil {
			ids, _ := info.MapIDs()
			for _, id := range ids {
				used[id] = true
			}
		}
		_ = prog.Close()
	}
}

// mapInForce is the map of a name that packets use, nil if there is none: the
// programs in the pinned links hold it, also without a pin of its own.
func (d *Datapath) mapInForce(name string) *ebpf.Map {
	if d.inForce == nil {
		d.inForce = d.mapsInForce()
	}
	for id := range d.inForce {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if info, err := m.Info(); err == nil && info.Name == name {
			return m
		}
		_ = m.Close()
	}
	return nil
}

// programOf is the program in a link; nil if that cannot be known.
func programOf(l link.Link) *ebpf.Program {
	info, err := l.Info()
	if err != nil {
		return nil
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return nil
	}
	return prog
}
