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
	match matches
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

// ruleRun is one rule that is applied to the packets of a listener.
type ruleRun struct {
	packet
	sets      map[string][]element // of the rule's table; a set that is missing could not be read
	registers [20]value            // of four bytes each; a long value is at its first one
	match     matches
	about     about
	branches  []branch
}

// setsMark is the branch of a packet that gets a firewall mark and goes on;
// the kernel has no such verdict.
const setsMark = expr.VerdictKind(1 << 20)

// hidesSource is the branch of a packet that gets another source address.
const hidesSource = expr.VerdictKind(1<<20 + 1)

// applyRule says what a rule does with the packets of a listener.
func applyRule(p packet, r *nftables.Rule, sets map[string][]element) []branch {
	e := ruleRun{packet: p, sets: sets, match: yes}
	for i := range e.registers {
		e.registers[i] = anything(other, 16)
	}
	for _, x := range r.Exprs {
		e.applyExpr(x)
		if e.match == no {
			break
		}
	}
	return e.branches
}

// addCondition adds a condition.
func (e *ruleRun) addCondition(t matches, a about) {
	e.about |= a
	if t == some && a&(other|source) == other {
		t = yes // ignored
	}
	e.match = min(e.match, t)
}

func (e *ruleRun) addBranch(what expr.VerdictKind, chain string) {
	e.branches = append(e.branches, branch{e.match, e.about, what, chain})
}

// registerSlot is the number of a register's first four bytes: NFT_REG_1 to 4 are of
// 16 bytes, NFT_REG32_00 to 15 are the same memory in pieces.
func registerSlot(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return int(min(register-unix.NFT_REG32_00, 15))
	}
	return int(max(min(register, 4), 1)-1) * 4
}

func (e *ruleRun) register(register uint32) value       { return e.registers[registerSlot(register)] }
func (e *ruleRun) setRegister(register uint32, v value) { e.registers[registerSlot(register)] = v }

// readKey reads n bytes, also of values that were put side by side.
func (e *ruleRun) readKey(register uint32, n int) value {
	var v value
	for at := registerSlot(register); len(v.lo) < n && at < len(e.registers); at = registerSlot(register) + len(v.lo)/4 {
		part := e.registers[at]
		if len(part.lo) == 0 {
			part = anything(other, 4)
		}
		v = v.join(part).join(exactly(0, make([]byte, -len(part.lo)&3)...)) // padded
	}
	return v.sub(0, min(n, len(v.lo)))
}

// applyExpr applies one expression. What can only let a packet pass, count or
// change it is no condition.
func (e *ruleRun) applyExpr(x expr.Any) {
	switch x := x.(type) {
	case *expr.Payload:
		if x.OperationType == expr.PayloadLoad {
			e.setRegister(x.DestRegister, e.readPayload(x))
		}
	case *expr.Meta:
		switch {
		case !x.SourceRegister:
			e.setRegister(x.Register, e.readMeta(x.Key))
		case x.Key == expr.MetaKeyMARK:
			e.addBranch(setsMark, "")
		}
	case *expr.Bitwise:
		e.setRegister(x.DestRegister, e.register(x.SourceRegister).masked(x.Mask, x.Xor))
	case *expr.Immediate:
		e.setRegister(x.Register, exactly(0, x.Data...))
	case *expr.Ct:
		e.setRegister(x.Register, anything(other, 16))
	case *expr.Exthdr:
		e.setRegister(x.DestRegister, anything(other, 16))
	case *expr.Fib:
		e.setRegister(x.Register, anything(other, 16))
	case *expr.Hash:
		e.setRegister(x.DestRegister, anything(other, 16))
	case *expr.Numgen:
		e.setRegister(x.Register, anything(other, 16))
	case *expr.Socket:
		e.setRegister(x.Register, anything(other, 16))
	case *expr.Cmp:
		v := e.register(x.Register)
		e.addCondition(compareValue(v, x), v.about)
	case *expr.Range:
		v := e.register(x.Register)
		e.addCondition(invertIf(v.inRange(x.FromData, x.ToData), x.Op == expr.CmpOpNeq), v.about)
	case *expr.Lookup:
		e.applyLookup(x)
	case *expr.Match:
		e.applyMatch(x)
	case *expr.Limit, *expr.Quota, *expr.Connlimit, *expr.Dynset, *expr.Objref:
		e.addCondition(yes, other)
	case *expr.Verdict:
		e.addBranch(x.Kind, x.Chain)
	case *expr.Reject:
		e.addBranch(expr.VerdictDrop, "")
	case *expr.Masq:
		e.addBranch(hidesSource, "")
	case *expr.NAT:
		if x.Type == expr.NATTypeSourceNAT {
			e.addBranch(hidesSource, "")
		}
	case *expr.Target:
		e.applyTarget(x.Name)
	}
}

// applyTarget applies a target of iptables-nft.
func (e *ruleRun) applyTarget(name string) {
	switch name {
	case "REJECT":
		e.addBranch(expr.VerdictDrop, "")
	case "MARK":
		e.addBranch(setsMark, "")
	case "MASQUERADE", "SNAT":
		e.addBranch(hidesSource, "")
	}
}

func invertIf(t matches, invert bool) matches {
	if invert {
		return t.inverse()
	}
	return t
}

func (e *ruleRun) readPayload(x *expr.Payload) value {
	switch from, n := int(x.Offset), int(min(x.Len, 16)); x.Base {
	case expr.PayloadBaseNetworkHeader:
		return e.ipBytes(from, n)
	case expr.PayloadBaseTransportHeader:
		return e.l4Bytes(from, n)
	default:
		return anything(other, n)
	}
}

func (e *ruleRun) readMeta(key expr.MetaKey) value {
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
	}
	isOwnIndex, isOwnName := key == expr.MetaKeyIIF, key == expr.MetaKeyIIFNAME
	if e.isLeaving {
		isOwnIndex, isOwnName = key == expr.MetaKeyOIF, key == expr.MetaKeyOIFNAME
	}
	switch {
	case isOwnIndex:
		return exactly(device, binary.NativeEndian.AppendUint32(nil, e.index)...)
	case isOwnName:
		var name [unix.IFNAMSIZ]byte
		copy(name[:unix.IFNAMSIZ-1], e.device)
		return exactly(device, name[:]...)
	}
	return anything(other, 16)
}

func compareValue(v value, x *expr.Cmp) matches {
	zero, ones := make([]byte, len(x.Data)), make([]byte, len(x.Data))
	for i := range ones {
		ones[i] = 0xff
	}
	switch x.Op {
	case expr.CmpOpEq:
		return v.inRange(x.Data, x.Data)
	case expr.CmpOpNeq:
		return v.inRange(x.Data, x.Data).inverse()
	case expr.CmpOpLte:
		return v.inRange(zero, x.Data)
	case expr.CmpOpGt:
		return v.inRange(zero, x.Data).inverse()
	case expr.CmpOpGte:
		return v.inRange(x.Data, ones)
	case expr.CmpOpLt:
		return v.inRange(x.Data, ones).inverse()
	}
	return some
}

// applyLookup matches a set, or branches by a verdict map.
func (e *ruleRun) applyLookup(x *expr.Lookup) {
	elements, known := e.sets[x.SetName]
	n := 0
	if len(elements) > 0 {
		n = len(elements[0].from)
	}
	v := e.readKey(x.SourceRegister, n)
	before := e.match
	in := no
	for _, el := range elements {
		t := v.inRange(el.from, el.to)
		in = max(in, t)
		if x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT && t != no {
			about := e.about
			e.addCondition(t, v.about)
			e.addBranch(el.what, el.chain)
			e.match, e.about = before, about
		}
	}
	switch {
	case !known:
		e.addCondition(yes, other)
	case x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT:
		e.match = no // its branches have spoken; the rest goes to the next rule
	default:
		e.addCondition(invertIf(in, x.Invert), v.about)
		if x.IsDestRegSet {
			e.setRegister(x.DestRegister, anything(other, 16))
		}
	}
}

// applyMatch applies a match that iptables-nft left to an extension.
func (e *ruleRun) applyMatch(x *expr.Match) {
	ports := e.l4Bytes(2, 2)
	in := func(r [2]uint16) matches {
		return ports.inRange(binary.BigEndian.AppendUint16(nil, r[0]), binary.BigEndian.AppendUint16(nil, r[1]))
	}
	if x.Name == "ipvs" && e.isLeaving { // -m ipvs: what IPVS sends to reals
		e.addCondition(yes, destination)
		return
	}
	switch info := x.Info.(type) {
	case *xt.Comment:
	case *xt.Tcp:
		e.addCondition(invertIf(in(info.DstPorts), info.InvFlags&xt.TcpInvDestPorts != 0), port)
		if info.SrcPorts != [2]uint16{0, 0xffff} || info.Option != 0 || info.FlagsMask != 0 {
			e.addCondition(yes, other)
		}
	case *xt.Udp:
		e.addCondition(invertIf(in(info.DstPorts), info.InvFlags&xt.UdpInvDestPorts != 0), port)
		if info.SrcPorts != [2]uint16{0, 0xffff} {
			e.addCondition(yes, other)
		}
	case *xt.Unknown:
		if ranges, invert, ok := parseMultiport(x.Name, *info); ok {
			e.addCondition(invertIf(slices.Max(append(mapRanges(ranges, in), no)), invert), port)
			return
		}
		if x.Name != "comment" {
			e.addCondition(yes, other)
		}
	default:
		e.addCondition(yes, other)
	}
}

func mapRanges(ranges [][2]uint16, f func([2]uint16) matches) []matches {
	ts := make([]matches, 0, len(ranges))
	for _, r := range ranges {
		ts = append(ts, f(r))
	}
	return ts
}

// parseMultiport reads struct xt_multiport_v1 (linux/netfilter/xt_multiport.h), if
// it is about destination ports.
func parseMultiport(name string, b []byte) (ranges [][2]uint16, invert, ok bool) {
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
