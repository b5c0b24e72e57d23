package netfilter

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// The answer about a range of ports is that of all of its ports.
func TestWithin(t *testing.T) {
	be := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (uint16, uint16) {
			a, b := rapid.Uint16Range(1, 600).Draw(t, name), rapid.Uint16Range(1, 600).Draw(t, name)
			return min(a, b), max(a, b)
		}
		first, last := draw("listener")
		from, to := draw("rule")
		p := packetFor(listen(lb.TCP, first, last), "eth0", 1)
		in, out := false, false
		for port := first; port <= last; port++ {
			if from <= port && port <= to {
				in = true
			} else {
				out = true
			}
		}
		want := map[[2]bool]matches{{true, false}: yes, {true, true}: some, {false, true}: no}[[2]bool{in, out}]
		if got := p.l4Bytes(2, 2).inRange(be(from), be(to)); got != want {
			t.Fatalf("%d-%d within %d-%d: %d, want %d", first, last, from, to, got, want)
		}
	})
}

// What is known of an address stays known through a mask.
func TestMasked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := func(name string) []byte { return rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name) }
		a, mask, want := b("address"), b("mask"), b("network")
		l := lb.Listener{Addr: netip.AddrFrom4([4]byte(a)), Proto: lb.TCP}
		v := packetFor(l, "eth0", 1).ipBytes(16, 4).masked(mask, make([]byte, 4))
		got := v.inRange(want, want)
		equal := yes
		for i := range a {
			if a[i]&mask[i] != want[i] {
				equal = no
			}
		}
		if got != equal {
			t.Fatalf("%v & %v == %v: %d, want %d", a, mask, want, got, equal)
		}
	})
}

func TestMultiport(t *testing.T) {
	info := func(kind, count byte, ports []uint16, flags []byte, invert byte) []byte {
		b := make([]byte, 48)
		b[0], b[1], b[47] = kind, count, invert
		for i, p := range ports {
			binary.NativeEndian.PutUint16(b[2+2*i:], p)
		}
		copy(b[32:], flags)
		return b
	}
	for name, c := range map[string]struct {
		name   string
		b      []byte
		ranges [][2]uint16
		invert bool
		ok     bool
	}{
		"ports":           {"multiport", info(1, 2, []uint16{22, 80}, nil, 0), [][2]uint16{{22, 22}, {80, 80}}, false, true},
		"range":           {"multiport", info(1, 3, []uint16{22, 80, 90}, []byte{0, 1}, 1), [][2]uint16{{22, 22}, {80, 90}}, true, true},
		"either":          {"multiport", info(2, 1, []uint16{80}, nil, 0), [][2]uint16{{80, 80}}, false, true},
		"unended range":   {"multiport", info(1, 1, []uint16{80}, []byte{1}, 0), [][2]uint16{{80, 80}}, false, true},
		"source":          {"multiport", info(0, 1, []uint16{80}, nil, 0), nil, false, false},
		"too many":        {"multiport", info(1, 16, nil, nil, 0), nil, false, false},
		"short":           {"multiport", make([]byte, 47), nil, false, false},
		"somebody else's": {"owner", info(1, 1, []uint16{80}, nil, 0), nil, false, false},
	} {
		ranges, invert, ok := parseMultiport(c.name, c.b)
		if len(ranges) != len(c.ranges) || invert != c.invert || ok != c.ok {
			t.Errorf("%s: %v %v %v, want %v %v %v", name, ranges, invert, ok, c.ranges, c.invert, c.ok)
			continue
		}
		for i := range ranges {
			if ranges[i] != c.ranges[i] {
				t.Errorf("%s: %v, want %v", name, ranges, c.ranges)
			}
		}
	}
}

// The matches that older iptables-nft leaves to extensions.
func TestExtensions(t *testing.T) {
	all := [2]uint16{0, 0xffff}
	tcp := func(x xt.Tcp) xt.InfoAny { return &x }
	udp := func(x xt.Udp) xt.InfoAny { return &x }
	unknown := xt.Unknown("whatever")
	for name, c := range map[string]struct {
		match string
		info  xt.InfoAny
		want  matches
		about about
	}{
		"port":          {"tcp", tcp(xt.Tcp{SrcPorts: all, DstPorts: [2]uint16{80, 80}}), yes, port},
		"other ports":   {"tcp", tcp(xt.Tcp{SrcPorts: all, DstPorts: [2]uint16{81, 90}}), no, port},
		"not the port":  {"tcp", tcp(xt.Tcp{SrcPorts: all, DstPorts: [2]uint16{80, 80}, InvFlags: xt.TcpInvDestPorts}), no, port},
		"flags":         {"tcp", tcp(xt.Tcp{SrcPorts: all, DstPorts: all, FlagsMask: 2, FlagsCmp: 2}), yes, port | other},
		"UDP":           {"udp", udp(xt.Udp{SrcPorts: all, DstPorts: [2]uint16{70, 90}}), yes, port},
		"UDP by source": {"udp", udp(xt.Udp{SrcPorts: [2]uint16{53, 53}, DstPorts: all}), yes, port | other},
		"unknown":       {"owner", &unknown, yes, other},
		"comment":       {"comment", &unknown, yes, 0},
		"address type":  {"addrtype", &xt.AddrType{}, yes, other},
	} {
		r := &nftables.Rule{Exprs: []expr.Any{&expr.Match{Name: c.match, Info: c.info}, &expr.Verdict{Kind: expr.VerdictDrop}}}
		bs := applyRule(packetFor(web, "eth0", 1), r, nil)
		switch {
		case c.want == no && len(bs) != 0:
			t.Errorf("%s: matches", name)
		case c.want == yes && (len(bs) != 1 || bs[0].match != yes || bs[0].about != c.about):
			t.Errorf("%s: %+v, want about %d", name, bs, c.about)
		}
	}
}

func TestElements(t *testing.T) {
	key := func(b byte) []byte { return []byte{b, 0} }
	raw := []nftables.SetElement{ // as the kernel gives them: in no order
		{Key: key(9)}, {Key: key(5), IntervalEnd: true}, {Key: key(3)}, {Key: key(0), IntervalEnd: true},
		{Key: key(5)}, {Key: key(7), IntervalEnd: true},
	}
	got := toRanges(raw, true)
	want := [][2][]byte{{{3, 0}, {4, 255}}, {{5, 0}, {6, 255}}, {{9, 0}, {255, 255}}}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i, el := range got {
		if !bytes.Equal(el.from, want[i][0]) || !bytes.Equal(el.to, want[i][1]) {
			t.Errorf("element %d: %v, want %v", i, el, want[i])
		}
	}
	if b := keyBefore([]byte{1, 0, 0}); !bytes.Equal(b, []byte{0, 255, 255}) {
		t.Errorf("before: %v", b)
	}
}

// FuzzApply feeds rules that no kernel would hold.
func FuzzApply(f *testing.F) {
	f.Add(uint32(1), uint32(16), uint32(4), []byte{172, 25, 0, 100}, uint32(0))
	f.Add(uint32(8), uint32(0), uint32(400), []byte{}, uint32(5))
	f.Add(uint32(23), uint32(1<<31), uint32(1<<31), bytes.Repeat([]byte{1}, 40), uint32(1))
	f.Fuzz(func(_ *testing.T, reg, offset, n uint32, data []byte, op uint32) {
		sets := map[string][]element{"s": {{from: data, to: data}}, "e": {}}
		exprs := []expr.Any{
			&expr.Payload{DestRegister: reg, Base: expr.PayloadBase(op % 4), Offset: offset, Len: n},
			&expr.Meta{Key: expr.MetaKey(op), Register: reg + 1},
			&expr.Bitwise{SourceRegister: reg, DestRegister: offset, Mask: data, Xor: data},
			&expr.Immediate{Register: n, Data: data},
			&expr.Range{Register: offset, FromData: data, ToData: data},
			&expr.Cmp{Op: expr.CmpOp(op), Register: reg, Data: data},
			&expr.Lookup{SourceRegister: reg, SetName: "s", IsDestRegSet: op%2 == 0, DestRegister: unix.NFT_REG_VERDICT},
			&expr.Lookup{SourceRegister: n, SetName: "e", Invert: true},
			&expr.Lookup{SourceRegister: offset, SetName: "missing"},
		}
		for i := range exprs { // each alone, and all that follow
			applyRule(packetFor(web, "eth0", 1), &nftables.Rule{Exprs: exprs[i:]}, sets)
			applyRule(packetFor(listen(lb.UDP), "eth0", 1), &nftables.Rule{Exprs: exprs[i : i+1]}, sets)
		}
		parseMultiport("multiport", data)
		elementVerdict(nftables.SetElement{Val: data})
		toRanges([]nftables.SetElement{{Key: data}, {Key: nil}}, true)
	})
}
