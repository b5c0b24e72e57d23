package netfilter

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// branch is one thing that a rule may do with a packet.
type branch struct {
	match tri
	about about
	what  expr.VerdictKind
	chain string // of a jump
}

// element is one of a set: a range of keys, with a verdict in a verdict map.
type element struct {
	from, to []byte
	what     expr.VerdictKind
	chain    string
}

// run is one rule that is applied to the packets of a listener.
type run struct {
	packet
	sets      map[string][]element // of the rule's table; a set that is missing could not be read
	registers [20]value            // of four bytes each; a long value is at its first one
	match     tri
	about     about
	branches  []branch
}

// apply says what a rule does with the packets of a listener.
func apply(p packet, r *nftables.Rule, sets map[string][]element) []branch {
	e := run{packet: p, sets: sets, match: yes}
	for i := range e.registers {
		e.registers[i] = anything(other, 16)
	}
	for _, x := range r.Exprs {
		e.step(x)
		if e.match == no {
			break
		}
	}
	return e.branches
}

// and adds a condition.
func (e *run) and(t tri, a about) {
	e.about |= a
	if t == some && a&(other|source) == other {
		t = yes // ignored
	}
	e.match = min(e.match, t)
}

func (e *run) end(what expr.VerdictKind, chain string) {
	e.branches = append(e.branches, branch{e.match, e.about, what, chain})
}

// slot is the number of a register's first four bytes: NFT_REG_1 to 4 are of
// 16 bytes, NFT_REG32_00 to 15 are the same memory in pieces.
func slot(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return int(min(register-unix.NFT_REG32_00, 15))
	}
	return int(max(min(register, 4), 1)-1) * 4
}

func (e *run) get(register uint32) value    { return e.registers[slot(register)] }
func (e *run) set(register uint32, v value) { e.registers[slot(register)] = v }

// key reads n bytes, also of values that were put side by side.
func (e *run) key(register uint32, n int) value {
	var v value
	for at := slot(register); len(v.lo) < n && at < len(e.registers); at = slot(register) + len(v.lo)/4 {
		part := e.registers[at]
		if len(part.lo) == 0 {
			part = anything(other, 4)
		}
		v = v.join(part).join(exactly(0, make([]byte, -len(part.lo)&3)...)) // padded
	}
	return v.slice(0, min(n, len(v.lo)))
}

// step applies one expression. What can only let a packet pass, count or
// change it is no condition.
func (e *run) step(x expr.Any) {
	switch x := x.(type) {
	case *expr.Payload:
		if x.OperationType == expr.PayloadLoad {
			e.set(x.DestRegister, e.payload(x))
		}
	case *expr.Meta:
		if !x.SourceRegister {
			e.set(x.Register, e.meta(x.Key))
		}
	case *expr.Bitwise:
		e.set(x.DestRegister, e.get(x.SourceRegister).masked(x.Mask, x.Xor))
	case *expr.Immediate:
		e.set(x.Register, exactly(0, x.Data...))
	case *expr.Ct:
		e.set(x.Register, anything(other, 16))
	case *expr.Exthdr:
		e.set(x.DestRegister, anything(other, 16))
	case *expr.Fib:
		e.set(x.Register, anything(other, 16))
	case *expr.Hash:
		e.set(x.DestRegister, anything(other, 16))
	case *expr.Numgen:
		e.set(x.Register, anything(other, 16))
	case *expr.Socket:
		e.set(x.Register, anything(other, 16))
	case *expr.Cmp:
		v := e.get(x.Register)
		e.and(compare(v, x), v.about)
	case *expr.Range:
		v := e.get(x.Register)
		e.and(inverted(v.within(x.FromData, x.ToData), x.Op == expr.CmpOpNeq), v.about)
	case *expr.Lookup:
		e.lookup(x)
	case *expr.Match:
		e.xtables(x)
	case *expr.Limit, *expr.Quota, *expr.Connlimit, *expr.Dynset, *expr.Objref:
		e.and(yes, other)
	case *expr.Verdict:
		e.end(x.Kind, x.Chain)
	case *expr.Reject:
		e.end(expr.VerdictDrop, "")
	case *expr.Target:
		if x.Name == "REJECT" {
			e.end(expr.VerdictDrop, "")
		}
	}
}

func inverted(t tri, invert bool) tri {
	if invert {
		return t.not()
	}
	return t
}

func (e *run) payload(x *expr.Payload) value {
	switch from, n := int(x.Offset), int(min(x.Len, 16)); x.Base {
	case expr.PayloadBaseNetworkHeader:
		return e.ip(from, n)
	case expr.PayloadBaseTransportHeader:
		return e.l4(from, n)
	default:
		return anything(other, n)
	}
}

func (e *run) meta(key expr.MetaKey) value {
	family, ethertype := byte(unix.NFPROTO_IPV4), uint16(unix.ETH_P_IP)
	if e.listener.Addr.Is6() {
		family, ethertype = unix.NFPROTO_IPV6, unix.ETH_P_IPV6
	}
	switch key {
	case expr.MetaKeyL4PROTO:
		return exactly(protocol, byte(e.listener.Proto))
	case expr.MetaKeyNFPROTO:
		return exactly(0, family)
	case expr.MetaKeyPROTOCOL:
		return exactly(0, binary.BigEndian.AppendUint16(nil, ethertype)...)
	case expr.MetaKeyPKTTYPE:
		return exactly(0, unix.PACKET_HOST)
	case expr.MetaKeyIIF:
		return exactly(device, binary.NativeEndian.AppendUint32(nil, e.index)...)
	case expr.MetaKeyIIFNAME:
		var name [unix.IFNAMSIZ]byte
		copy(name[:unix.IFNAMSIZ-1], e.device)
		return exactly(device, name[:]...)
	}
	return anything(other, 16)
}

func compare(v value, x *expr.Cmp) tri {
	zero, ones := make([]byte, len(x.Data)), make([]byte, len(x.Data))
	for i := range ones {
		ones[i] = 0xff
	}
	switch x.Op {
	case expr.CmpOpEq:
		return v.within(x.Data, x.Data)
	case expr.CmpOpNeq:
		return v.within(x.Data, x.Data).not()
	case expr.CmpOpLte:
		return v.within(zero, x.Data)
	case expr.CmpOpGt:
		return v.within(zero, x.Data).not()
	case expr.CmpOpGte:
		return v.within(x.Data, ones)
	case expr.CmpOpLt:
		return v.within(x.Data, ones).not()
	}
	return some
}

// lookup matches a set, or branches by a verdict map.
func (e *run) lookup(x *expr.Lookup) {
	elements, known := e.sets[x.SetName]
	n := 0
	if len(elements) > 0 {
		n = len(elements[0].from)
	}
	v := e.key(x.SourceRegister, n)
	before := e.match
	in := no
	for _, el := range elements {
		t := v.within(el.from, el.to)
		in = max(in, t)
		if x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT && t != no {
			about := e.about
			e.and(t, v.about)
			e.end(el.what, el.chain)
			e.match, e.about = before, about
		}
	}
	switch {
	case !known:
		e.and(yes, other)
	case x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT:
		e.match = no // its branches have spoken; the rest goes to the next rule
	default:
		e.and(inverted(in, x.Invert), v.about)
		if x.IsDestRegSet {
			e.set(x.DestRegister, anything(other, 16))
		}
	}
}

// xtables applies a match that iptables-nft left to an extension.
func (e *run) xtables(x *expr.Match) {
	ports := e.l4(2, 2)
	in := func(r [2]uint16) tri {
		return ports.within(binary.BigEndian.AppendUint16(nil, r[0]), binary.BigEndian.AppendUint16(nil, r[1]))
	}
	switch info := x.Info.(type) {
	case *xt.Comment:
	case *xt.Tcp:
		e.and(inverted(in(info.DstPorts), info.InvFlags&xt.TcpInvDestPorts != 0), port)
		if info.SrcPorts != [2]uint16{0, 0xffff} || info.Option != 0 || info.FlagsMask != 0 {
			e.and(yes, other)
		}
	case *xt.Udp:
		e.and(inverted(in(info.DstPorts), info.InvFlags&xt.UdpInvDestPorts != 0), port)
		if info.SrcPorts != [2]uint16{0, 0xffff} {
			e.and(yes, other)
		}
	case *xt.Unknown:
		if ranges, invert, ok := multiport(x.Name, *info); ok {
			e.and(inverted(slices.Max(append(mapped(ranges, in), no)), invert), port)
			return
		}
		if x.Name != "comment" {
			e.and(yes, other)
		}
	default:
		e.and(yes, other)
	}
}

func mapped(ranges [][2]uint16, f func([2]uint16) tri) []tri {
	ts := make([]tri, 0, len(ranges))
	for _, r := range ranges {
		ts = append(ts, f(r))
	}
	return ts
}

// multiport reads struct xt_multiport_v1 (linux/netfilter/xt_multiport.h), if
// it is about destination ports.
func multiport(name string, b []byte) (ranges [][2]uint16, invert, ok bool) {
	const most, ports, flags, inverse = 15, 2, 32, 47
	if name != "multiport" || len(b) <= inverse || b[0] == 0 || b[1] > most {
		return nil, false, false // b[0]: source, destination, either
	}
	for i := 0; i < int(b[1]); i++ {
		r := [2]uint16{binary.NativeEndian.Uint16(b[ports+2*i:])}
		r[1] = r[0]
		if b[flags+i] != 0 && i+1 < int(b[1]) { // the first of a range
			i++
			r[1] = binary.NativeEndian.Uint16(b[ports+2*i:])
		}
		ranges = append(ranges, r)
	}
	return ranges, b[inverse] != 0, true
}
