package loader

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// constants are what the programs of an interface are loaded with, by the
// names of bpf/config.h.
func (d *Datapath) constants(slot uint32) (map[string]uint32, error) {
	pad, err := piecePad()
	if err != nil {
		return nil, err
	}
	hz := HZ()
	shift := TickShift(hz)
	renewal := renewalSeconds*hz>>shift + 1 // nothing ends early
	fragments := bpf.FragmentSeconds*hz>>shift + 1
	if d.opts.StillClock {
		shift = stillShift
	}
	return map[string]uint32{
		"interface_slot":     slot,
		"flow_sets":          piecedTables[0].flowSets(d.Maps.Flows, d.Maps.FlowPieces),
		"piece_pad":          pad,
		"template_sets":      d.Maps.Templates.MaxEntries(),
		"tick_shift":         shift,
		"jiffies_per_second": uint32(hz),
		"renewal_ticks":      uint32(renewal),
		"fragment_ticks":     uint32(fragments),
		"possible_cpus":      uint32(ebpf.MustPossibleCPU()),
	}, nil
}

// sharedMaps are the maps of an object that its programs share with others,
// and more; spec gets their sizes.
func (d *Datapath) sharedMaps(spec *ebpf.CollectionSpec, more map[string]*ebpf.Map) map[string]*ebpf.Map {
	shared := maps.Clone(more)
	if shared == nil {
		shared = map[string]*ebpf.Map{}
	}
	_ = d.eachMap(func(name string, m **ebpf.Map) error {
		if spec.Maps[name] != nil && more[name] == nil {
			shared[name] = *m
			spec.Maps[name].MaxEntries, spec.Maps[name].ValueSize = (*m).MaxEntries(), (*m).ValueSize()
		}
		return nil
	})
	for _, table := range []string{"flows", "templates", "flows6", "templates6", "flow_pieces", "flow_pieces6"} {
		old := oldPrefix + table
		if spec.Maps[old] == nil {
			continue
		}
		if shared[old] == nil { // nothing is left behind
			shared[old] = shared[table]
		}
		spec.Maps[old].MaxEntries = shared[old].MaxEntries()
	}
	return shared
}

// load makes the program of one interface over the shared maps.
func (d *Datapath) load(spec *ebpf.CollectionSpec, slot uint32, more map[string]*ebpf.Map) (prog *ebpf.Program, ownMAC *ebpf.Variable, err error) {
	coll, err := d.loadCollection(spec, "lb", slot, more)
	if err != nil {
		return nil, nil, err
	}
	defer coll.Close()
	prog, ownMAC = coll.DetachProgram("lb"), coll.Variables["own_mac"]
	return prog, ownMAC, d.bindMaps(prog)
}

// bindMaps has a program hold the maps, too, that user space alone uses: where
// their pins are gone, a successor finds them by the program.
func (d *Datapath) bindMaps(prog *ebpf.Program) error {
	return d.eachMap(func(name string, m **ebpf.Map) error {
		if err := prog.BindMap(*m); err != nil {
			return fmt.Errorf("bind map %s to the program: %w", name, err)
		}
		return nil
	})
}

// loadCollection loads one of an object's programs over the shared maps, and
// over more of its own.
func (d *Datapath) loadCollection(spec *ebpf.CollectionSpec, program string, slot uint32, more map[string]*ebpf.Map) (*ebpf.Collection, error) {
	spec = spec.Copy()
	constants, err := d.constants(slot)
	if err != nil {
		return nil, err
	}
	if spec.Programs[program6] != nil {
		constants["flow_sets"], constants["template_sets"] = piecedTables[1].flowSets(d.Maps6.Flows6, d.Maps6.FlowPieces6), d.Maps6.Templates6.MaxEntries()
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("constant %s: %w", name, err)
		}
	}
	replace := d.sharedMaps(spec, more)
	if more["flow_window"] == nil {
		delete(spec.Maps, "flow_window") // of programs for user space
	}
	for name := range spec.Programs {
		if name != program {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return nil, fmt.Errorf("the kernel's verifier refuses the packet path: %v (please report this with the output of `uname -a`)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load packet path: %w (lvx needs Linux 5.18 or later with BTF, and root)", err)
	}
	return coll, nil
}
