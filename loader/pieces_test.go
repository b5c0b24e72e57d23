package loader

import (
	"fmt"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
)

// liveFlows counts the flows of a family, and those that are proven, wherever its
// table lies.
func liveFlows(t *testing.T, d *Datapath, family int) (n, proven int) {
	t.Helper()
	p := d.Pieces(family)
	if p == nil {
		words := [2][]uint64{d.Flows, d.Flows6}[family]
		stride := strideOf(piecedTables[family].array)
		for set := range len(words) / stride {
			n, proven = countLive(words[set*stride:], n, proven)
		}
		return n, proven
	}
	p.Forget()
	for set := range p.Sets() {
		n, proven = countLive(p.Words(set), n, proven)
	}
	must(t, p.Err())
	return n, proven
}

func countLive(set []uint64, n, proven int) (int, int) {
	for _, word := range set[bpf.Ways : 2*bpf.Ways] {
		if v := bpf.FlowValue(word); v.IsLive() {
			n++
			if v.IsProven() {
				proven++
			}
		}
	}
	return n, proven
}

// Tables become such in pieces, of other sizes, and plain ones again: every flow
// goes along, and what is proven stays so.
func TestFlowsMoveIntoPiecesAndBack(t *testing.T) {
	const connections = 200
	for family, frame := range []func(int, byte) []byte{tcpFrame, tcpFrame6} {
		t.Run([]string{"IPv4", "IPv6"}[family], func(t *testing.T) {
			o := options6(t)
			if family == 0 {
				o.IPv6 = false
				p := openPredecessor(t, o, "testdata/layout2.o")
				p.serve()
				p.connect(connections)
			} else {
				served6(t, o, connections)
			}
			for _, step := range []struct{ flows, from int }{{3000, 1}, {3000, 1}, {1200, 1}, {9000, 1}, {9000, 1 << 30}, {700, 1}, {800, 1 << 30}} {
				name := fmt.Sprintf("room for %d, pieces from %d", step.flows, step.from)
				o.Flows, o.PiecesFrom = step.flows, step.from
				d := open(t, o)
				if inPieces := d.Pieces(family) != nil; inPieces != (step.from == 1) {
					t.Fatalf("%s: in pieces: %t", name, inPieces)
				}
				if n, proven := liveFlows(t, d, family); n != connections || proven < connections/2 {
					t.Errorf("%s: %d flows, %d proven", name, n, proven)
				}
				for i := range connections {
					if err := isForwarded(d.Program("lvx0"), frame(i, flagACK)); err != nil {
						t.Fatalf("%s: connection %d: %v", name, i, err)
					}
				}
				if n, _ := liveFlows(t, d, family); n != connections {
					t.Errorf("%s: %d flows once their packets have come", name, n)
				}
				must(t, d.Close(true))
				seen, err := Look(o.PinDir)
				must(t, err)
				if n, _ := liveFlows(t, seen, family); n != connections {
					t.Errorf("%s: %d flows for who looks", name, n)
				}
				must(t, seen.Close(true))
			}
			must(t, open(t, o).Close(false))
		})
	}
}

// Connections that are opened and used all the time while their table is moved
// into pieces and out of them are not lost.
func TestMoveIntoPiecesUnderLoad(t *testing.T) {
	o := options(t)
	o.Flows, o.Templates = 50_000, 5_000
	p := openPredecessor(t, o, "testdata/layout2.o")
	p.serve()
	p.connect(1000)
	load := &opener{t: t, o: o, frame: tcpFrame, stopped: make(chan struct{})}
	go load.run(2000)
	for _, from := range []int{1, 1 << 30, 1} {
		o.PiecesFrom = from
		d := open(t, o)
		for i := range 1000 {
			if err := isForwarded(d.Program("lvx0"), tcpFrame(i, flagACK)); err != nil {
				t.Fatalf("connection %d, pieces from %d: %v", i, from, err)
			}
		}
		must(t, d.Close(true))
	}
	load.stop.Store(true)
	<-load.stopped
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	for n := 2000; n < 2000+load.opened; n++ {
		if err := isForwarded(d.Program("lvx0"), tcpFrame(n, flagACK)); err != nil {
			t.Fatalf("connection %d of the load: %v", n, err)
		}
	}
	if load.opened < 20 {
		t.Errorf("only %d connections were opened meanwhile", load.opened)
	}
}

// A set is where the packet path has it, in whichever piece, and changes are made
// where the old value is still there alone.
func TestPiecesAreReadAndChanged(t *testing.T) {
	o := options6(t)
	o.Flows, o.PiecesFrom = 5000, 1
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	for family := range 2 {
		p := d.Pieces(family)
		if p.Stated() < o.Flows || p.Sets() < 4000 || int(d.FlowSets(family)) != p.Sets() {
			t.Fatalf("stated for %d flows, %d sets", p.Stated(), p.Sets())
		}
		var changes []bpf.FlowChange
		for set := range p.Sets() {
			changes = append(changes, bpf.FlowChange{Set: uint32(set), Way: uint32(set % bpf.Ways), Value: uint64(set)<<8 | 1})
		}
		must(t, p.Change(changes))
		must(t, p.Change([]bpf.FlowChange{{Set: 7, Way: 3, Old: 5, Value: 9}})) // it is another
		p.Forget()
		for _, pass := range []string{"one by one", "as a list"} {
			for set := p.Sets() - 1; set >= 0; set-- {
				if pass == "as a list" && set%100 == 0 {
					p.Fetch([]int{(set + 5) % p.Sets(), set, 3})
				}
				for way, got := range p.Words(set)[bpf.Ways : 2*bpf.Ways] {
					want := uint64(0)
					if way == set%bpf.Ways {
						want = uint64(set)<<8 | 1
					}
					if got != want {
						t.Fatalf("family %d, set %d, way %d, %s: %#x, want %#x", family, set, way, pass, got, want)
					}
				}
			}
		}
		if p.Change([]bpf.FlowChange{{Set: uint32(p.Sets())}}) == nil || p.Err() == nil {
			t.Error("a set behind the last is changed")
		}
	}
}
