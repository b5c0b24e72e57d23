package loader

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/lvx-lb/lvx/bpf"
)

// sets is how many sets of four a table needs so that n entries are
// guaranteed a place: one each, 64 bytes an entry. A quarter full, no key
// finds both of its sets taken.
func sets(n int) uint32 { return max(uint32(n+1)/2*2, 256) }

// openMaps adopts the pinned maps or makes new ones and pins them.
func (d *Datapath) openMaps() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("memory lock limit: %w", err)
	}
	spec, err := bpf.LoadSpec()
	if err != nil {
		return fmt.Errorf("packet path object: %w", err)
	}
	spec.Maps["flows"].MaxEntries = sets(d.opts.Flows)
	spec.Maps["templates"].MaxEntries = sets(d.opts.Templates)
	for _, table := range []string{"flow", "template"} {
		n := spec.Maps[table+"s"].MaxEntries
		spec.Maps[table+"_news"].MaxEntries = (n + bpf.NewsLineSets - 1) / bpf.NewsLineSets
	}
	d.spec = spec
	old, err := d.pinnedMaps()
	if err != nil {
		return err
	}
	d.Adopted = old != nil
	if old == nil {
		if err := d.clearStale(); err != nil {
			return err
		}
	}
	// Only the maps: programs are loaded once per interface.
	coll, err := ebpf.NewCollectionWithOptions(mapsOnly(spec), ebpf.CollectionOptions{MapReplacements: old})
	for _, m := range old {
		_ = m.Close() // the collection holds clones
	}
	if err != nil {
		return fmt.Errorf("maps: %w", err)
	}
	defer coll.Close()
	if err := d.takeMaps(coll); err != nil {
		return err
	}
	if d.Adopted {
		return nil
	}
	return d.pinMaps()
}

// mapsOnly is spec without programs and without what only programs use.
func mapsOnly(spec *ebpf.CollectionSpec) *ebpf.CollectionSpec {
	c := spec.Copy()
	c.Programs = nil
	for name := range c.Maps {
		if !pinned(name) {
			delete(c.Maps, name)
		}
	}
	for name := range c.Variables {
		delete(c.Variables, name)
	}
	return c
}

// pinned reports whether a map outlives the program: all do but constants.
func pinned(name string) bool { return name != "" && name[0] != '.' }

// eachMap visits the fields of bpf.Maps with the names that the object gives
// them.
func (d *Datapath) eachMap(visit func(name string, m **ebpf.Map) error) error {
	v := reflect.ValueOf(&d.Maps).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("ebpf")
		if !pinned(name) {
			continue
		}
		if err := visit(name, v.Field(i).Addr().Interface().(**ebpf.Map)); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) takeMaps(coll *ebpf.Collection) error {
	return d.eachMap(func(name string, m **ebpf.Map) error {
		*m = coll.DetachMap(name)
		if *m == nil {
			return fmt.Errorf("map %s is missing in the object", name)
		}
		return nil
	})
}

// pinnedMaps opens a predecessor's maps: nil if there are none, or if they
// are of another layout or size, which is said aloud.
func (d *Datapath) pinnedMaps() (map[string]*ebpf.Map, error) {
	old := map[string]*ebpf.Map{}
	closeAll := func() {
		for _, m := range old {
			_ = m.Close()
		}
	}
	stale := "" // why they cannot be adopted
	for name, spec := range d.spec.Maps {
		if !pinned(name) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(d.pins.file(name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			stale = name + " is missing"
			continue
		}
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("pinned map %s: %w", name, err)
		}
		old[name] = m
		if err := spec.Compatible(m); err != nil {
			stale = fmt.Sprintf("%s: %v", name, err)
		}
	}
	if len(old) == 0 {
		return nil, nil
	}
	var s bpf.Settings
	if m := old["settings"]; m != nil && (m.Lookup(uint32(0), &s) != nil || s.Version != Layout) {
		stale = fmt.Sprintf("their layout is version %d, not %d", s.Version, Layout)
	}
	if stale != "" {
		d.opts.Log.Warn("pinned maps are of another version or size; starting with empty tables, connections are scheduled anew", "why", stale)
		closeAll()
		return nil, nil
	}
	return old, nil
}

// clearStale takes away maps that cannot be adopted. The links stay: they
// get the new program.
func (d *Datapath) clearStale() error {
	return d.eachMap(func(name string, _ **ebpf.Map) error {
		err := os.Remove(d.pins.file(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin stale map %s: %w", name, err)
		}
		return nil
	})
}

func (d *Datapath) pinMaps() error {
	err := d.eachMap(func(name string, m **ebpf.Map) error {
		if err := d.opts.fail("pin"); err != nil {
			return err
		}
		if err := (*m).Pin(d.pins.file(name)); err != nil {
			return fmt.Errorf("pin map to %s: %w", d.pins.file(name), err)
		}
		return nil
	})
	if err != nil {
		_ = d.clearStale()
	}
	return err
}

// prepare fills what must be right before the first packet, and loads the
// clock.
func (d *Datapath) prepare() error {
	if !d.Adopted {
		var seed [24]byte
		if _, err := rand.Read(seed[:]); err != nil {
			return fmt.Errorf("hash seed: %w", err)
		}
		for i := range d.Settings.Seed {
			d.Settings.Seed[i] = binary.NativeEndian.Uint64(seed[8*i:])
		}
		d.Settings.Version = Layout
	}
	spec := d.spec.Copy()
	p, err := ebpf.NewProgram(spec.Programs["clock"])
	if err != nil {
		return fmt.Errorf("load clock program: %w", err)
	}
	d.clock = p
	return nil
}
