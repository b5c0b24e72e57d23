package xdp

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

var (
	natReal    = netip.AddrPortFrom(realN(1), 8080)
	natGateway = netip.MustParseAddr("10.0.0.254")
	gatewayMAC = [6]byte{2, 0, 10, 0, 0, 254}
)

// natService is web with one real, at port 8080.
func natService() lb.Service {
	s := webService(1)
	s.Scheduler = lb.RR
	s.Reals[0].Forward, s.Reals[0].Port = lb.NAT, natReal.Port()
	return s
}

// newNAT serves by NAT, with a gateway for all clients.
func newNAT(t *testing.T, services ...lb.Service) *harness {
	t.Helper()
	h := newStill(t, 4096, 1024)
	h.serveNAT(services...)
	return h
}

func (h *harness) serveNAT(services ...lb.Service) {
	h.t.Helper()
	h.net.routes = []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: natGateway}}
	h.apply(lb.State{ExpireNodestConn: true, Services: services})
}

// natPacket is a packet with checksums that are right.
type natPacket struct {
	proto    lb.Protocol
	src, dst netip.AddrPort
	flags    string
	payload  int
	change   func(ip []byte) // before the checksums
	zero     bool            // UDP without a checksum
	options  int             // words
	tags     []uint16
}

func (p natPacket) frame() []byte {
	in := frameOf(lb.Packet{Proto: p.proto, Src: p.src, Dst: p.dst, Flags: p.flags}, p.payload)
	in = in[:14+int(binary.BigEndian.Uint16(in[16:]))]
	for i := range p.payload {
		in[len(in)-p.payload+i] = byte(i * 7)
	}
	if p.options > 0 {
		in = withOptions(in, p.options)
	}
	if p.change != nil {
		p.change(in[14:])
	}
	finishSums(in[14:])
	if p.zero {
		l4 := in[14+int(in[14]&15)*4:]
		l4[6], l4[7] = 0, 0
	}
	return tagged(in, p.tags...)
}

// finishSums makes the checksums of an IPv4 packet right.
func finishSums(ip []byte) {
	header := int(ip[0]&15) * 4
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:header]))
	l4 := ip[header:binary.BigEndian.Uint16(ip[2:])]
	at := map[byte]int{6: 16, 17: 6}[ip[9]]
	l4[at], l4[at+1] = 0, 0
	sum := checksum(slices.Concat(ip[12:20], []byte{0, ip[9], byte(len(l4) >> 8), byte(len(l4))}, l4))
	if sum == 0 && ip[9] == 17 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], sum)
}

// beginSum leaves of the checksum of TCP or UDP what the kernel begins with: the
// sum of the pseudo-header.
func beginSum(ip []byte) {
	l4 := ip[int(ip[0]&15)*4 : binary.BigEndian.Uint16(ip[2:])]
	sum := checksum(slices.Concat(ip[12:20], []byte{0, ip[9], byte(len(l4) >> 8), byte(len(l4))}))
	binary.BigEndian.PutUint16(l4[map[byte]int{6: 16, 17: 6}[ip[9]]:], ^sum)
}

// translated is what in must become: between other addresses, one hop on.
func translated(in []byte, at int, src, dst netip.AddrPort, from, to [6]byte) []byte {
	out := bytes.Clone(in)
	copy(out, to[:])
	copy(out[6:], from[:])
	ip := out[at:]
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	ip[8]--
	l4 := ip[int(ip[0]&15)*4:]
	binary.BigEndian.PutUint16(l4, src.Port())
	binary.BigEndian.PutUint16(l4[2:], dst.Port())
	zero := ip[9] == 17 && l4[6] == 0 && l4[7] == 0
	finishSums(ip)
	if zero {
		l4[6], l4[7] = 0, 0
	}
	return out
}

// in sends a client's packet, which must reach the real.
func (h *harness) wantIn(p natPacket, real netip.AddrPort) {
	h.t.Helper()
	f := p.frame()
	out := h.want(f, "forwarded", tx)
	b := real.Addr().As4()
	want := translated(f, 14+4*len(p.tags), p.src, real, directorMAC, [6]byte{2, 0, b[0], b[1], b[2], b[3]})
	if !bytes.Equal(out, want) {
		h.t.Errorf("%+v in\n%x became\n%x, want\n%x", p, f, out, want)
	}
}

// wantOut sends a real's packet, which must reach the client from the VIP.
func (h *harness) wantOut(p natPacket, vip netip.AddrPort) {
	h.t.Helper()
	f := p.frame()
	out := h.want(f, "replied", tx)
	want := translated(f, 14+4*len(p.tags), vip, p.dst, directorMAC, gatewayMAC)
	if !bytes.Equal(out, want) {
		h.t.Errorf("%+v out\n%x became\n%x, want\n%x", p, f, out, want)
	}
}

// repliesFrom lists in the packet path's order what a reply from a port may be of.
func (h *harness) repliesFrom(proto lb.Protocol, from netip.AddrPort) (vips []netip.AddrPort) {
	lines := h.dp.Replies[h.dp.Settings.Half&1*bpf.ReplyLines:][:bpf.ReplyLines]
	for _, port := range []uint16{from.Port(), 0} {
		first := bpf.FirstReplyLine(from.Addr(), port, uint16(proto))
		for i := range uint32(bpf.Probes) {
			for _, reply := range lines[(first+i)%bpf.ReplyLines].Way {
				if reply.Source == bpf.IPv4Word(from.Addr()) && bpf.PortWord(reply.Port) == port && reply.Protocol == uint16(proto) {
					vips = append(vips, netip.AddrPortFrom(bpf.AddrOfWord(reply.VIP), cmp.Or(bpf.PortWord(reply.VIPPort), from.Port())))
				}
			}
		}
	}
	return vips
}

// A connection's packets both ways, by the short way and the long way, with
// every header that changes: what was right before is right behind it.
func TestNATBothWays(t *testing.T) {
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		t.Run(proto.String(), func(t *testing.T) {
			s := natService()
			s.Listeners[0].Proto = proto
			h := newNAT(t, s)
			in := func(p natPacket) { p.proto, p.src, p.dst = proto, client, web; h.wantIn(p, natReal) }
			out := func(p natPacket) { p.proto, p.src, p.dst = proto, natReal, client; h.wantOut(p, web) }
			in(natPacket{flags: "S"})
			out(natPacket{flags: "SA"})
			in(natPacket{flags: "A"})
			for _, p := range []natPacket{
				{flags: "A"}, {flags: "PA", payload: 1}, {flags: "A", payload: 1460}, {flags: "A", payload: 99, zero: proto == lb.UDP},
				{flags: "A", payload: 8, change: func(ip []byte) { ip[1] = 0xb8 }}, {flags: "A", payload: 20, options: 3},
				{flags: "A", payload: 20, tags: []uint16{0x8100}}, {flags: "A", tags: []uint16{0x88a8, 0x8100}, payload: 7},
				{flags: "A", payload: 30, change: func(ip []byte) { ip[8] = 2 }},
			} {
				in(p)
				out(p)
			}
			for i := range 3000 { // every sum that there is, or nearly
				p := natPacket{flags: "A", payload: 21, change: func(ip []byte) { binary.BigEndian.PutUint16(ip[42:], uint16(i*21)) }}
				in(p)
				out(p)
			}
			in(natPacket{flags: "FA"})
			out(natPacket{flags: "FA"})
			c := h.counters0()
			if c.OutPkts != c.InPkts-1 || c.OutBytes == 0 || c.Conns != 1 {
				t.Errorf("counters %+v", c)
			}
		})
	}
}

// counters0 are those of the first real.
func (h *harness) counters0() lb.Counters {
	h.t.Helper()
	st, err := h.Stats()
	must(h.t, err)
	return st.Services[0].Reals[0].Counters
}

// The kernel's table of a connection that is seen both ways: what each packet
// makes of it (tcp_states of ip_vs_proto_tcp.c), and how long that lasts.
func TestNATStates(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, x := range []struct {
		packets string // > from the client, < from the real
		state   string
		seconds int
	}{
		{">S", "SYN_RECV", 60}, {">S <SA", "SYN_RECV", 60}, {">S <SA >A", "ESTABLISHED", 900}, {">S <R", "CLOSE", 10}, {">S >R", "SYN_RECV", 60},
		{">S <SA >A >FA", "CLOSE_WAIT", 60}, {">S <SA >A <FA", "FIN_WAIT", 120}, {">S <SA >A >FA <FA", "TIME_WAIT", 120},
		{">S <SA >A <FA >FA", "TIME_WAIT", 120}, {">S <SA >A >R", "CLOSE", 10}, {">S <SA >A <R", "CLOSE", 10},
		{">S <SA >A >FA <A", "CLOSE_WAIT", 60}, {">S <SA >A <FA >A", "FIN_WAIT", 120}, {">S <SA >A >FA >A", "CLOSE_WAIT", 60},
		{">S <SA >A <FA <S", "SYN_SENT", 120}, {">S <SA >A <FA <S <A", "SYN_SENT", 120}, {">S <SA >A <FA <S >S", "ESTABLISHED", 900},
		{">S <SA >A >FA >S", "SYN_RECV", 60}, {">S <SA >A >FA <FA <R", "TIME_WAIT", 120}, {">S <FA", "TIME_WAIT", 120}, {">S <A", "ESTABLISHED", 900},
		{">S <SA >A >A >FA <FA >A", "TIME_WAIT", 120}, {">S <SA >A >A <A >FA", "CLOSE_WAIT", 60}, {">S <SA >A <S", "ESTABLISHED", 900},
		{">S <SA >A >FA <R", "CLOSE", 10},
	} {
		t.Run(x.packets, func(t *testing.T) {
			h.reset(t)
			h.serveNAT(natService())
			for _, p := range bytes.Fields([]byte(x.packets)) {
				if p[0] == '>' {
					h.wantIn(natPacket{proto: lb.TCP, src: client, dst: web, flags: string(p[1:])}, natReal)
				} else {
					h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: client, flags: string(p[1:])}, web)
				}
			}
			all, err := h.Connections(0)
			must(t, err)
			if len(all) != 1 || all[0].State != x.state || all[0].Real != natReal || all[0].Expires != shown(int64(ticks(time.Duration(x.seconds)*time.Second))) {
				t.Errorf("%+v, want one in %s for %d s", all, x.state, x.seconds)
			}
			st, err := h.Stats()
			must(t, err)
			active := map[string]uint32{"SYN_RECV": 1, "ESTABLISHED": 1, "SYN_SENT": 1}[x.state]
			if r := st.Services[0].Reals[0]; r.Active != active || r.Inactive != 1-active {
				t.Errorf("%d active, %d inactive", r.Active, r.Inactive)
			}
		})
	}
}

// What a real sends that is no reply is the kernel's: untouched.
func TestNATPassesWhatIsNoReply(t *testing.T) {
	h := newNAT(t, natService())
	other := netip.MustParseAddrPort("198.51.100.77:443")
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: web, flags: "S"}, natReal)
	for _, p := range []natPacket{
		{proto: lb.TCP, src: natReal, dst: other, flags: "S"}, {proto: lb.UDP, src: natReal, dst: client},
		{proto: lb.TCP, src: netip.AddrPortFrom(realN(1), 22), dst: client, flags: "A"},
		{proto: lb.TCP, src: netip.AddrPortFrom(realN(2), 8080), dst: client, flags: "A"},
		{proto: lb.TCP, src: natReal, dst: netip.AddrPortFrom(client.Addr(), 9), flags: "A"},
		{proto: lb.TCP, src: natReal, dst: client, flags: "A", tags: []uint16{0x8100, 0x8100, 0x8100}},
	} {
		f := p.frame()
		verdict := "not_ours"
		if len(p.tags) == 3 {
			verdict = "not_ipv4"
		}
		if out := h.want(f, verdict, pass); !bytes.Equal(out, f) {
			t.Errorf("%+v was changed", p)
		}
	}
	if c := h.counters0(); c.OutPkts != 0 {
		t.Errorf("%d replies were counted", c.OutPkts)
	}
}

// Several VIPs' ports may lead to one port of a real: each reply comes from the
// one that its client asked. Ranges keep the port.
func TestNATOfManyVIPs(t *testing.T) {
	var services []lb.Service
	for i := range 9 {
		s := natService()
		s.Name = fmt.Sprint("web", i)
		s.Listeners = []lb.Listener{{Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), Proto: lb.TCP, First: uint16(80 + i), Last: uint16(80 + i)}}
		services = append(services, s)
	}
	ranged := natService()
	ranged.Name, ranged.Reals[0].Port = "ranged", 0
	ranged.Listeners = []lb.Listener{{Addr: netip.MustParseAddr("10.0.2.1"), Proto: lb.TCP, First: 8000, Last: 8100}}
	h := newNAT(t, append(services, ranged)...)
	for round := range 4 {
		for i := range services {
			l := services[i].Listeners[0]
			vip, from := netip.AddrPortFrom(l.Addr, l.First), netip.AddrPortFrom(client.Addr(), uint16(3000+i))
			flags := []string{"S", "A", "A", "A"}[round]
			h.wantIn(natPacket{proto: lb.TCP, src: from, dst: vip, flags: flags}, natReal)
			h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: from, flags: "A", payload: 5}, vip)
		}
		vip, from := netip.MustParseAddrPort("10.0.2.1:8080"), netip.AddrPortFrom(client.Addr(), 4000)
		h.wantIn(natPacket{proto: lb.TCP, src: from, dst: vip, flags: []string{"S", "A", "A", "A"}[round]}, netip.AddrPortFrom(realN(1), 8080))
		h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: from, flags: "A", payload: 5}, vip)
	}
}

// ICMP errors are about the connection as its receiver knows it.
func TestNATTranslatesErrors(t *testing.T) {
	h := newNAT(t, natService())
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: web, flags: "S"}, natReal)
	router := netip.MustParseAddr("203.0.113.1")
	error := func(from, to netip.Addr, quoted []byte) []byte {
		icmp := slices.Concat([]byte{3, 4, 0, 0, 0, 0, 5, 0}, quoted[14:])
		binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
		f := frameOf(lb.Packet{Proto: lb.ICMP, Src: netip.AddrPortFrom(from, 0), Dst: netip.AddrPortFrom(to, 0)}, len(icmp)-8)
		f = f[:14+20+len(icmp)]
		copy(f[34:], icmp)
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], checksum(f[14:34]))
		return f
	}
	check := func(in []byte, verdict string, from, to netip.Addr, quoted []byte) {
		t.Helper()
		out := h.want(in, verdict, tx)
		want := error(from, to, quoted)
		want[22]--
		want[24], want[25] = 0, 0
		binary.BigEndian.PutUint16(want[24:], checksum(want[14:34]))
		at := 34 + 8 + 20 + 16 // the quoted TCP checksum stays as it came
		copy(want[at:at+2], in[at:at+2])
		want[36], want[37] = 0, 0
		binary.BigEndian.PutUint16(want[36:], checksum(want[34:]))
		if !bytes.Equal(out[14:], want[14:]) {
			t.Errorf("in\n%x became\n%x, want\n%x", in[14:], out[14:], want[14:])
		}
	}
	reply := natPacket{proto: lb.TCP, src: web, dst: client, flags: "A", payload: 60}.frame()
	asSent := natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A", payload: 60}.frame()
	check(error(router, web.Addr(), reply), "icmp_forwarded", router, realN(1), asSent)
	request := natPacket{proto: lb.TCP, src: client, dst: natReal, flags: "A", payload: 60}.frame()
	asAsked := natPacket{proto: lb.TCP, src: client, dst: web, flags: "A", payload: 60}.frame()
	for _, from := range []netip.Addr{realN(1), netip.MustParseAddr("10.9.9.9")} {
		check(error(from, client.Addr(), request), "icmp_replied", web.Addr(), client.Addr(), asAsked)
	}
}

// Fragments both ways: the first has the ports, the others follow.
func TestNATOfFragments(t *testing.T) {
	s := natService()
	s.Listeners[0].Proto = lb.UDP
	h := newNAT(t, s)
	pieces := func(datagram []byte) (all [][]byte) {
		l4 := datagram[34:]
		for from := 0; from < len(l4); from += 800 {
			to := min(from+800, len(l4))
			f := slices.Concat(datagram[:34], l4[from:to])
			binary.BigEndian.PutUint16(f[16:], uint16(20+to-from))
			binary.BigEndian.PutUint16(f[18:], 77)
			offset := uint16(from / 8)
			if to < len(l4) {
				offset |= 0x2000
			}
			binary.BigEndian.PutUint16(f[20:], offset)
			f[24], f[25] = 0, 0
			binary.BigEndian.PutUint16(f[24:], checksum(f[14:34]))
			all = append(all, f)
		}
		return all
	}
	check := func(in, want natPacket, verdicts ...string) {
		t.Helper()
		wanted := pieces(want.frame())
		for i, f := range pieces(in.frame()) {
			out := h.want(f, verdicts[min(i, len(verdicts)-1)], tx)
			w := wanted[i]
			w[22]--
			w[24], w[25] = 0, 0
			binary.BigEndian.PutUint16(w[24:], checksum(w[14:34]))
			if !bytes.Equal(out[14:], w[14:]) {
				t.Errorf("fragment %d\n%x became\n%x, want\n%x", i, f, out, w)
			}
		}
	}
	check(natPacket{proto: lb.UDP, src: client, dst: web, payload: 1700}, natPacket{proto: lb.UDP, src: client, dst: natReal, payload: 1700}, "forwarded")
	check(natPacket{proto: lb.UDP, src: natReal, dst: client, payload: 1700}, natPacket{proto: lb.UDP, src: web, dst: client, payload: 1700}, "replied")
	last := pieces(natPacket{proto: lb.UDP, src: natReal, dst: client, payload: 1700}.frame())[2]
	last[22], last[24], last[25] = 1, 0, 0
	binary.BigEndian.PutUint16(last[24:], checksum(last[14:34]))
	h.want(last, "ttl_silent", drop)
}

// What cannot leave is answered to the real, or dropped: never passed up half
// translated.
func TestNATRepliesThatCannotLeave(t *testing.T) {
	h := newNAT(t, natService())
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: web, flags: "S"}, natReal)
	df := func(ip []byte) { ip[6] = 0x40 }
	near := h.net.Lookup(natGateway)
	near.MTU = 400
	h.net.hosts = map[netip.Addr]Neighbor{natGateway: near}
	h.apply(h.state)
	long := natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A", payload: 361, change: df}
	out := h.want(long.frame(), "answered_too_big", tx)
	if mtu := binary.BigEndian.Uint16(out[14+20+6:]); mtu != 400 || [4]byte(out[30:34]) != realN(1).As4() {
		t.Errorf("answered %d to %v", mtu, out[30:34])
	}
	long.change = nil
	h.want(long.frame(), "too_big", drop)
	long.payload = 360
	h.wantOut(long, web)
	h.net.routes[0].MTU = 300
	h.apply(h.state)
	h.want(long.frame(), "too_big", drop)
	long.payload = 260
	h.wantOut(long, web)
	short := natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A", change: func(ip []byte) { ip[8] = 1 }}
	h.want(short.frame(), "answered_ttl", tx)
	h.net.routes = nil // the kernel of the test's namespace has no way
	h.apply(h.state)
	h.want(natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A"}.frame(), "no_way_back", drop)
	h.net.routes = []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), MTU: 300}} // it is asked, and not for the route's own MTU
	h.apply(h.state)
	h.want(long.frame(), "no_way_back", drop)
	long.change, long.payload = df, 261
	out = h.want(long.frame(), "answered_too_big", tx)
	if mtu := binary.BigEndian.Uint16(out[14+20+6:]); mtu != 300 {
		t.Errorf("answered %d", mtu)
	}
}

// Another director serves the VIP, or nobody: replies are not touched, as
// requests are not.
func TestNATRepliesFollowTheRole(t *testing.T) {
	h := newNAT(t, natService())
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: web, flags: "S"}, natReal)
	reply := natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A"}
	s := h.state
	s.VIPs = standby(web.Addr())
	h.apply(s)
	h.want(reply.frame(), "standby", pass)
	s.VIPs = leased(0, web.Addr())
	h.apply(s)
	must(t, h.Renew(0, 0))
	h.want(reply.frame(), "lease_over", drop)
	must(t, h.Renew(0, 1e12))
	h.wantOut(reply, web)
}

// A checksum that the kernel has only begun goes on being one.
func TestNATOfUnfinishedChecksums(t *testing.T) {
	h := newNAT(t, natService())
	h.dp.Interfaces[0].Mode, h.dp.Interfaces[0].MTU = bpf.ModeGeneric, 1500
	begin := func(p natPacket) []byte {
		f := p.frame()
		beginSum(f[14:])
		return f
	}
	for _, payload := range []int{0, 0, 0, 700, 20000} {
		flags := "A"
		if payload == 0 {
			flags = "S"
		}
		for _, x := range []struct {
			in, want natPacket
			verdict  string
		}{
			{natPacket{proto: lb.TCP, src: client, dst: web, flags: flags, payload: payload}, natPacket{proto: lb.TCP, src: client, dst: natReal, flags: flags, payload: payload}, "forwarded"},
			{natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A", payload: payload}, natPacket{proto: lb.TCP, src: web, dst: client, flags: "A", payload: payload}, "replied"},
		} {
			if payload > 3000 {
				continue // longer than a frame of prog-run
			}
			out, want := h.want(begin(x.in), x.verdict, tx), begin(x.want)
			if !bytes.Equal(out[34:], want[34:]) {
				t.Errorf("%x, want %x", out[34:54], want[34:54])
			}
		}
	}
}

// mapsPort reports whether a real gets all packets at a port of its own.
func mapsPort(r lb.Real) bool { return r.Forward == lb.NAT && r.Port != 0 }
