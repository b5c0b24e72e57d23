package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Absorb stores what a peer director told of IPv4 in the tables, at most
// bpf.Absorptions entries at a time, and puts what became of each into its
// Outcome. One call at a time, of Absorb6 too.
func (d *Datapath) Absorb(entries []bpf.Absorption) error {
	if err := d.loadAbsorb(0); err != nil {
		return err
	}
	return d.absorbBy(d.absorb[0], entries)
}

// Absorb6 is [Datapath.Absorb] of IPv6, where that is served.
func (d *Datapath) Absorb6(entries []bpf.Absorption) error {
	if err := d.loadAbsorb(1); err != nil {
		return err
	}
	return d.absorbBy(d.absorb[1], entries)
}

// PrepareAbsorb makes the programs that absorb, so that the first entries of a peer
// do not wait for that.
func (d *Datapath) PrepareAbsorb() error {
	if err := d.loadAbsorb(0); err != nil || !d.opts.IPv6 {
		return err
	}
	return d.loadAbsorb(1)
}

// loadAbsorb makes the program of a family, if it is not there yet.
func (d *Datapath) loadAbsorb(family int) (err error) {
	if d.absorb[family] != nil {
		return nil
	}
	spec := d.spec
	if family == 1 {
		if spec, err = bpf.LoadSpec6(); err != nil {
			return err
		}
	}
	coll, err := d.loadCollection(spec, "absorb", 0, nil)
	if err != nil {
		return err
	}
	defer coll.Close()
	d.absorb[family] = coll.DetachProgram("absorb")
	return nil
}

// absorbBy has a program absorb.
func (d *Datapath) absorbBy(program *ebpf.Program, entries []bpf.Absorption) error {
	frame := make([]byte, 64) // the least that the kernel runs an XDP program with
	for len(entries) > 0 {
		n := copy(d.absorptions.Entry[:], entries)
		d.absorptions.Count = uint32(n)
		if _, err := program.Run(&ebpf.RunOptions{Data: frame}); err != nil {
			return fmt.Errorf("absorb: %w", err)
		}
		copy(entries, d.absorptions.Entry[:n])
		entries = entries[n:]
	}
	return nil
}
