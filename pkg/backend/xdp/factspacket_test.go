package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

const oneReal = `$ ipvsadm -A -t 10.0.0.100:80 -s rr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g`

// ipvs-facts/05 section 1: the same headers, byte by byte, at every TTL that
// was tried.
func TestFacts05HeaderChanges(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(oneReal)
	for _, c := range []struct {
		port     uint16
		ttl      byte
		sum, out uint16
	}{{5064, 64, 0x839c, 0x849c}, {5255, 255, 0xc49b, 0xc59b}, {5002, 2, 0xc19c, 0xc29c}, {5001, 1, 0xc29c, 0}} {
		in := frame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(netip.MustParseAddr("172.16.0.1"), c.port), Dst: web})
		in[15], in[19], in[20], in[22] = 0xb8, 7, 0x40, c.ttl
		binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
		if sum := binary.BigEndian.Uint16(in[24:]); sum != c.sum {
			t.Errorf("TTL %d: checksum sent %04x, the recorder sent %04x", c.ttl, sum, c.sum)
		}
		if c.ttl == 1 {
			out := f.want(in, "answered_ttl", tx)
			checkAnswer(t, in, out, 11, 0, 68)
			if out[15] != 0xd8 {
				t.Errorf("TOS of the answer %02x, want d8", out[15])
			}
			continue
		}
		out := f.want(in, "forwarded", tx)
		want := bytes.Clone(in)
		copy(want, []byte{2, 0, 10, 0, 0, 11})
		copy(want[6:], directorMAC[:])
		want[22]--
		binary.BigEndian.PutUint16(want[24:], c.out)
		if !bytes.Equal(out, want) {
			t.Errorf("TTL %d:\n got %x\nwant %x", c.ttl, out, want)
		}
	}
}

// ipvs-facts/05 section 2: what the director's own stack answers.
func TestFacts05NotOurs(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(oneReal)
	at81 := netip.AddrPortFrom(vip, 81)
	f.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: at81}), "no_listener", pass)
	f.want(frame(lb.Packet{Proto: lb.UDP, Src: client, Dst: at81}), "no_listener", pass)
	echo := frame(syn(lb.UDP))
	echo[23], echo[34] = 1, 8
	f.want(echo, "other_protocol", pass)
	gre := frame(syn(lb.UDP))
	gre[23] = 47
	f.want(gre, "other_protocol", pass)
}

// ipvs-facts/05 section 3: which packets open a connection, and in which
// state.
func TestFacts05WhatOpens(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, c := range []struct{ flags, strict, sloppy string }{
		{"A", "rst gone", "rs1 14:59 ESTABLISHED"},
		{"PA", "rst gone", "rs1 14:59 ESTABLISHED"},
		{"FA", "rst gone", "rs1 00:09 CLOSE"},
		{"R", "rst gone", "rst gone"},
		{"RA", "rst gone", "rst gone"},
		{"SA", "rs1 00:59 SYN_RECV", "rs1 00:59 SYN_RECV"},
		{"F", "rst gone", "rs1 00:09 CLOSE"},
		{"none", "rst gone", "rs1 00:09 CLOSE"},
		{"S", "rs1 00:59 SYN_RECV", "rs1 00:59 SYN_RECV"},
	} {
		for _, sloppy := range []bool{false, true} {
			f := h.replay(t)
			f.state.SloppyTCP = sloppy
			f.ipvsadm(oneReal)
			want := map[bool]string{false: c.strict, true: c.sloppy}[sloppy]
			f.expect(fmt.Sprintf("%s, sloppy_tcp %v", c.flags, sloppy), f.tcp(6100, c.flags)+" "+f.expires(6100), want)
		}
	}
}

// ipvs-facts/05 section 4: no usable destination.
func TestFacts05NoDestination(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:82 -s rr; ipvsadm -A -u 10.0.0.100:82 -s rr")
	to82 := func(p lb.Protocol, flags string) string {
		return f.send(p, "172.16.0.1:6301", "10.0.0.100:82", flags)
	}
	f.expect("SYN, no dest", to82(lb.TCP, "S"), "icmp 3/3")
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:82 -r 10.0.0.11 -g -w 0")
	f.expect("SYN, only weight 0", to82(lb.TCP, "S"), "icmp 3/3")
	f.expect("UDP, no dest", to82(lb.UDP, ""), "icmp 3/3")
	f.expect("ACK, no dest", to82(lb.TCP, "A"), "rst")
	f.lists("nothing is remembered", "")
	st, err := f.Stats()
	must(t, err)
	for _, s := range st.Services {
		if s.Counters != (lb.Counters{}) {
			t.Errorf("%s counted %+v", s.Name, s.Counters)
		}
	}
}

// ipvs-facts/05 section 6: ICMP errors are packets of the connection's real,
// but they neither open nor prolong it.
func TestFacts05ICMPErrors(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(threeReals)
	f.expect("open conn", f.tcp(40000, "S"), "rs3")
	f.expect("another one", f.tcp(40001, "S"), "rs2")
	f.wait(20)
	before := f.listing()
	for _, e := range [][2]byte{{3, 4}, {3, 1}, {3, 3}, {11, 0}, {4, 0}} {
		in := icmpError(e[0], e[1], lb.TCP, 0)
		out := f.want(in, "icmp_forwarded", tx)
		if macOwner(out) != realN(3) || !bytes.Equal(out[34:], in[34:]) {
			t.Errorf("%d/%d to %s, payload changed %v", e[0], e[1], macOwner(out), !bytes.Equal(out[34:], in[34:]))
		}
	}
	f.want(icmpError(5, 1, lb.TCP, 0), "other_protocol", pass)
	unknown := icmpError(3, 4, lb.TCP, 0)
	binary.BigEndian.PutUint16(unknown[64:], 6999)
	f.want(unknown, "icmp_no_flow", pass)
	f.expect("connections", strings.Join(f.listing(), "\n"), strings.Join(before, "\n"))
	st, err := f.Stats()
	must(t, err)
	if c := st.Services[0].Reals[2].Counters; c.Conns != 1 || c.InPkts != 6 || c.InBytes != 40+5*56 {
		t.Errorf("rs3 counted %+v, want a SYN and five errors of 56 bytes", c)
	}
}

// ipvs-facts/05 section 8: every fragment to the real of the first.
func TestFacts05Fragments(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -u 10.0.0.100:53 -s rr; ipvsadm -a -u 10.0.0.100:53 -r 10.0.0.11 -g; ipvsadm -a -u 10.0.0.100:53 -r 10.0.0.12 -g")
	f.ipvsadm(oneReal)
	for i, c := range []struct {
		port            uint16
		payload, offset int
		want            string
	}{
		{7040, 1200, 800, "rs2 rs2"}, {7041, 2500, 1480, "rs1 rs1"}, {7042, 3000, 1000, "rs2 rs2 rs2 rs2"},
	} {
		datagram := frameOf(lb.Packet{Proto: lb.UDP, Src: netip.AddrPortFrom(client.Addr(), c.port), Dst: netip.AddrPortFrom(vip, 53)}, c.payload)
		f.expect(fmt.Sprint("UDP payload ", c.payload), f.cut(datagram, uint16(40+i), c.offset), c.want)
	}
	segment := frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "S"}, 800)
	f.expect("SYN and data in fragments of 400", f.cut(segment, 50, 400), "rs1 rs1 rs1")
	if n := len(f.listing()); n != 4 {
		t.Errorf("%d connections, want 4", n)
	}
}

// cut sends a packet in fragments of so many bytes, in order.
func (f *facts) cut(datagram []byte, id uint16, size int) string {
	f.t.Helper()
	size &^= 7
	l4 := datagram[34 : 14+binary.BigEndian.Uint16(datagram[16:])]
	var got []string
	for at := 0; at < len(l4); at += size {
		piece := l4[at:min(at+size, len(l4))]
		in := append(bytes.Clone(datagram[:34]), piece...)
		in = append(in, make([]byte, max(0, 60-len(in)))...)
		off := uint16(at / 8)
		if at+size < len(l4) {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(in[16:], uint16(20+len(piece)))
		binary.BigEndian.PutUint16(in[18:], id)
		binary.BigEndian.PutUint16(in[20:], off)
		binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
		got = append(got, f.who(in))
	}
	return strings.Join(got, " ")
}

// ipvs-facts/05 section 10: a real with an address of this host is served
// here, the frame unchanged, the connection known and counted.
func TestFacts05Localnode(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.net.local[netip.MustParseAddr("10.0.0.1")] = true
	for port, real := range map[string]string{"84": "127.0.0.1", "86": "10.0.0.1"} {
		f.ipvsadm(fmt.Sprintf("ipvsadm -A -t 10.0.0.100:%s -s rr; ipvsadm -a -t 10.0.0.100:%s -r %s -g", port, port, real))
		for _, flags := range []string{"S", "A", "FA"} {
			f.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.MustParseAddrPort("10.0.0.100:" + port), Flags: flags}), "local", pass)
		}
		if table := f.table("-t 10.0.0.100:" + port); !strings.HasSuffix(table, " 0/1") {
			t.Errorf("table %s, want one inactive connection", table)
		}
	}
	f.lists("connections", `
    TCP 01:59 FIN_WAIT 172.16.0.5:40000 10.0.0.100:84 127.0.0.1:84
    TCP 01:59 FIN_WAIT 172.16.0.5:40000 10.0.0.100:86 10.0.0.1:86`)
	last := frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.MustParseAddrPort("10.0.0.100:84"), Flags: "A"})
	last[22] = 1
	f.want(last, "local", pass) // TTL 1 has arrived
}

// group is the mark of facts 09 section 1, by listeners instead of iptables.
func (f *facts) group(ports ...uint16) {
	f.marks["1"] = nil
	for _, p := range ports {
		l := lb.Listener{Addr: vip, Proto: lb.TCP, First: p, Last: p}
		if p == 8000 {
			l.Last = 8100
		}
		f.marks["1"] = append(f.marks["1"], l)
	}
}

// ipvs-facts/09 section 1: ports grouped by a mark are one service.
func TestFacts09Group(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.group(80, 443, 8000)
	f.ipvsadm(strings.ReplaceAll(threeReals, "-t 10.0.0.100:80", "-f 1"))
	to := func(port string) string { return f.conn("172.16.0.5", "10.0.0.100:"+port, "S") }
	f.expect("80 x3", to("80")+to("80")+to("80"), "rs3rs2rs1")
	f.expect("443 x3", to("443")+to("443")+to("443"), "rs3rs2rs1")
	f.expect("8050, 81", to("8050")+" "+to("81"), "rs3 rst")
	f.lists("connections", `
    TCP 00:59  SYN_RECV    172.16.0.5:20002   10.0.0.100:80      10.0.0.12:80
    TCP 00:59  SYN_RECV    172.16.0.5:20003   10.0.0.100:80      10.0.0.11:80
    TCP 00:59  SYN_RECV    172.16.0.5:20004   10.0.0.100:443     10.0.0.13:443
    TCP 00:59  SYN_RECV    172.16.0.5:20001   10.0.0.100:80      10.0.0.13:80
    TCP 00:59  SYN_RECV    172.16.0.5:20007   10.0.0.100:8050    10.0.0.13:8050
    TCP 00:59  SYN_RECV    172.16.0.5:20005   10.0.0.100:443     10.0.0.12:443
    TCP 00:59  SYN_RECV    172.16.0.5:20006   10.0.0.100:443     10.0.0.11:443`)
	f.expect("table", f.table("-f 1"), "1 2/0 2 2/0 3 3/0")
	st, err := f.Stats()
	must(t, err)
	if c := st.Services[0].Counters; c.Conns != 7 || c.InPkts != 7 || c.InBytes != 280 {
		t.Errorf("counters %+v, want 7 7 280", c)
	}
	f.expect("ACK of a live conn", f.tcp(20002, "A")+" "+f.expires(20002), "rs2 14:59 ESTABLISHED")

	// The mark goes: here, the listener leaves the group.
	f.group(443)
	f.state.Services[0].Listeners = f.marks["1"]
	f.apply(f.state)
	f.expect("ACK after that", f.tcp(20002, "A"), "rs2")
	f.expect("new SYN after that", to("80"), "rst")
}

// ipvs-facts/09 section 4: a VIP that is no address of the director needs no
// rule and no local route; XDP comes before routing.
func TestFacts09ForeignVIP(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	for _, a := range []string{"192.0.2.100", "198.51.100.7", "198.51.100.8"} {
		f.marks["1"] = append(f.marks["1"], lb.Listener{Addr: netip.MustParseAddr(a), Proto: lb.TCP, First: 80, Last: 80})
	}
	f.ipvsadm(strings.ReplaceAll(threeReals, "-t 10.0.0.100:80", "-f 1"))
	to := func(addr string) string { return f.conn("172.16.0.5", addr+":80", "S") }
	f.expect("reals", to("192.0.2.100")+to("192.0.2.100")+to("198.51.100.7")+to("198.51.100.8"), "rs3rs2rs1rs3")
	f.expect("no listener there", to("198.51.100.9"), "rst")
}

// ipvs-facts/09 section 5: marks with UDP, and -o.
func TestFacts09UDP(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.marks["2"] = []lb.Listener{{Addr: vip, Proto: lb.UDP, First: 53, Last: 53}, {Addr: vip, Proto: lb.TCP, First: 53, Last: 53}}
	group := strings.ReplaceAll(threeReals, "-t 10.0.0.100:80", "-f 2")
	f.ipvsadm(group)
	from := func(port string, n int) string {
		got := ""
		for range n {
			got += f.send(lb.UDP, "172.16.0.5:"+port, "10.0.0.100:53", "")
		}
		return got
	}
	f.expect("two clients", from("5000", 3)+" "+from("5001", 3), "rs3rs3rs3 rs2rs2rs2")
	f.lists("connections", `
    UDP 04:59  UDP         172.16.0.5:5000    10.0.0.100:53      10.0.0.13:53
    UDP 04:59  UDP         172.16.0.5:5001    10.0.0.100:53      10.0.0.12:53`)
	f.ipvsadm("ipvsadm -C")
	f.wait(310)
	f.ipvsadm(strings.Replace(group, "rr", "rr -o", 1))
	f.expect("-o", from("5000", 6), "rs3rs2rs1rs3rs2rs1")
	// One packet is for UDP: the group's TCP connections are whole
	// (ip_vs_schedule: "svc->flags & IP_VS_SVC_F_ONEPACKET && UDP").
	f.port++
	src := fmt.Sprintf("172.16.0.5:%d", f.port)
	for _, flags := range []string{"S", "A", "PA"} {
		f.expect("TCP of the same group", f.send(lb.TCP, src, "10.0.0.100:53", flags), "rs3")
	}
}
