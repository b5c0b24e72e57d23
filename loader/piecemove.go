package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/lvx-lb/lvx/bpf"
)

// pieceMover puts flows that are moved into a table in pieces, by the packet
// path's own insertion: with the locks of their keys, by which twins of IPv6 meet.
type pieceMover struct {
	d      *Datapath
	family int
	batch  []bpf.Absorption
	lost   int
	err    error
}

// busyTries are the attempts at a flow whose place another CPU changes.
const busyTries = 4

func (p *pieceMover) add(e moved) {
	p.batch = append(p.batch, bpf.Absorption{
		Key: e.key, Hash: e.hash, Value: uint64(bpf.FlowValue(e.value).WithNonce(0)), Kind: bpf.AbsorbMoved, Owner: addressOfWords(e.owner),
	})
	if len(p.batch) == bpf.Absorptions {
		p.flush()
	}
}

// addressOfWords is an address of IPv6 as a table has it; of IPv4 nothing.
func addressOfWords(w [2]uint64) bpf.Address {
	return bpf.Address{Word: [4]uint32{uint32(w[0]), uint32(w[0] >> 32), uint32(w[1]), uint32(w[1] >> 32)}}
}

func (p *pieceMover) flush() {
	for range busyTries {
		if len(p.batch) == 0 || p.err != nil {
			return
		}
		room := p.d.Absorptions()
		n := copy(room[:], p.batch)
		if p.err = p.d.Absorb(p.family, n); p.err != nil {
			return
		}
		again := p.batch[:0]
		for _, a := range room[:n] {
			switch a.Outcome {
			case bpf.AbsorbBusy:
				again = append(again, a)
			case bpf.AbsorbNoPlace:
				p.lost++
			}
		}
		p.batch = again
	}
	p.lost += len(p.batch)
	p.batch = p.batch[:0]
}

// finish moves what has been added, and says how many flows found no place.
func (p *pieceMover) finish() (lost int, err error) {
	p.flush()
	lost, err = p.lost, p.err
	p.lost, p.err = 0, nil
	return lost, err
}

// comparePieces is what [Datapath.compareLayout] does for a table in pieces: the
// first of them says what is in all.
func (l *leftMap) comparePieces(spec *ebpf.MapSpec) {
	l.to = typeOfSet(spec.InnerMap.Value)
	if l.old.MaxEntries() <= 1 {
		return
	}
	err := errors.New("its pieces are of another kind")
	if piece, e := firstPiece(l.old); e != nil {
		err = e
	} else {
		defer piece.Close()
		var t btf.Type
		if t, e = valueType(piece, spec.InnerMap.Value.TypeName()); e != nil {
			err = e
		} else if l.from = typeOfSet(t); isSameLayout(spec.InnerMap.Value, t) && spec.InnerMap.Compatible(piece) == nil {
			return
		}
	}
	l.why = fmt.Sprint(err)
}

// typeOfSet is the type of the sets in a piece.
func typeOfSet(piece btf.Type) btf.Type {
	s, ok := btf.UnderlyingType(piece).(*btf.Struct)
	if !ok || len(s.Members) == 0 {
		return nil
	}
	if a, ok := btf.UnderlyingType(s.Members[0].Type).(*btf.Array); ok {
		return btf.UnderlyingType(a.Type)
	}
	return nil
}
