package xdp

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// XDP's actions, and no network of real hosts: what a frame looks like when
// it comes out is all there is to see.
const (
	drop = 1
	pass = 2
	tx   = 3
)

var (
	vip    = netip.MustParseAddr("10.0.0.100")
	web    = netip.AddrPortFrom(vip, 80)
	client = netip.MustParseAddrPort("172.16.0.5:40000")
)

func realN(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)}) }

// webService is rr over so many reals, on TCP and UDP port 80.
func webService(reals int) lb.Service {
	s := lb.Service{
		Name: "web", Scheduler: lb.RR, Mark: 7,
		Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}, {Addr: vip, Proto: lb.UDP, First: 80, Last: 80}},
	}
	for i := range reals {
		s.Reals = append(s.Reals, lb.Real{Addr: realN(i + 1), Weight: 1})
	}
	return s
}

func serving(t *testing.T, s lb.State) *harness {
	t.Helper()
	h := newHarness(t, 4096, 1024)
	h.apply(s)
	return h
}

func (h *harness) apply(s lb.State) {
	h.t.Helper()
	must(h.t, h.Apply(context.Background(), s))
}

// verdict runs a frame and names what was counted.
func (h *harness) verdict(in []byte) (string, []byte, uint32) {
	h.t.Helper()
	before := h.verdicts()
	out, action := h.runFrame(in)
	after := h.verdicts()
	name := ""
	for i := range after {
		if after[i].Count != before[i].Count {
			if name != "" || after[i].Count != before[i].Count+1 {
				h.t.Fatalf("more than one verdict counted: %s and %s", name, after[i].Name)
			}
			name = after[i].Name
		}
	}
	return name, out, action
}

func (h *harness) want(in []byte, verdict string, action uint32) []byte {
	h.t.Helper()
	v, out, a := h.verdict(in)
	if v != verdict || a != action {
		h.t.Fatalf("verdict %s, action %d; want %s, %d", v, a, verdict, action)
	}
	if a == pass && !bytes.Equal(in, out) {
		h.t.Fatalf("a passed frame was changed:\n%x\n%x", in, out)
	}
	return out
}

func syn(p lb.Protocol) lb.Packet { return lb.Packet{Proto: p, Src: client, Dst: web} }

func TestFramesThatAreNotOurs(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}})
	other := frame(syn(lb.TCP))
	other[5] = 99
	h.want(other, "not_our_mac", pass)
	broadcast := frame(syn(lb.TCP))
	copy(broadcast, []byte{255, 255, 255, 255, 255, 255})
	h.want(broadcast, "not_our_mac", pass)
	for name, ethertype := range map[string]uint16{"arp": 0x0806, "ipv6": 0x86dd, "lldp": 0x88cc} {
		f := frame(syn(lb.TCP))
		binary.BigEndian.PutUint16(f[12:], ethertype)
		t.Log(name)
		h.want(f, "not_ipv4", pass)
	}
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.MustParseAddrPort("10.0.0.101:80")}), "not_ours", pass)
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(vip, 81)}), "no_listener", pass)
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "A"}), "no_flow", pass)
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "RA"}), "no_flow", pass)
	echo := frame(syn(lb.UDP))
	echo[23], echo[34], echo[35] = 1, 8, 0
	h.want(echo, "other_protocol", pass)
	gre := frame(syn(lb.UDP))
	gre[23] = 47
	h.want(gre, "other_protocol", pass)
}

// ipvs-facts/05 section 1: what a forwarded frame looks like.
func TestForwardedFrame(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	in := frame(syn(lb.TCP))
	in[15] = 0xb8
	binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
	out := h.want(in, "forwarded", tx)
	want := bytes.Clone(in)
	copy(want, []byte{2, 0, 10, 0, 0, 11})
	copy(want[6:], directorMAC[:])
	want[22]--
	binary.BigEndian.PutUint16(want[24:], ipSum(want[14:34]))
	if !bytes.Equal(out, want) {
		t.Errorf("forwarded frame\n got %x\nwant %x", out, want)
	}
}

func TestChecksumAtEveryTTL(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	for ttl := 2; ttl < 256; ttl++ {
		for id := 0; id < 65536; id += 4099 {
			in := frame(syn(lb.TCP))
			in[22] = byte(ttl)
			binary.BigEndian.PutUint16(in[18:], uint16(id))
			binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
			out, _ := h.runFrame(in)
			if got, want := binary.BigEndian.Uint16(out[24:]), ipSum(out[14:34]); got != want && got^want != 0xffff {
				t.Fatalf("ttl %d id %d: checksum %04x, want %04x", ttl, id, got, want)
			}
		}
	}
}

// tagged inserts VLAN tags behind the addresses.
func tagged(f []byte, types ...uint16) []byte {
	var tags []byte
	for i, ty := range types {
		tags = binary.BigEndian.AppendUint16(tags, ty)
		tags = binary.BigEndian.AppendUint16(tags, uint16(10+i))
	}
	return append(append(bytes.Clone(f[:12]), tags...), f[12:]...)
}

func TestVLANTags(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	for _, types := range [][]uint16{{0x8100}, {0x88a8, 0x8100}, {0x8100, 0x8100}} {
		in := tagged(frame(syn(lb.TCP)), types...)
		out := h.want(in, "forwarded", tx)
		if !bytes.Equal(out[12:12+4*len(types)+2], in[12:12+4*len(types)+2]) {
			t.Errorf("tags changed: %x", out)
		}
	}
	h.want(tagged(frame(syn(lb.TCP)), 0x8100, 0x8100, 0x8100), "not_ipv4", pass)
}

// withOptions puts so many words of IP options behind the header.
func withOptions(f []byte, words int) []byte {
	b := append(bytes.Clone(f[:34]), make([]byte, 4*words)...)
	for i := 34; i < len(b); i++ {
		b[i] = 1 // NOP
	}
	b = append(b, f[34:]...)
	b[14] = 0x40 | byte(5+words)
	binary.BigEndian.PutUint16(b[16:], binary.BigEndian.Uint16(f[16:])+uint16(4*words))
	binary.BigEndian.PutUint16(b[24:], 0)
	binary.BigEndian.PutUint16(b[24:], ipSum(b[14:34+4*words]))
	return b
}

func TestIPOptions(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
	for words := 0; words <= 10; words++ {
		out := h.want(withOptions(frame(syn(lb.TCP)), words), "forwarded", tx)
		if got := macOwner(out[:6]); got != realN(3) {
			t.Errorf("%d words of options: to %s, want the flow's real %s", words, got, realN(3))
		}
	}
}

// ipvs-facts/05 sections 1 and 4: what the packet path answers itself.
func TestAnswers(t *testing.T) {
	s := webService(1)
	empty := webService(1)
	empty.Name, empty.Mark, empty.Reals[0].Weight = "empty", 8, 0
	for i := range empty.Listeners {
		empty.Listeners[i].First, empty.Listeners[i].Last = 82, 82
	}
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s, empty}})
	to82 := func(p lb.Protocol, payload int) []byte {
		return frameOf(lb.Packet{Proto: p, Src: client, Dst: netip.AddrPortFrom(vip, 82)}, payload)
	}
	last := frame(syn(lb.TCP))
	last[22] = 1
	for _, c := range []struct {
		name       string
		in         []byte
		verdict    string
		typ, code  byte
		wantLength int
	}{
		{"SYN without a usable real", to82(lb.TCP, 0), "answered_unreachable", 3, 3, 68},
		{"UDP without a usable real", to82(lb.UDP, 1), "answered_unreachable", 3, 3, 57},
		{"a tagged one", tagged(to82(lb.TCP, 0), 0x8100), "answered_unreachable", 3, 3, 68},
		{"a long one", to82(lb.UDP, 1400), "answered_unreachable", 3, 3, 576},
		{"an odd one", to82(lb.UDP, 333), "answered_unreachable", 3, 3, 389},
		{"TTL 1", last, "answered_ttl", 11, 0, 68},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := h.want(c.in, c.verdict, tx)
			checkAnswer(t, c.in, out, c.typ, c.code, c.wantLength)
		})
	}
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(vip, 82), Flags: "A"}), "no_flow", pass)
}

func checkAnswer(t *testing.T, in, out []byte, typ, code byte, length int) {
	t.Helper()
	at := 14
	for binary.BigEndian.Uint16(in[at-2:]) != 0x0800 {
		at += 4
	}
	if !bytes.Equal(out[:6], in[6:12]) || !bytes.Equal(out[6:12], in[:6]) || !bytes.Equal(out[12:at], in[12:at]) {
		t.Errorf("Ethernet header %x for %x", out[:at], in[:at])
	}
	ip := out[at:]
	if got := int(binary.BigEndian.Uint16(ip[2:])); got != length || len(out) != at+length {
		t.Fatalf("IP length %d in a frame of %d, want %d", got, len(out), length)
	}
	if !bytes.Equal(ip[12:16], in[at+16:at+20]) || !bytes.Equal(ip[16:20], in[at+12:at+16]) {
		t.Errorf("from %v to %v", ip[12:16], ip[16:20])
	}
	if ip[9] != 1 || ip[8] != 64 || ip[20] != typ || ip[21] != code {
		t.Errorf("protocol %d ttl %d icmp %d/%d", ip[9], ip[8], ip[20], ip[21])
	}
	if binary.BigEndian.Uint16(ip[10:]) != ipSum(ip[:20]) {
		t.Errorf("IP checksum %x, want %x", ip[10:12], ipSum(ip[:20]))
	}
	if sum := internetSum(ip[20:length]); sum != 0 {
		t.Errorf("ICMP checksum is off by %04x", sum)
	}
	if quoted := ip[28:length]; !bytes.Equal(quoted, in[at:at+len(quoted)]) {
		t.Errorf("quotes\n%x of\n%x", quoted, in[at:])
	}
}

// internetSum is 0 over data whose checksum is right.
func internetSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func TestAnswersAreLimited(t *testing.T) {
	s := webService(1)
	s.Reals[0].Weight = 0
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	h.dp.Settings.Answers = 3
	limited := false
	for range 20 {
		v, _, _ := h.verdict(frame(syn(lb.TCP)))
		limited = limited || v == "answer_limited"
	}
	if !limited {
		t.Error("20 answers at a limit of 3 a second")
	}
}

// ipvs-facts/05 section 7: the way to the real has a smaller MTU. Without DF
// the kernel makes fragments, which XDP cannot.
func TestPathMTU(t *testing.T) {
	h := newHarness(t, 4096, 1024)
	h.neigh = smallMTU{h.net}
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	in := frameOf(syn(lb.UDP), 1200)
	in[20] = 0x40 // DF
	binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
	out := h.want(in, "answered_too_big", tx)
	checkAnswer(t, in, out, 3, 4, 576)
	if mtu := binary.BigEndian.Uint16(out[14+20+6:]); mtu != 1000 {
		t.Errorf("MTU %d, want 1000", mtu)
	}
	h.want(frameOf(syn(lb.UDP), 1200), "too_big", drop)
	h.want(frameOf(syn(lb.UDP), 900), "forwarded", tx)
}

// smallMTU answers like segment, with an interface of a small MTU.
type smallMTU struct{ *segment }

func (s smallMTU) Lookup(a netip.Addr) Neighbor {
	n := s.segment.Lookup(a)
	n.MTU = 1000
	return n
}

// icmpError builds an error from a router that quotes the reply of a real.
func icmpError(typ, code byte, proto lb.Protocol, optionWords int) []byte {
	return icmpErrorOf(typ, code, endpoints{proto, client, web}, optionWords)
}

// icmpErrorOf quotes the reply to a packet between e.
func icmpErrorOf(typ, code byte, e endpoints, optionWords int) []byte {
	reply := frame(lb.Packet{Proto: e.proto, Src: e.dst, Dst: e.src, Flags: "A"})
	if optionWords > 0 {
		reply = withOptions(reply, optionWords)
	}
	quote := reply[14 : 14+20+4*optionWords+8]
	b := make([]byte, max(14+20+8+len(quote), 60))
	copy(b, frame(lb.Packet{Proto: 17, Src: netip.MustParseAddrPort("172.16.0.99:0"), Dst: netip.AddrPortFrom(e.dst.Addr(), 0)})[:34])
	b[23], b[34], b[35] = 1, typ, code
	binary.BigEndian.PutUint16(b[16:], uint16(20+8+len(quote)))
	binary.BigEndian.PutUint16(b[24:], ipSum(b[14:34]))
	copy(b[42:], quote)
	return b
}

// ipvs-facts/05 section 6.
func TestICMPErrorsFollowTheirFlow(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
	h.want(icmpError(3, 4, lb.TCP, 0), "icmp_no_flow", pass)
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		owner := macOwner(h.want(frame(syn(proto)), "forwarded", tx))
		for _, e := range [][2]byte{{3, 4}, {3, 1}, {3, 3}, {11, 0}, {4, 0}} {
			for _, words := range []int{0, 1, 10} {
				out := h.want(icmpError(e[0], e[1], proto, words), "icmp_forwarded", tx)
				if macOwner(out) != owner {
					t.Errorf("%s error %v with %d words of options: to %s, want %s", proto, e, words, macOwner(out), owner)
				}
			}
		}
		h.want(icmpError(5, 1, proto, 0), "other_protocol", pass)
	}
	dying := icmpError(3, 4, lb.TCP, 0)
	dying[22] = 1
	h.want(dying, "ttl_silent", drop)
}

// fragmentOf cuts UDP into first, middle, last.
func fragments(id uint16) [3][]byte {
	datagram := frameOf(syn(lb.UDP), 1200)
	var out [3][]byte
	for i, r := range [3][2]int{{0, 400}, {400, 800}, {800, 1208}} {
		f := append(bytes.Clone(datagram[:34]), datagram[34+r[0]:34+r[1]]...)
		binary.BigEndian.PutUint16(f[16:], uint16(20+r[1]-r[0]))
		binary.BigEndian.PutUint16(f[18:], id)
		off := uint16(r[0] / 8)
		if i < 2 {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(f[20:], off)
		binary.BigEndian.PutUint16(f[24:], ipSum(f[14:34]))
		out[i] = f
	}
	return out
}

// ipvs-facts/05 section 8.
func TestFragmentsStayTogether(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
	for id := range uint16(6) {
		f := fragments(id)
		owner := macOwner(h.want(f[0], "forwarded", tx))
		for _, rest := range [][]byte{f[2], f[1]} {
			if got := macOwner(h.want(rest, "forwarded", tx)); got != owner {
				t.Errorf("datagram %d: a fragment went to %s, the first to %s", id, got, owner)
			}
		}
	}
	h.want(fragments(99)[1], "fragment_lost", drop)
	now, err := h.dp.Jiffies()
	must(t, err)
	h.dp.Settings.Alive = now + 100000
	h.want(fragments(99)[1], "fragment_held", drop)
}

// What follows a first fragment that was answered or dropped on its way out is dropped:
// of one datagram there is one answer, and none about a later fragment (RFC 1122, 3.2.2).
func TestFragmentsBehindOneThatWasNotSent(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	dying := fragments(1)
	for _, f := range dying {
		f[22] = 1
		binary.BigEndian.PutUint16(f[24:], ipSum(f[14:34]))
	}
	h.want(dying[0], "answered_ttl", tx)
	h.want(dying[1], "fragment_lost", drop)
	near := h.net.Lookup(realN(1))
	near.MTU = len(fragments(2)[0]) - 15
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): near}
	h.apply(h.state)
	h.want(fragments(2)[0], "too_big", drop)
	h.want(fragments(2)[2], "fragment_lost", drop)
}

// ipvs-facts/05 section 5: what a rule of netfilter's INPUT does to new and to
// known connections, a list does here.
func TestDenyAndAllow(t *testing.T) {
	s := webService(1)
	s.Deny = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")}
	s.Allow = nil
	open := webService(1)
	open.Name, open.Mark = "open", 9
	for i := range open.Listeners {
		open.Listeners[i].First, open.Listeners[i].Last = 81, 81
	}
	h := newHarness(t, 4096, 1024)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1), open}})
	h.want(frame(syn(lb.TCP)), "forwarded", tx)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s, open}})
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "A"}), "denied", drop) // existing flow
	h.want(frame(syn(lb.UDP)), "denied", drop)
	to81 := frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(vip, 81)})
	h.want(to81, "forwarded", tx)

	s.Allow = []netip.Prefix{netip.MustParsePrefix("172.16.0.5/32")}
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s, open}})
	h.want(frame(syn(lb.UDP)), "forwarded", tx) // the longer prefix decides
	stranger := frame(lb.Packet{Proto: lb.TCP, Src: netip.MustParseAddrPort("192.0.2.1:5"), Dst: web})
	h.want(stranger, "denied", drop) // an allow list excludes the rest

	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1), open}, Deny: []netip.Prefix{netip.MustParsePrefix("172.16.0.5/32")}})
	h.want(frame(syn(lb.UDP)), "denied", drop)
	h.want(to81, "denied", drop)
	h.want(stranger, "forwarded", tx)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1), open}})
	h.want(frame(syn(lb.UDP)), "forwarded", tx)
	if len(h.filters) != 0 {
		t.Errorf("%d filters are left", len(h.filters))
	}
}

func TestLeaseAndStandby(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}, VIPs: standby(vip)}
	h := serving(t, s)
	h.want(frame(syn(lb.TCP)), "standby", pass)
	s.VIPs = leased(3, vip)
	h.apply(s)
	h.want(frame(syn(lb.TCP)), "lease_over", drop)
	must(t, h.Renew(3, time.Hour))
	h.want(frame(syn(lb.TCP)), "forwarded", tx)
	must(t, h.Renew(3, 0))
	h.want(frame(syn(lb.TCP)), "lease_over", drop)
	if err := h.Renew(1<<20, time.Second); err == nil {
		t.Error("a lease that does not exist was renewed")
	}
}

// The last of the VRRP instances that a host may have has a lease of its own, too.
func TestLeaseOfTheLastInstance(t *testing.T) {
	const last = 1023
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}, VIPs: leased(last, vip)})
	must(t, h.Renew(last%256, time.Hour))
	h.want(frame(syn(lb.TCP)), "lease_over", drop)
	must(t, h.Renew(last%256, 0))
	must(t, h.Renew(last, time.Hour))
	h.want(frame(syn(lb.TCP)), "forwarded", tx)
}

// Directors that are each other's reals must not play ping-pong.
func TestPeersAreNotBalancedAgain(t *testing.T) {
	me, peer := realN(1), realN(2)
	h := newHarness(t, 4096, 1024)
	h.net.local[me] = true
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}, Peers: []netip.Addr{peer}})
	// The attachment's ifindex is not the loopback's that prog-run uses.
	copy(h.dp.Interfaces[0].Peer[0].MAC[:], []byte{2, 0, 10, 0, 0, 12})
	h.dp.Interfaces[0].Peer[0].Addr = bpf.IPv4Word(peer)
	from := func(mac []byte, p lb.Packet) []byte {
		f := frame(p)
		copy(f[6:], mac)
		return f
	}
	h.want(from([]byte{2, 0, 10, 0, 0, 12}, syn(lb.TCP)), "from_peer", pass)
	own := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(peer, 4000), Dst: web}
	h.want(from([]byte{2, 0, 10, 0, 0, 12}, own), "from_peer", pass) // a check through the VIP
	if v, _, _ := h.verdict(frame(syn(lb.TCP))); v == "from_peer" {
		t.Error("a client's frame was taken for a peer's")
	}
	if x, err := h.Explain(syn(lb.TCP)); err != nil || !strings.Contains(strings.Join(x.Steps, "\n"), "from_peer") {
		t.Errorf("explained: %+v, %v", x, err)
	}

	// Whether the own real is well or not, and with the daemon gone.
	ill := webService(2)
	ill.Reals, ill.Absent = ill.Reals[1:], ill.Reals[:1]
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{ill}, Peers: []netip.Addr{peer}, VIPs: leased(3, vip)}
	h.apply(s)
	copy(h.dp.Interfaces[0].Peer[0].MAC[:], []byte{2, 0, 10, 0, 0, 12})
	h.dp.Interfaces[0].Peer[0].Addr = bpf.IPv4Word(peer)
	h.want(from([]byte{2, 0, 10, 0, 0, 12}, syn(lb.TCP)), "from_peer", pass)
	h.want(frame(syn(lb.TCP)), "lease_over", drop)
	must(t, h.Renew(3, time.Hour))
	h.want(from([]byte{2, 0, 10, 0, 0, 12}, syn(lb.TCP)), "from_peer", pass)
	h.want(frame(syn(lb.TCP)), "forwarded", tx)
}

// ipvs-facts/05 section 9: a real that does not answer ARP. Here lvx differs on
// purpose.
func TestSilentRealIsNotScheduled(t *testing.T) {
	h := newHarness(t, 4096, 1024)
	h.net.silent[realN(2)] = "10.0.0.12 does not answer ARP on lvx0"
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
	for i := range 6 {
		if got := h.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), uint16(1000+i)), Dst: web}); got.Real == realN(2) {
			t.Fatal("a real without a MAC was chosen")
		}
	}
	o, err := h.Observed()
	must(t, err)
	r := o.Services[0].Reals[1]
	if r.Weight != 1 || r.Usable || r.Reason == "" {
		t.Errorf("the silent real is shown as %+v", r)
	}
	delete(h.net.silent, realN(2))
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
	seen := false
	for i := range 6 {
		seen = seen || h.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), uint16(2000+i)), Dst: web}).Real == realN(2)
	}
	if !seen {
		t.Error("the real answers again and is not chosen")
	}
}

// arpFor builds a broadcast ARP packet.
func arpFor(op byte, sender, target netip.Addr) []byte {
	f := make([]byte, 60)
	copy(f, []byte{255, 255, 255, 255, 255, 255})
	copy(f[6:], clientMAC[:])
	copy(f[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, op})
	copy(f[22:], clientMAC[:])
	s, d := sender.As4(), target.As4()
	copy(f[28:], s[:])
	copy(f[38:], d[:])
	return f
}

// Two hosts must not both answer "who has VIP".
func TestARPIsSilenced(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}}
	h := serving(t, s)
	request := arpFor(1, client.Addr(), vip)
	unicast := append(append([]byte(nil), directorMAC[:]...), request[6:]...)
	h.want(request, "not_our_mac", pass)
	h.want(unicast, "not_ipv4", pass)

	s.VIPs = standby(vip)
	h.apply(s)
	h.want(request, "arp_silenced", drop)
	h.want(unicast, "arp_silenced", drop)
	h.want(arpFor(1, vip, vip), "not_our_mac", pass) // an announcement of the owner
	h.want(arpFor(2, client.Addr(), vip), "not_our_mac", pass)
	h.want(arpFor(1, client.Addr(), realN(1)), "not_our_mac", pass)
	h.want(request[:40], "not_our_mac", pass)

	s.VIPs = leased(1, vip)
	h.apply(s)
	h.want(request, "arp_silenced", drop)
	must(t, h.Renew(1, time.Minute))
	h.want(request, "not_our_mac", pass)
	must(t, h.Renew(1, 0))
	h.want(unicast, "arp_silenced", drop)
}
