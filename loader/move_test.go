package loader

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/lvx-lb/lvx/bpf"
)

// predecessor is an older release's packet path, as it left it: attached and
// pinned, its daemon gone.
type predecessor struct {
	t    *testing.T
	maps map[string]*ebpf.Map
	spec *ebpf.CollectionSpec
	prog *ebpf.Program
}

// openPredecessor loads an object of testdata and pins what it made.
func openPredecessor(t *testing.T, o Options, object string) *predecessor {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(object)
	must(t, err)
	spec.Maps["flows"].MaxEntries, spec.Maps["templates"].MaxEntries = sets(o.Flows), sets(o.Templates)
	hz := HZ()
	shift := TickShift(hz)
	for name, value := range map[string]uint32{
		"flow_sets": sets(o.Flows), "template_sets": sets(o.Templates), "tick_shift": shift,
		"jiffies_per_second": uint32(hz), "renewal_ticks": uint32(renewalSeconds*hz>>shift + 1),
	} {
		must(t, spec.Variables[name].Set(value))
	}
	delete(spec.Programs, "clock")
	coll, err := ebpf.NewCollection(spec)
	must(t, err)
	t.Cleanup(coll.Close)
	must(t, os.MkdirAll(o.PinDir, 0o700))
	p := &predecessor{t: t, maps: map[string]*ebpf.Map{}, spec: spec, prog: coll.Programs["lb"]}
	for name, m := range coll.Maps {
		if pinned(name) {
			must(t, m.Pin(pinDir(o.PinDir).file(name)))
			p.maps[name] = m
		}
	}
	iface, err := net.InterfaceByName("lvx0")
	must(t, err)
	var mac [8]byte
	copy(mac[:], iface.HardwareAddr)
	must(t, coll.Variables["own_mac"].Set(mac))
	l, err := link.AttachXDP(link.XDPOptions{Program: p.prog, Interface: iface.Index})
	must(t, err)
	must(t, l.Pin(pinDir(o.PinDir).link("lvx0")))
	must(t, l.Close())
	put(p, "interfaces", 0, bpf.Interface{MAC: mac, Ifindex: uint32(iface.Index), Mode: 1})
	return p
}

// put writes a value, as it is known today, in the predecessor's layout.
func put[T any](p *predecessor, name string, index uint32, value T) {
	p.t.Helper()
	today, err := bpf.LoadSpec()
	must(p.t, err)
	plan := planCopies(p.spec.Maps[name].Value, bpf.ElementOf(today.Maps[name]))
	was := make([]byte, p.spec.Maps[name].ValueSize)
	convertValue(plan, was, unsafe.Slice((*byte)(unsafe.Pointer(&value)), unsafe.Sizeof(value)))
	must(p.t, p.maps[name].Put(index, was))
}

// Addresses of the tests of moves.
var (
	movedVIP  = netip.MustParseAddr("192.0.2.100")
	movedReal = [6]byte{2, 0, 0, 0, 0, 11}
)

// serve gives the predecessor one service with one real and persistence.
func (p *predecessor) serve() {
	s := bpf.Settings{Version: 2, Seed: [3]uint64{3, 5, 7}, Answers: 1000}
	for i := range s.Timeout {
		s.Timeout[i] = 900
	}
	put(p, "settings", 0, s)
	vip := bpf.VIP{Addr: bpf.AddressOf(movedVIP), TCP: 1}
	put(p, "vips", bpf.FirstVIPLine(movedVIP), bpf.VIPLine{Way: [2]bpf.VIP{vip}})
	put(p, "ports", bpf.FirstPortLine(1, 80), bpf.PortLine{Way: [8]bpf.Port{{VIP: 1, Port: bpf.PortWord(80), Service: 0}}})
	put(p, "services", 0, bpf.Service{
		RingSize: 1, Flags: bpf.ServicePersistent, Sorry: bpf.NoSlot, PersistTicks: 300, PersistMask: ^uint32(0), Cookie: 77,
	})
	put(p, "rings", 0, bpf.RingLine{})
	put(p, "reals", 0, bpf.Real{
		MAC: movedReal, Source: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Ifindex: 1, Cookie: 77, Generation: 9, Weight: 1,
		Flags: bpf.RealThere | bpf.RealUsable,
	})
	put(p, "addresses", 0, bpf.AddressOf(netip.MustParseAddr("192.0.2.11")))
	put(p, "labels", 0, bpf.Label{Name: [56]int8{'w', 'e', 'b'}, Cookie: 77})
}

// tcpFrame is a frame of the n-th client's connection.
func tcpFrame(n int, flags byte) []byte {
	b := make([]byte, 60)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 99, 8, 0})
	ip := b[14:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 40, 64, 6
	copy(ip[12:], []byte{198, 51, byte(n >> 8), byte(n)})
	copy(ip[16:], movedVIP.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 40000)
	binary.BigEndian.PutUint16(ip[22:], 80)
	ip[32], ip[33] = 0x50, flags
	return b
}

const (
	flagSYN = 2
	flagACK = 16
)

// isForwarded reports whether a program sends a frame to the real.
func isForwarded(prog *ebpf.Program, frame []byte) error {
	out := make([]byte, 256)
	opts := &ebpf.RunOptions{Data: frame, DataOut: out}
	action, err := prog.Run(opts)
	if err != nil {
		return err
	}
	if action != 3 || [6]byte(opts.DataOut[:6]) != movedReal {
		return fmt.Errorf("action %d, to %x; want XDP_TX to %x", action, opts.DataOut[:6], movedReal)
	}
	return nil
}

// connect opens connections, the first half of which are proven.
func (p *predecessor) connect(n int) {
	p.t.Helper()
	for i := range n {
		must(p.t, isForwarded(p.prog, tcpFrame(i, flagSYN)))
		if i < n/2 {
			must(p.t, isForwarded(p.prog, tcpFrame(i, flagACK)))
			must(p.t, isForwarded(p.prog, tcpFrame(i, flagACK)))
		}
	}
}

// live counts the entries of a table.
func live(words []uint64) (n int) {
	for set := 0; set < len(words); set += wordsOfSet {
		for way := range bpf.Ways {
			if bpf.FlowValue(words[set+bpf.Ways+way]).IsLive() {
				n++
			}
		}
	}
	return n
}

// A predecessor of the first layouts: the layouts of most maps have changed
// since, and every connection goes along.
func TestUpgradeFromOlderLayout(t *testing.T) {
	const connections = 200
	o := options(t)
	p := openPredecessor(t, o, "testdata/layout2.o")
	p.serve()
	p.connect(connections)
	must(t, p.maps["leases"].Put(uint32(3), uint64(77)))

	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if d.Leases[3] != 77 || len(d.Leases) != bpf.Leases {
		t.Errorf("of %d leases the fourth lasts until %d", len(d.Leases), d.Leases[3])
	}
	if !d.Adopted || d.Settings.Seed != [3]uint64{3, 5, 7} {
		t.Fatalf("adopted %v, seeds %v", d.Adopted, d.Settings.Seed)
	}
	for i := range connections {
		if err := isForwarded(d.Program("lvx0"), tcpFrame(i, flagACK)); err != nil {
			t.Fatalf("connection %d after the upgrade: %v", i, err)
		}
	}
	if n := live(d.Flows); n != connections {
		t.Errorf("%d flows after the upgrade, want %d", n, connections)
	}
	if n := live(d.Templates); n != connections {
		t.Errorf("%d templates after the upgrade, want %d", n, connections)
	}
	if d.Reals[0].Generation&15 != 9 || d.Reals[0].MAC != movedReal || d.Addresses[0].Addr().String() != "192.0.2.11" {
		t.Errorf("real after the upgrade: %+v", d.Reals[0])
	}
	var per []bpf.Counter
	must(t, d.Maps.Counters.Lookup(uint32(0), &per))
	packets := uint64(0)
	for _, c := range per {
		packets += c.Packets
	}
	if packets < 2*connections {
		t.Errorf("the real has got %d packets, before and after the upgrade", packets)
	}
	if n := d.CountOf(bpf.Forwarded); n != 3*connections {
		t.Errorf("%d packets forwarded, before and after the upgrade, want %d", n, 3*connections)
	}
	for _, e := range must1(os.ReadDir(o.PinDir)) {
		if len(e.Name()) > 4 && e.Name()[:4] == newPrefix {
			t.Errorf("%s is left of the move", e.Name())
		}
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Another size of the tables moves flows and templates, up and down, and
// touches no other map.
func TestTablesOfAnotherSize(t *testing.T) {
	o := options(t)
	p := openPredecessor(t, o, "testdata/layout2.o")
	p.serve()
	p.connect(200)
	for _, flows := range []int{1000, 5000, 700, 2000} {
		o.Flows, o.Templates = flows, flows
		d := open(t, o)
		for i := range 200 {
			if err := isForwarded(d.Program("lvx0"), tcpFrame(i, flagACK)); err != nil {
				t.Fatalf("connection %d with room for %d: %v", i, flows, err)
			}
		}
		if n := len(d.Flows) / wordsOfSet; n != int(sets(flows)) {
			t.Errorf("the table has %d sets, want %d", n, sets(flows))
		}
		if live(d.Templates) != 200 {
			t.Errorf("%d templates with room for %d", live(d.Templates), flows)
		}
		must(t, d.Close(true))
	}
}

// A pin directory of which a part was deleted costs nothing while packets
// still use the maps: with today's layout, and with an older one.
func TestHalfDeletedPinDirectory(t *testing.T) {
	const connections = 50
	for name, isGone := range map[string]func(pin string) bool{
		"settings":       func(pin string) bool { return pin == "settings" },
		"flows":          func(pin string) bool { return pin == "flows" },
		"every other":    func(pin string) bool { return len(pin)%2 == 0 },
		"all but a link": func(string) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			p := openPredecessor(t, o, "testdata/layout2.o")
			p.serve()
			p.connect(connections)
			for range 2 { // the first time of an older layout
				for _, e := range must1(os.ReadDir(o.PinDir)) {
					if !strings.HasPrefix(e.Name(), linkPrefix) && isGone(e.Name()) {
						must(t, os.Remove(pinDir(o.PinDir).file(e.Name())))
					}
				}
				d := open(t, o)
				for i := range connections {
					if err := isForwarded(d.Program("lvx0"), tcpFrame(i, flagACK)); err != nil {
						t.Fatalf("connection %d: %v", i, err)
					}
				}
				if n := live(d.Templates); n != connections {
					t.Errorf("%d templates, want %d", n, connections)
				}
				must(t, d.eachMap(func(name string, _ **ebpf.Map) error {
					_, err := os.Stat(d.pins.file(name))
					return err
				}))
				must(t, d.Close(true))
			}
		})
	}
}

// A move that fails leaves the predecessor serving, with its maps.
func TestMoveThatFailsIsTakenBack(t *testing.T) {
	for _, step := range []string{"pin", "copy", "update"} {
		t.Run(step, func(t *testing.T) {
			o := options(t)
			p := openPredecessor(t, o, "testdata/layout2.o")
			p.serve()
			p.connect(20)
			o.fail = func(s string) error {
				if s == step {
					return fmt.Errorf("%s fails", step)
				}
				return nil
			}
			if _, err := Open(context.Background(), o); err == nil {
				t.Fatal("Open succeeds")
			}
			for i := range 20 {
				must(t, isForwarded(p.prog, tcpFrame(i, flagACK)))
			}
			o.fail = nil
			d := open(t, o)
			for i := range 20 {
				must(t, isForwarded(d.Program("lvx0"), tcpFrame(i, flagACK)))
			}
			must(t, d.Close(false))
		})
	}
}

// inForce is the program that the interface runs at this moment.
func inForce(t *testing.T, o Options) *ebpf.Program {
	t.Helper()
	l, err := link.LoadPinnedLink(pinDir(o.PinDir).link("lvx0"), nil)
	must(t, err)
	defer l.Close()
	for range 100 { // one that is exchanged at this moment is gone before it can be had
		if prog := programOf(l); prog != nil {
			return prog
		}
	}
	t.Error("no program is in force")
	return nil
}

// opener opens connections by whatever program is in force and uses each of
// them, also while the programs are exchanged.
type opener struct {
	t       *testing.T
	o       Options
	frame   func(n int, flags byte) []byte
	opened  int
	resent  int // packets that had to be sent again, as TCP does
	stop    atomic.Bool
	stopped chan struct{}
}

func (p *opener) send(n int, flags byte) {
	for try := range 200 {
		prog := inForce(p.t, p.o)
		if prog == nil {
			return
		}
		err := isForwarded(prog, p.frame(n, flags))
		_ = prog.Close()
		if err == nil {
			p.resent += try
			return
		}
		if !strings.HasPrefix(err.Error(), "action 1,") { // XDP_DROP is sent again; a reset is not
			p.t.Errorf("connection %d: %v", n, err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Errorf("connection %d was never forwarded", n)
}

func (p *opener) run(first int) {
	defer close(p.stopped)
	for n := first; !p.stop.Load() && n < 1<<16 && !p.t.Failed(); n++ {
		p.send(n, flagSYN)
		p.send(n, flagACK)
		p.send(max(n-3, first), flagACK) // an older one goes on
		p.opened++
	}
}

// Connections that are opened and used all the time while the tables move are
// not lost: not from an older layout, and not to another size.
func TestUpgradeUnderLoad(t *testing.T) {
	o := options(t)
	o.Flows, o.Templates = 200_000, 20_000
	p := openPredecessor(t, o, "testdata/layout2.o")
	p.serve()
	p.connect(1000)
	load := &opener{t: t, o: o, frame: tcpFrame, stopped: make(chan struct{})}
	go load.run(2000)
	for _, flows := range []int{200_000, 150_000, 250_000} {
		o.Flows = flows
		d := open(t, o)
		for i := range 1000 {
			if err := isForwarded(d.Program("lvx0"), tcpFrame(i, flagACK)); err != nil {
				t.Fatalf("connection %d with room for %d: %v", i, flows, err)
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
	t.Logf("%d connections opened meanwhile, %d packets sent again", load.opened, load.resent)
	if load.opened < 20 {
		t.Errorf("only %d connections were opened meanwhile", load.opened)
	}
}

func TestConvertedValues(t *testing.T) {
	integer := &btf.Int{Name: "u64", Size: 8}
	short := &btf.Int{Name: "u16", Size: 2}
	enum := func(values ...btf.EnumValue) *btf.Enum { return &btf.Enum{Name: "e", Size: 4, Values: values} }
	was := &btf.Struct{Name: "s", Size: 24, Members: []btf.Member{
		{Name: "a", Type: short},
		{Name: "gone", Type: short, Offset: 16},
		{Name: "flags", Type: enum(btf.EnumValue{Name: "ONE", Value: 1}, btf.EnumValue{Name: "TWO", Value: 2}), Offset: 32},
		{Name: "low", Type: integer, Offset: 64, BitfieldSize: 4},
		{Name: "high", Type: integer, Offset: 68, BitfieldSize: 3},
		{Name: "list", Type: &btf.Array{Type: short, Nelems: 4}, Offset: 128},
	}}
	now := &btf.Struct{Name: "s", Size: 32, Members: []btf.Member{
		{Name: "list", Type: &btf.Array{Type: short, Nelems: 2}},
		{Name: "a", Type: integer, Offset: 64},
		{Name: "high", Type: integer, Offset: 128, BitfieldSize: 4},
		{Name: "low", Type: integer, Offset: 132, BitfieldSize: 4},
		{Name: "flags", Type: enum(btf.EnumValue{Name: "TWO", Value: 4}, btf.EnumValue{Name: "ONE", Value: 1}), Offset: 192},
	}}
	from := make([]byte, 24)
	binary.LittleEndian.PutUint16(from, 0xabcd)
	binary.LittleEndian.PutUint32(from[4:], 3)
	from[8] = 5 | 6<<4
	binary.LittleEndian.PutUint16(from[16:], 1)
	binary.LittleEndian.PutUint16(from[18:], 2)
	to := make([]byte, 32)
	convertValue(planCopies(now, was), to, from)
	if to[0] != 1 || to[2] != 2 || binary.LittleEndian.Uint64(to[8:]) != 0xabcd || to[16] != 6|5<<4 || to[24] != 5 {
		t.Errorf("%x is converted to %x", from, to)
	}
	if isSameLayout(was, now) || !isSameLayout(was, was) {
		t.Error("layouts are compared wrongly")
	}
}

// goneFields are fields of older layouts that today's do without, or that are
// copied otherwise.
var goneFields = map[string]bool{
	"tally.count":       true, // of verdicts, see copyVerdicts
	"flow_value.proven": true, // its state says it, see provenMerger
	"load.active":       true, // counted anew at each start
	"load.inactive":     true, // the same
}

// Every field that an older release wrote has its place today: under its name,
// or as the former name of another. One that is renamed would be empty after
// an upgrade.
func TestNoFieldIsLostByARename(t *testing.T) {
	was, err := ebpf.LoadCollectionSpec("testdata/layout2.o")
	must(t, err)
	today, err := bpf.LoadSpec()
	must(t, err)
	for name, m := range was.Maps {
		if !pinned(name) || today.Maps[name] == nil {
			continue
		}
		for _, lost := range lostFields(bpf.ElementOf(today.Maps[name]), m.Value) {
			if !goneFields[lost] {
				t.Errorf("map %s: %s is lost at an upgrade (name it in renamed, or in goneFields of this test)", name, lost)
			}
		}
	}
}

// lostFields are the fields of a type, as STRUCT.FIELD, that another lacks.
func lostFields(to, from btf.Type) (lost []string) {
	switch from := btf.UnderlyingType(from).(type) {
	case *btf.Array:
		if to, ok := btf.UnderlyingType(to).(*btf.Array); ok {
			return lostFields(to.Type, from.Type)
		}
	case *btf.Struct:
		to, ok := btf.UnderlyingType(to).(*btf.Struct)
		if !ok {
			return []string{from.Name}
		}
		for _, n := range from.Members {
			i := slices.IndexFunc(to.Members, func(m btf.Member) bool { return m.Name == nameToday(from, n) })
			switch {
			case i >= 0:
				lost = append(lost, lostFields(to.Members[i].Type, n.Type)...)
			case n.Name != "spare" && n.Name != "":
				lost = append(lost, from.Name+"."+n.Name)
			}
		}
	}
	return lost
}

// Every kernel's verifier takes every form of the packet path: moving,
// explaining and recording, too.
func TestVerifierTakesEveryForm(t *testing.T) {
	for _, from := range []int{0, 1} {
		t.Run(fmt.Sprintf("pieces from %d", from), func(t *testing.T) { takesEveryForm(t, from) })
	}
}

func takesEveryForm(t *testing.T, piecesFrom int) {
	o := options(t)
	o.PiecesFrom = piecesFrom
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	must(t, d.PrepareAbsorb())
	eachLeft(t, o, d, "flows", "templates", func() (*ebpf.Program, error) { return d.loadMoving(d.Attachments[0]) })
	if _, err := d.Explain("lvx0", tcpFrame(1, flagSYN)); err != nil {
		t.Errorf("explaining: %v", err)
	}
	tracer, err := d.StartTrace(bpf.RecordingFilter{}, 64)
	if err != nil {
		t.Fatalf("recording: %v", err)
	}
	must(t, tracer.Stop())
}

// eachLeft has a program of d loaded for each form that tables can have which are
// left behind: plain or in pieces, with words of today or others.
func eachLeft(t *testing.T, o Options, d *Datapath, flows, templates string, load func() (*ebpf.Program, error)) {
	t.Helper()
	defer clear(d.left)
	for _, from := range []int{0, 1} {
		o.Detached, o.PiecesFrom = true, from
		old := open(t, o)
		for _, isReadable := range []bool{true, false} {
			clear(d.left)
			must(t, old.eachMap(func(name string, m **ebpf.Map) error {
				p, l := piecedTableOf(name), &leftMap{old: *m}
				if name != templates && (p == nil || p.array != flows) {
					return nil
				}
				if p != nil {
					l.to = d.spec.Maps[p.array].Value
				} else {
					l.to = d.spec.Maps[name].Value
				}
				if isReadable {
					l.from = l.to
				}
				d.left[name] = l
				return nil
			}))
			prog, err := load()
			if err != nil {
				t.Errorf("moving from a table with pieces from %d, words of today: %t: %v", from, isReadable, err)
			}
			_ = prog.Close()
		}
		must(t, old.Close(false))
	}
}
