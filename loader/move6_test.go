package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/lvx-lb/lvx/bpf"
)

var movedVIP6 = netip.MustParseAddr("2001:db8::100")

// client6 is the address of the n-th client.
func client6(n int) netip.Addr {
	a := netip.MustParseAddr("2001:db8:1::").As16()
	binary.BigEndian.PutUint32(a[12:], uint32(n)+1)
	return netip.AddrFrom16(a)
}

// tcpFrame6 is a frame of the n-th IPv6 client's connection.
func tcpFrame6(n int, flags byte) []byte {
	b := make([]byte, 74)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 99, 0x86, 0xdd})
	ip := b[14:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, 20, 6, 64
	copy(ip[8:], client6(n).AsSlice())
	copy(ip[24:], movedVIP6.AsSlice())
	binary.BigEndian.PutUint16(ip[40:], 40000)
	binary.BigEndian.PutUint16(ip[42:], 80)
	ip[52], ip[53] = 0x50, flags
	return b
}

// serve6 gives a data path one IPv6 service with one real and persistence.
func serve6(d *Datapath) {
	for i := range d.Settings.Timeout {
		d.Settings.Timeout[i] = 900
	}
	d.VIPs[bpf.FirstVIPLine(movedVIP6)] = bpf.VIPLine{Way: [2]bpf.VIP{{Addr: bpf.AddressOf(movedVIP6), TCP: 1}}}
	d.Ports[bpf.FirstPortLine(1, 80)] = bpf.PortLine{Way: [8]bpf.Port{{VIP: 1, Port: bpf.PortWord(80), Service: 0}}}
	d.Services[0] = bpf.Service{
		RingSize: 1, Flags: bpf.ServicePersistent, Sorry: bpf.NoSlot, PersistTicks: 300, PersistMask: 128, Cookie: 77,
	}
	d.Reals[0] = bpf.Real{
		MAC: movedReal, Source: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Ifindex: 1, Cookie: 77, Generation: 9, Weight: 1,
		Flags: bpf.RealThere | bpf.RealUsable,
	}
}

// served6 is a data path that serves n connections of IPv6, the first half of
// which are proven, and whose daemon has ended.
func served6(t *testing.T, o Options, n int) {
	t.Helper()
	d := open(t, o)
	serve6(d)
	for i := range n {
		must(t, isForwarded(d.Program("lvx0"), tcpFrame6(i, flagSYN)))
		if i < n/2 {
			must(t, isForwarded(d.Program("lvx0"), tcpFrame6(i, flagACK)))
			must(t, isForwarded(d.Program("lvx0"), tcpFrame6(i, flagACK)))
		}
	}
	must(t, d.Close(true))
}

// live6 counts the entries of a table of IPv6, and those that are proven.
func live6(words []uint64) (n, proven int) {
	for set := 0; set < len(words); set += bpf.SetWords6 {
		for way := range bpf.Ways {
			v := bpf.FlowValue(words[set+bpf.Ways+way])
			if v.IsLive() {
				n++
			}
			if v.IsProven() {
				proven++
			}
		}
	}
	return n, proven
}

func options6(t *testing.T) Options {
	t.Helper()
	o := options(t)
	o.IPv6 = true
	return o
}

// Another size of the tables moves flows and templates of IPv6, up and down,
// with the addresses of their clients, and what is pinned can be looked at.
func TestTablesOfIPv6OfAnotherSize(t *testing.T) {
	const connections = 200
	o := options6(t)
	served6(t, o, connections)
	for _, n := range []int{5000, 700, 2000} {
		o.Flows, o.Templates = n, n
		d := open(t, o)
		if sets6 := len(d.Flows6) / bpf.SetWords6; sets6 != int(sets(n)) {
			t.Errorf("the table has %d sets, want %d", sets6, sets(n))
		}
		flows, proven := live6(d.Flows6)
		if templates, _ := live6(d.Templates6); flows != connections || templates != connections || proven < connections/2 {
			t.Errorf("with room for %d: %d flows, %d proven, %d templates", n, flows, proven, templates)
		}
		for i := range connections {
			if err := isForwarded(d.Program("lvx0"), tcpFrame6(i, flagACK)); err != nil {
				t.Fatalf("connection %d with room for %d: %v", i, n, err)
			}
		}
		if again, _ := live6(d.Flows6); again != connections {
			t.Errorf("%d flows once their packets have come", again)
		}
		must(t, d.Close(true))
		seen, err := Look(o.PinDir)
		must(t, err)
		if found, _ := live6(seen.Flows6); found != connections || len(seen.Flows6) != len(d.Flows6) {
			t.Errorf("looked at, %d flows in %d words", found, len(seen.Flows6))
		}
		must(t, seen.Close(true))
	}
}

// A predecessor whose words of IPv6 have their fields elsewhere: what it knows
// goes along, and its table, which packets cannot read, is asked for nothing.
func TestTablesOfIPv6OfAnotherLayout(t *testing.T) {
	const connections = 100
	o := options6(t)
	served6(t, o, connections)
	for table, swapped := range map[string][2]string{"flows6": {"seen", "port"}, "templates6": {"expires", "real"}} {
		pinOtherLayout(t, o, table, swapped[0], swapped[1])
	}
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	flows, proven := live6(d.Flows6)
	if templates, _ := live6(d.Templates6); flows != connections || templates != connections || proven < connections/2 {
		t.Errorf("%d flows, %d proven, %d templates", flows, proven, templates)
	}
	for i := range connections {
		if err := isForwarded(d.Program("lvx0"), tcpFrame6(i, flagACK)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

// pinOtherLayout puts a pinned table of IPv6 into words in which the second of
// two fields lies before the first.
func pinOtherLayout(t *testing.T, o Options, table, first, second string) {
	t.Helper()
	file := pinDir(o.PinDir).file(table)
	was, err := ebpf.LoadPinnedMap(file, nil)
	must(t, err)
	defer was.Close()
	spec, err := bpf.LoadSpec6()
	must(t, err)
	m := spec.Maps[table]
	today := m.Value
	m.Value, m.MaxEntries, m.Pinning = btf.Copy(today), was.MaxEntries(), ebpf.PinNone
	word := elementOf(m.Value.(*btf.Struct).Members[1])
	for i := range len(word.Members) - 1 {
		a, b := word.Members[i], word.Members[i+1]
		if a.Name == first && b.Name == second {
			a.Offset, b.Offset = a.Offset+b.BitfieldSize, a.Offset
			word.Members[i], word.Members[i+1] = b, a
			break
		}
	}
	if isSameLayout(today, m.Value) {
		t.Fatalf("%s has no field %s before %s", table, first, second)
	}
	other, err := ebpf.NewMap(m)
	must(t, err)
	defer other.Close()
	plan := planCopies(m.Value, today)
	for i := range m.MaxEntries {
		set, now := make([]byte, m.ValueSize), make([]byte, m.ValueSize)
		must(t, was.Lookup(i, &set))
		convertValue(plan, now, set)
		must(t, other.Put(i, now))
	}
	must(t, os.Remove(file))
	must(t, other.Pin(file))
}

// A change of the IPv4 tables' layout leaves those of IPv6, and the first
// service of IPv6 leaves those of IPv4.
func TestUpgradeThatBringsIPv6(t *testing.T) {
	o := options6(t)
	p := openPredecessor(t, o, "testdata/layout2.o")
	p.serve()
	p.connect(20)
	d := open(t, o)
	serve6(d)
	must(t, isForwarded(d.Program("lvx0"), tcpFrame6(1, flagSYN)))
	must(t, d.Close(true))
	o.Flows = 3000
	d = open(t, o)
	must(t, isForwarded(d.Program("lvx0"), tcpFrame6(1, flagACK)))
	must(t, d.Close(true))
	o.IPv6 = false
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if n := len(d.Flows6); n != bpf.SetWords6 {
		t.Errorf("without IPv6 its table has %d words", n)
	}
	if err := isForwarded(d.Program("lvx0"), tcpFrame6(1, flagACK)); err == nil {
		t.Error("without IPv6 its packets are forwarded")
	}
}

// Connections of IPv6 that are opened and used all the time while the tables
// move are not lost.
func TestMoveOfIPv6UnderLoad(t *testing.T) {
	o := options6(t)
	o.Flows, o.Templates = 50_000, 20_000
	served6(t, o, 500)
	load := &opener{t: t, o: o, frame: tcpFrame6, stopped: make(chan struct{})}
	go load.run(2000)
	for _, flows := range []int{40_000, 60_000, 50_000} {
		o.Flows = flows
		d := open(t, o)
		for i := range 500 {
			if err := isForwarded(d.Program("lvx0"), tcpFrame6(i, flagACK)); err != nil {
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
		if err := isForwarded(d.Program("lvx0"), tcpFrame6(n, flagACK)); err != nil {
			t.Fatalf("connection %d of the load: %v", n, err)
		}
	}
	t.Logf("%d connections opened meanwhile, %d packets sent again", load.opened, load.resent)
	if load.opened < 20 {
		t.Errorf("only %d connections were opened meanwhile", load.opened)
	}
}

// A failure of any step leaves a predecessor's programs of IPv6 in force, over
// its tables.
func TestMoveOfIPv6ThatFailsIsTakenBack(t *testing.T) {
	for _, step := range []string{"pin", "families", "update"} {
		t.Run(step, func(t *testing.T) {
			o := options6(t)
			served6(t, o, 20)
			grown := o
			grown.Flows, grown.Templates = 4000, 4000
			injected := errors.New("injected")
			grown.fail = func(s string) error {
				if s == step {
					return injected
				}
				return nil
			}
			if _, err := Open(context.Background(), grown); !errors.Is(err, injected) {
				t.Fatalf("Open: %v", err)
			}
			prog := inForce(t, o)
			defer prog.Close()
			for i := range 20 {
				must(t, isForwarded(prog, tcpFrame6(i, flagACK)))
			}
			d := open(t, o)
			if n, _ := live6(d.Flows6); n != 20 {
				t.Errorf("%d flows", n)
			}
			must(t, d.Close(false))
		})
	}
}

// A daemon that is killed when its programs of IPv6 are in force over new maps,
// which have not got their names yet, loses nothing; nor does one whose pin of a
// table is gone.
func TestPinsOfIPv6AreRecovered(t *testing.T) {
	o := options6(t)
	served6(t, o, 20)
	pins := pinDir(o.PinDir)
	for what, spoil := range map[string]func() error{
		"not renamed": func() error { return os.Rename(pins.file("flows6"), pins.file(newPrefix+"flows6")) },
		"gone":        func() error { return os.Remove(pins.file("flows6")) },
	} {
		must(t, spoil())
		d := open(t, o)
		if n, _ := live6(d.Flows6); n != 20 {
			t.Errorf("%s: %d flows", what, n)
		}
		must(t, d.Close(true))
	}
}

// Clients of one name, which meet in two sets, keep apart when they are moved:
// of none is the flow proven while another's is there.
func TestTwinsAreMovedApart(t *testing.T) {
	o := options6(t)
	d := open(t, o)
	d.Settings.NameKey = [len(d.Settings.NameKey)]uint64{1 << 40}
	serve6(d)
	for i := range 3 {
		must(t, isForwarded(d.Program("lvx0"), tcpFrame6(i, flagSYN)))
	}
	for i := range d.Flows6 {
		if v := bpf.FlowValue(d.Flows6[i]); i/bpf.Ways%4 == 1 && v.IsLive() { // as if each had been proven alone
			d.Flows6[i] = uint64(bpf.FlowValueOf(v.Port(), v.Real(), v.Generation(), bpf.StateEstablished, true, v.Seen()))
		}
	}
	must(t, d.Close(true))
	o.Flows = 3000
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if n, proven := live6(d.Flows6); n != 3 || proven != 0 {
		t.Errorf("of %d flows with one key %d are proven", n, proven)
	}
	m := &mover{into: d.Flows6, stride: bpf.SetWords6}
	owners := map[[2]uint64]bool{}
	for at := range d.Flows6 {
		if at%bpf.SetWords6 < bpf.Ways && bpf.FlowValue(d.Flows6[at+bpf.Ways]).IsLive() {
			owners[m.ownerAt(d.Flows6, at)] = true
		}
	}
	if len(owners) != 3 {
		t.Errorf("the flows are of %d clients", len(owners))
	}
}

// Where IPv6 is served, the verifier takes every form of its packet path, the
// one that looks into tables left behind, too.
func TestVerifierTakesEveryFormOfIPv6(t *testing.T) {
	for _, from := range []int{0, 1} {
		t.Run(fmt.Sprintf("pieces from %d", from), func(t *testing.T) { takesEveryForm6(t, from) })
	}
}

func takesEveryForm6(t *testing.T, piecesFrom int) {
	o := options6(t)
	o.PiecesFrom = piecesFrom
	d := open(t, o)
	must(t, d.PrepareAbsorb())
	defer func() { must(t, d.Close(false)) }()
	eachLeft(t, o, d, "flows6", "templates6", func() (*ebpf.Program, error) { return d.loadMoving6(d.Attachments[0]) })
}
