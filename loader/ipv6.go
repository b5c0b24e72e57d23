package loader

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// program6 is the packet path of IPv6, which that of IPv4 calls by the map
// families.
const program6 = "lb6"

// isTable6 reports whether a map is one of IPv6's tables.
func isTable6(name string) bool { return name == "flows6" || name == "templates6" }

// addMaps6 adds the maps of IPv6 to the object of IPv4, as large as they are
// needed: where IPv6 is not served, of one entry.
func addMaps6(spec *ebpf.CollectionSpec, o Options) error {
	spec6, err := bpf.LoadSpec6()
	if err != nil {
		return err
	}
	flows, templates := sets(o.Flows), sets(o.Templates)
	for name, entries := range map[string]uint32{
		"flows6": flows, "flow_pieces6": 1, "templates6": templates, "fragments6": spec6.Maps["fragments6"].MaxEntries,
		"flow_news6": newsLines(flows), "template_news6": newsLines(templates),
	} {
		m := spec6.Maps[name]
		if m.MaxEntries = entries; !o.IPv6 {
			m.MaxEntries = 1
		}
		spec.Maps[name] = m
	}
	if o.IPv6 {
		piecedTables[1].size(spec, flows, o)
	}
	return nil
}

// prepareNames draws the secret words by which IPv6 clients are named, if none
// are drawn yet.
func (d *Datapath) prepareNames() error {
	keys := &d.Settings.NameKey
	if *keys != [len(keys)]uint64{} {
		return nil
	}
	var secret [8 * len(keys)]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return fmt.Errorf("secret of IPv6 names: %w", err)
	}
	for i := range keys {
		keys[i] = binary.NativeEndian.Uint64(secret[8*i:])
	}
	return nil
}

// load6 makes the program of IPv6 of an interface, where IPv6 is served.
func (d *Datapath) load6(slot uint32) error {
	if !d.opts.IPv6 {
		return nil
	}
	spec, err := bpf.LoadSpec6()
	if err != nil {
		return err
	}
	if d.program6 == nil {
		d.program6, d.ownMAC6 = map[uint32]*ebpf.Program{}, map[uint32]*ebpf.Variable{}
	}
	d.program6[slot], d.ownMAC6[slot], err = d.loadProgram6(spec, slot, nil)
	return err
}

// loadProgram6 makes the program of IPv6 of an interface over the shared maps.
func (d *Datapath) loadProgram6(spec *ebpf.CollectionSpec, slot uint32, more map[string]*ebpf.Map) (prog *ebpf.Program, ownMAC *ebpf.Variable, err error) {
	coll, err := d.loadCollection(spec, program6, slot, more)
	if err != nil {
		return nil, nil, fmt.Errorf("IPv6: %w", err)
	}
	defer coll.Close()
	return coll.DetachProgram(program6), coll.Variables["own_mac"], nil
}

// putFamilies puts programs of IPv6 in force, and takes a predecessor's away
// where there is none. It comes before the programs that call them are exchanged.
func (d *Datapath) putFamilies(programs map[uint32]*ebpf.Program) error {
	d.previous6 = map[uint32]*ebpf.Program{}
	for slot := range d.Maps.Families.MaxEntries() {
		var was *ebpf.Program
		err := d.Maps.Families.Lookup(slot, &was)
		if err == nil {
			d.previous6[slot] = was
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("programs of IPv6: %w", err)
		}
		if err := d.opts.fail("families"); err != nil {
			return err
		}
		if err := d.putFamily(slot, programs[slot]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) putFamily(slot uint32, prog *ebpf.Program) error {
	var err error
	if prog != nil {
		err = d.Maps.Families.Put(slot, prog)
	} else if err = d.Maps.Families.Delete(slot); errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("program of IPv6: %w", err)
	}
	return nil
}

// takeBackFamilies undoes putFamilies: what a predecessor left serves on.
func (d *Datapath) takeBackFamilies() {
	if d.previous6 == nil || d.Maps.Families == nil {
		return
	}
	for slot := range d.Maps.Families.MaxEntries() {
		_ = d.putFamily(slot, d.previous6[slot])
	}
}

// Program6 is the program of IPv6 of one of the interfaces, nil if it serves
// IPv4 alone; for tests.
func (d *Datapath) Program6(slot uint32) *ebpf.Program { return d.program6[slot] }
