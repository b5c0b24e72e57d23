package loader

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
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
	spec, err := sizedSpec(d.opts)
	if err != nil {
		return err
	}
	d.spec = spec
	if d.opts.Detached {
		if err := d.makeMaps(nil); err != nil {
			return err
		}
		return d.fillPieces(nil)
	}
	if err := d.pinFound(); err != nil {
		return err
	}
	if err := d.recoverPins(); err != nil {
		return err
	}
	adopted, err := d.pinnedMaps()
	if err != nil {
		return err
	}
	if d.Adopted = adopted["settings"] != nil || d.left["settings"] != nil; !d.Adopted {
		closeMaps(adopted)
		adopted = nil
		d.closeLeft()
		if err := d.clearStale(); err != nil {
			return err
		}
	}
	d.reportLeft()
	if err := d.makeMaps(adopted); err != nil {
		return err
	}
	if err := d.fillPieces(adopted); err != nil {
		return err
	}
	if err := d.pinMaps(adopted); err != nil {
		return err
	}
	return d.copyLeft()
}

// makeMaps makes the maps that are not among the adopted ones, and closes
// these. Programs are loaded once per interface, later.
func (d *Datapath) makeMaps(adopted map[string]*ebpf.Map) error {
	coll, err := ebpf.NewCollectionWithOptions(mapsOnly(d.spec), ebpf.CollectionOptions{MapReplacements: adopted})
	closeMaps(adopted) // the collection holds clones
	if err != nil {
		return fmt.Errorf("maps: %w", err)
	}
	defer coll.Close()
	return d.takeMaps(coll)
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

// oldPrefix stands before the names of tables that are left behind.
const oldPrefix = "old_"

// pinned reports whether a map outlives the program: all do but constants, the
// window to pieces, and what is left behind.
func pinned(name string) bool {
	return name != "" && name[0] != '.' && name != "flow_window" && !strings.HasPrefix(name, oldPrefix)
}

// eachMap visits the fields of bpf.Maps and bpf.Maps6 with the names that the object gives
// them.
func (d *Datapath) eachMap(visit func(name string, m **ebpf.Map) error) error {
	for _, v := range []reflect.Value{reflect.ValueOf(&d.Maps).Elem(), reflect.ValueOf(&d.Maps6).Elem()} {
		for i := range v.NumField() {
			name := v.Type().Field(i).Tag.Get("ebpf")
			if !pinned(name) {
				continue
			}
			if err := visit(name, v.Field(i).Addr().Interface().(**ebpf.Map)); err != nil {
				return err
			}
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

// pinMaps pins the maps that were not adopted, or had lost their pins: those that take the place of
// others under a name of their own, until packets use them.
func (d *Datapath) pinMaps(adopted map[string]*ebpf.Map) error {
	err := d.eachMap(func(name string, m **ebpf.Map) error {
		if adopted[name] != nil && !d.unpinned[name] {
			return nil
		}
		path := d.pins.file(name)
		if d.left[name] != nil {
			path = d.pins.file(newPrefix + name)
		}
		if err := d.opts.fail("pin"); err != nil {
			return err
		}
		if err := (*m).Pin(path); err != nil {
			return fmt.Errorf("pin map to %s: %w", path, err)
		}
		return nil
	})
	if err != nil && !d.Adopted {
		_ = d.clearStale()
	}
	return err
}

// prepare fills what must be right before the first packet, and loads the
// clock.
func (d *Datapath) prepare() error {
	if !d.Adopted {
		var seed [8 * len(d.Settings.Seed)]byte
		if _, err := rand.Read(seed[:]); err != nil {
			return fmt.Errorf("hash seed: %w", err)
		}
		for i := range d.Settings.Seed {
			d.Settings.Seed[i] = binary.NativeEndian.Uint64(seed[8*i:])
		}
	}
	if err := d.prepareNames(); err != nil {
		return err
	}
	d.Settings.Version = Layout
	for state, proven := 1, 9; proven < len(d.Settings.Timeout); state, proven = state+1, proven+1 {
		if d.Settings.Timeout[proven] == 0 { // of an older layout, which knew these states by another bit
			d.Settings.Timeout[proven] = d.Settings.Timeout[state]
		}
	}
	return d.loadClock()
}

func (d *Datapath) loadClock() error {
	p, err := ebpf.NewProgram(d.spec.Copy().Programs["clock"])
	if err != nil {
		return fmt.Errorf("load clock program: %w", err)
	}
	d.clock = p
	return nil
}
