package loader

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// natFrame is a frame of a connection by NAT to the real: its client's, or the reply.
func natFrame(isReply bool, flags byte) []byte {
	b := tcpFrame(7, flags)
	if isReply {
		ip := b[14:]
		client := netip.AddrFrom4([4]byte(ip[12:16]))
		real := netip.MustParseAddr("192.0.2.11")
		copy(ip[12:], real.AsSlice())
		copy(ip[16:], client.AsSlice())
		binary.BigEndian.PutUint16(ip[20:], 80)
		binary.BigEndian.PutUint16(ip[22:], 40000)
	}
	return b
}

// errorFrame is an ICMP error of the client's about a reply, which the VIP seems to have sent.
func errorFrame() []byte {
	about := natFrame(false, flagACK)[14 : 14+28]
	client, vip := [4]byte(about[12:16]), [4]byte(about[16:20])
	b := make([]byte, 14+20+8+28)
	copy(b, natFrame(false, flagACK)[:34])
	b[16], b[17], b[23], b[24], b[25] = 0, byte(len(b)-14), 1, 0, 0
	binary.BigEndian.PutUint16(b[24:], headerSum(b[14:34]))
	b[34], b[35] = 3, 4
	quoted := b[42:]
	copy(quoted, about)
	copy(quoted[12:], vip[:])
	copy(quoted[16:], client[:])
	binary.BigEndian.PutUint16(quoted[20:], 80)
	binary.BigEndian.PutUint16(quoted[22:], 40000)
	return b
}

// headerSum is the checksum of an IPv4 header whose own is 0.
func headerSum(ip []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	return ^uint16(sum + sum>>16)
}

// A reply by NAT is translated, too, while its connection is in a table that is left
// behind, and the client's error about one gets to the real.
func TestRepliesWhileTablesMove(t *testing.T) {
	o := options(t)
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	s := d.Settings
	s.Seed, s.Answers, s.Flags = [3]uint64{3, 5, 7}, 1000, bpf.SettingNat
	for i := range s.Timeout {
		s.Timeout[i] = 900
	}
	d.VIPs[bpf.FirstVIPLine(movedVIP)].Way[0] = bpf.VIP{Addr: bpf.AddressOf(movedVIP), TCP: 1}
	d.Ports[bpf.FirstPortLine(1, 80)].Way[0] = bpf.Port{VIP: 1, Port: bpf.PortWord(80)}
	d.Services[0] = bpf.Service{RingSize: 1, Sorry: bpf.NoSlot, Cookie: 77}
	real := bpf.Real{MAC: movedReal, Source: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Ifindex: 1, Cookie: 77, Weight: 1, Flags: bpf.RealThere | bpf.RealUsable}
	real.Generation = uint8(bpf.ForwardNat) << 4
	d.Reals[0] = real
	d.Addresses[0] = bpf.AddressOf(netip.MustParseAddr("192.0.2.11"))
	d.Replies[bpf.FirstReplyLine(netip.MustParseAddr("192.0.2.11"), 80, 6)].Way[0] = bpf.Reply{
		Source: bpf.IPv4Word(netip.MustParseAddr("192.0.2.11")), Port: bpf.PortWord(80), Protocol: 6, VIP: bpf.IPv4Word(movedVIP), VIPPort: bpf.PortWord(80), Number: 1,
	}
	d.Routes[0].Way[0] = bpf.Route{Hop: bpf.Hop{MAC: [6]byte{2, 0, 0, 0, 0, 99}, Ifindex: 1, MTU: 1500, Kind: bpf.RouteGateway}}

	run := func(prog *ebpf.Program, f []byte) (uint32, []byte) {
		opts := &ebpf.RunOptions{Data: f, DataOut: make([]byte, 256)}
		action, err := prog.Run(opts)
		must(t, err)
		return action, opts.DataOut
	}
	p := d.Program("lvx0")
	for _, f := range [][]byte{natFrame(false, flagSYN), natFrame(true, flagSYN|flagACK), natFrame(false, flagACK), natFrame(true, flagACK)} {
		if a, out := run(p, f); a != 3 {
			t.Fatalf("before: action %d, from %v", a, out[26:30])
		}
	}
	if a, out := run(p, errorFrame()); a != 3 || [6]byte(out[:6]) != movedReal {
		t.Fatalf("an error before: action %d, to %x", a, out[:6])
	}
	o.Detached = true
	old := open(t, o)
	defer func() { must(t, old.Close(false)) }()
	copy(old.Flows, d.Flows)
	clear(d.Flows)
	must(t, old.eachMap(func(name string, m **ebpf.Map) error {
		if pt := piecedTableOf(name); name != "flows" || pt == nil {
			return nil
		}
		d.left["flows"] = &leftMap{old: *m, to: d.spec.Maps["flows"].Value, from: d.spec.Maps["flows"].Value}
		return nil
	}))
	defer clear(d.left)
	moving, err := d.loadMoving(d.Attachments[0])
	must(t, err)
	defer moving.Close()
	for _, f := range [][]byte{natFrame(true, flagACK), natFrame(false, flagACK), natFrame(true, flagACK)} {
		if a, out := run(moving, f); a != 3 && a != 1 { // sent, or dropped: then it comes again
			t.Errorf("while tables move: action %d, from %v", a, out[26:30])
		}
	}
	for flags, want := range map[byte]uint32{flagSYN: 2, flagACK: 1} { // to a client that nothing is known of: a SYN is the real's own
		f := natFrame(true, flags)
		binary.BigEndian.PutUint16(f[36:], 41000)
		if a, _ := run(moving, f); a != want {
			t.Errorf("flags %#x to an unknown client while tables move: action %d, want %d", flags, a, want)
		}
	}
	if a, out := run(moving, errorFrame()); a != 3 || [6]byte(out[:6]) != movedReal {
		t.Errorf("an error while tables move: action %d, to %x", a, out[:6])
	}
}
