package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Pieces is a table of flows in pieces, which user space reads and changes by
// programs (bpf/pieces.h). It remembers the sets that it has read last. One call
// at a time.
type Pieces struct {
	sets         int
	stride       int // words of a set
	read, change *ebpf.Program
	window       *bpf.FlowWindow
	memory       mapped
	last         int // which of the sets in the window was asked for last
	err          error
}

// Pieces are the flows of IPv4 (0) or IPv6 (1), nil if they are plain.
func (d *Datapath) Pieces(family int) *Pieces { return d.pieces[family] }

// openPieces makes what d reads and changes tables in pieces with.
func (d *Datapath) openPieces() error {
	for i, outer := range []*ebpf.Map{d.Maps.FlowPieces, d.Maps6.FlowPieces6} {
		if piecedTables[i].sets(outer) == 0 || d.pieces[i] != nil {
			continue
		}
		var err error
		if d.pieces[i], err = d.newPieces(i, outer); err != nil {
			return err
		}
	}
	return nil
}

// newPieces is for a table of d, or for one that is left behind.
func (d *Datapath) newPieces(family int, outer *ebpf.Map) (_ *Pieces, err error) {
	t := piecedTables[family]
	p := &Pieces{sets: int(t.sets(outer)), stride: strideOf(t.array)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	spec := d.spec
	if family == 1 {
		if spec, err = bpf.LoadSpec6(); err != nil {
			return nil, err
		}
	}
	spec = spec.Copy()
	window, err := ebpf.NewMap(spec.Maps["flow_window"])
	if err != nil {
		return nil, fmt.Errorf("window to %s: %w", t.pieces, err)
	}
	defer window.Close()
	if p.memory, err = mapMemory(window); err != nil {
		return nil, err
	}
	p.window = &view[bpf.FlowWindow](p.memory, 1)[0]
	spec.Maps[t.pieces].MaxEntries = outer.MaxEntries()
	more := map[string]*ebpf.Map{"flow_window": window, t.pieces: outer}
	for name, into := range map[string]**ebpf.Program{"read_flows": &p.read, "change_flows": &p.change} {
		coll, err := d.loadCollection(spec, name, 0, more)
		if err != nil {
			return nil, err
		}
		*into = coll.DetachProgram(name)
		coll.Close()
	}
	return p, nil
}

func (p *Pieces) close() {
	if p == nil {
		return
	}
	p.memory.unmap()
	for _, prog := range []*ebpf.Program{p.read, p.change} {
		_ = prog.Close()
	}
}

// Sets is how many sets the table has.
func (p *Pieces) Sets() int { return p.sets }

// Stated is how many flows the table is stated for, or a few more.
func (p *Pieces) Stated() int {
	return p.sets / (bpf.PieceLines * wordsOfSet / p.stride) * (pieceBytes / 8 / p.stride)
}

// Err is the first error of reading and changing, once; what could not be read is
// without flows.
func (p *Pieces) Err() error {
	err := p.err
	p.err = nil
	return err
}

// most is how many sets can be read at once.
func (p *Pieces) most() int { return bpf.FlowReads * wordsOfSet / p.stride }

// Forget has sets read anew.
func (p *Pieces) Forget() { p.window.Sets = 0 }

// Fetch reads sets, not too many.
func (p *Pieces) Fetch(sets []int) {
	n := min(len(sets), p.most())
	for i, set := range sets[:n] {
		p.window.Set[i] = uint32(set)
	}
	p.fetch(n)
}

// fetch reads the n sets that are named in the window.
func (p *Pieces) fetch(n int) {
	p.window.Sets, p.last = uint32(n), 0
	if err := p.run(p.read); err != nil {
		clear(p.window.Word[:n*p.stride])
	}
}

func (p *Pieces) run(prog *ebpf.Program) error {
	frame := make([]byte, 64) // the least that the kernel runs an XDP program with
	action, err := prog.Run(&ebpf.RunOptions{Data: frame})
	if err == nil && action != xdpPass {
		err = fmt.Errorf("it ended with %d", action)
	}
	if err != nil {
		err = fmt.Errorf("program of a table in pieces: %w", err)
		p.err = errors.Join(p.err, err)
	}
	return err
}

const xdpPass = 2 // XDP_PASS of linux/bpf.h

// Words are the words of a set as it was read last; it is read if it was not, and
// those behind it if that goes on with what was read.
func (p *Pieces) Words(set int) []uint64 {
	n := int(p.window.Sets)
	for i := range n { // nearly always it is the same, or the next one
		if at := (p.last + i) % n; int(p.window.Set[at]) == set {
			p.last = at
			return p.at(at)
		}
	}
	ahead := 1
	if set == 0 || n > 0 && int(p.window.Set[n-1]) == set-1 {
		ahead = min(p.most(), p.sets-set)
	}
	for i := range ahead {
		p.window.Set[i] = uint32(set + i)
	}
	p.fetch(ahead)
	return p.at(0)
}

func (p *Pieces) at(i int) []uint64 { return p.window.Word[i*p.stride : (i+1)*p.stride] }

// Change gives flows other values, where they have their old ones still: that is
// what Found says.
func (p *Pieces) Change(changes []bpf.FlowChange) error {
	for len(changes) > 0 {
		n := copy(p.window.Change[:], changes)
		p.window.Changes = uint32(n)
		if err := p.run(p.change); err != nil {
			return err
		}
		copy(changes, p.window.Change[:n])
		changes = changes[n:]
	}
	return nil
}
