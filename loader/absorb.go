package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Absorptions is where entries are put for [Datapath.Absorb].
func (d *Datapath) Absorptions() *[bpf.Absorptions]bpf.Absorption { return &d.absorptions.Entry }

// Absorb stores the first n of [Datapath.Absorptions] in the tables of a family, 0 for
// IPv4 and 1 for IPv6, and sets each Outcome. One call at a time.
func (d *Datapath) Absorb(family, n int) error {
	if err := d.loadAbsorb(family); err != nil {
		return err
	}
	d.absorptions.Count = uint32(n)
	frame := make([]byte, 64) // the least that the kernel runs an XDP program with
	if _, err := d.absorb[family].Run(&ebpf.RunOptions{Data: frame}); err != nil {
		return fmt.Errorf("absorb: %w", err)
	}
	return nil
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
