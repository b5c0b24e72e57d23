package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Absorb stores what a peer director told in the tables, at most
// bpf.Absorptions entries at a time, and puts what became of each into its
// Outcome. One call at a time.
func (d *Datapath) Absorb(entries []bpf.Absorption) error {
	if d.absorb == nil {
		coll, err := d.loadCollection(d.spec, "absorb", 0, nil)
		if err != nil {
			return err
		}
		defer coll.Close()
		d.absorb = coll.DetachProgram("absorb")
	}
	frame := make([]byte, 64) // the least that the kernel runs an XDP program with
	for len(entries) > 0 {
		n := copy(d.absorptions.Entry[:], entries)
		d.absorptions.Count = uint32(n)
		if _, err := d.absorb.Run(&ebpf.RunOptions{Data: frame}); err != nil {
			return fmt.Errorf("absorb: %w", err)
		}
		copy(entries, d.absorptions.Entry[:n])
		entries = entries[n:]
	}
	return nil
}
