package xdp

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// six is a harness that serves IPv6 too: its frames come by the program of the
// interface, which calls that of IPv6.
type six struct {
	*harness
	prog *ebpf.Program
}

func newSix(t *testing.T) *six {
	t.Helper()
	h := openHarness(t, Options{Flows: 1024, Templates: 1024, StillClock: true, IPv6: true})
	return &six{h, h.dp.Program("lvx0")}
}

var (
	vip6    = netip.MustParseAddr("2001:db8::100")
	web6    = netip.AddrPortFrom(vip6, 80)
	client6 = netip.MustParseAddrPort("[2001:db8:1::5]:40000")
)

func realN6(n int) netip.Addr {
	a := netip.MustParseAddr("2001:db8::10").As16()
	a[15] += byte(n)
	return netip.AddrFrom16(a)
}

func webService6(reals int) lb.Service {
	s := lb.Service{Name: "web6", Scheduler: lb.RR, Listeners: []lb.Listener{{Addr: vip6, Proto: lb.TCP, First: 80, Last: 80}, {Addr: vip6, Proto: lb.UDP, First: 80, Last: 80}}}
	for n := range reals {
		s.Reals = append(s.Reals, lb.Real{Addr: realN6(n + 1), Weight: 1})
	}
	return s
}

func (x *six) hosts(n int) {
	x.net.hosts = map[netip.Addr]Neighbor{}
	for i := range n {
		a := realN6(i + 1)
		x.net.hosts[a] = Neighbor{MAC: mac6(a), Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500}
	}
}

func mac6(a netip.Addr) [6]byte {
	b := a.As16()
	return [6]byte{6, 0, b[12], b[13], b[14], b[15]}
}

// frame6 builds a frame with extension headers, each as it is, behind IPv6's.
func frame6(p lb.Packet, payload int, next byte, extensions []byte) []byte {
	l4 := 8
	if p.Proto == lb.TCP {
		l4 = 20
	}
	if extensions == nil {
		next = byte(p.Proto)
	}
	f := make([]byte, 14+40+len(extensions)+l4+payload)
	copy(f, directorMAC[:])
	copy(f[6:], clientMAC[:])
	f[12], f[13] = 0x86, 0xdd
	ip := f[14:]
	ip[0], ip[6], ip[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(extensions)+l4+payload))
	src, dst := p.Src.Addr().As16(), p.Dst.Addr().As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	copy(ip[40:], extensions)
	t := ip[40+len(extensions):]
	binary.BigEndian.PutUint16(t, p.Src.Port())
	binary.BigEndian.PutUint16(t[2:], p.Dst.Port())
	if p.Proto == lb.TCP {
		t[12], t[13] = 0x50, tcpFlags(p.Flags)
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(8+payload))
	}
	return f
}

// send runs a frame and says what was counted, what came out, and the action.
func (x *six) send(in []byte) (verdict string, out []byte, action uint32) {
	x.t.Helper()
	before := x.counted()
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
	action, err := x.prog.Run(opts)
	must(x.t, err)
	for name, n := range x.counted() {
		if n != before[name] {
			verdict = name
		}
	}
	return verdict, opts.DataOut, action
}

func (x *six) want6(in []byte, verdict string, action uint32) []byte {
	x.t.Helper()
	v, out, a := x.send(in)
	if v != verdict || a != action {
		x.t.Errorf("%s, action %d; want %s, %d\n%x", v, a, verdict, action, in)
	}
	return out
}

func TestIPv6IsBalanced(t *testing.T) {
	x := newSix(t)
	x.hosts(3)
	x.apply(lb.State{Services: []lb.Service{webService6(3)}, ExpireNodestConn: true})
	p := lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "S"}
	first := x.want6(frame6(p, 0, 0, nil), "forwarded", tx)
	if first[21] != 63 {
		t.Errorf("hop limit %d", first[21])
	}
	p.Flags = "A"
	for range 3 {
		if out := x.want6(frame6(p, 100, 0, nil), "forwarded", tx); [6]byte(out[:6]) != [6]byte(first[:6]) {
			t.Errorf("to %x, then to %x", first[:6], out[:6])
		}
	}
	seen := map[[6]byte]bool{}
	for port := range uint16(3) {
		q := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client6.Addr(), 50000+port), Dst: web6, Flags: "S"}
		seen[[6]byte(x.want6(frame6(q, 0, 0, nil), "forwarded", tx)[:6])] = true
	}
	if len(seen) != 3 {
		t.Errorf("rr reaches %d of 3 reals", len(seen))
	}
	hopByHop := []byte{6, 0, 1, 4, 0, 0, 0, 0}
	x.want6(frame6(p, 10, 0, hopByHop), "forwarded", tx)
	p.Flags = "A"
	p.Src = netip.AddrPortFrom(client6.Addr(), 9)
	x.want6(frame6(p, 0, 0, nil), "no_flow", pass)
	p.Dst = netip.AddrPortFrom(vip6, 81)
	x.want6(frame6(p, 0, 0, nil), "no_listener", pass)
	p.Dst = netip.MustParseAddrPort("[2001:db8::101]:80")
	x.want6(frame6(p, 0, 0, nil), "not_ours", pass)
	p.Src, p.Dst = netip.MustParseAddrPort("[::1]:80"), web6
	x.want6(frame6(p, 0, 0, nil), "martian", pass)
}

// No VIP is the unspecified address, which free places of the VIPs' table have,
// nor an IPv4 VIP in IPv6's notation.
func TestIPv6OfNoVIP(t *testing.T) {
	x := newSix(t)
	x.hosts(1)
	s := trialState4()
	x.apply(lb.State{Services: []lb.Service{webService6(1), s.Services[0]}, VIPs: standby(vips[0])})
	for _, dst := range []netip.Addr{netip.IPv6Unspecified(), netip.AddrFrom16(vips[0].As16())} {
		for _, flags := range []string{"S", "A"} {
			p := lb.Packet{Proto: lb.TCP, Src: client6, Dst: netip.AddrPortFrom(dst, 80), Flags: flags}
			x.want6(frame6(p, 0, 0, nil), "not_ours", pass)
		}
		x.want6(solicitation(dst), "not_our_mac", pass)
	}
}

// Clients of one name do not meet: with a name for all, each connection keeps
// its real.
func TestIPv6TwinsAreKeptApart(t *testing.T) {
	x := newSix(t)
	x.dp.Settings.NameKey = [len(x.dp.Settings.NameKey)]uint64{}
	x.hosts(3)
	x.apply(lb.State{Services: []lb.Service{webService6(3)}, ExpireNodestConn: true})
	to := map[netip.AddrPort][6]byte{}
	packet := func(n byte, flags string) [6]byte {
		a := client6.Addr().As16()
		a[15] = n
		p := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(netip.AddrFrom16(a), 40000), Dst: web6, Flags: flags}
		mac := [6]byte(x.want6(frame6(p, 0, 0, nil), "forwarded", tx)[:6])
		if old, ok := to[p.Src]; ok && old != mac {
			t.Errorf("%s: to %x, then to %x", p.Src, old, mac)
		}
		to[p.Src] = mac
		return mac
	}
	for n := range byte(8) { // as many as two sets have places
		packet(n, "S")
	}
	for range 3 {
		for n := range byte(8) {
			packet(n, "A")
		}
	}
	if different := map[[6]byte]bool{}; true {
		for _, mac := range to {
			different[mac] = true
		}
		if len(different) != 3 {
			t.Errorf("twins reach %d reals", len(different))
		}
	}
}

// Data of established TCP goes the short way: nothing else takes a bare ACK
// without a connection for one of a client of the same name.
func TestIPv6GoesTheShortWay(t *testing.T) {
	x := newSix(t)
	x.dp.Settings.NameKey = [len(x.dp.Settings.NameKey)]uint64{}
	x.hosts(1)
	x.apply(lb.State{Services: []lb.Service{webService6(1)}, ExpireNodestConn: true})
	p := lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6}
	other := p
	other.Src = netip.MustParseAddrPort("[2001:db8:1::6]:40000")
	send := func(p lb.Packet, flags, verdict string, action uint32) {
		t.Helper()
		p.Flags = flags
		x.want6(frame6(p, 0, 0, nil), verdict, action)
	}
	send(p, "S", "forwarded", tx)
	send(p, "A", "forwarded", tx)
	send(other, "A", "no_flow", pass)
	send(p, "A", "forwarded", tx)
	send(other, "A", "forwarded", tx)
}

// What an ended flow has left in its place is nobody's twin, of port 0 neither,
// which free places seem to have.
func TestIPv6EndedFlowsAreNoTwins(t *testing.T) {
	x := newSix(t)
	x.dp.Settings.NameKey = [len(x.dp.Settings.NameKey)]uint64{}
	x.hosts(2)
	s := webService6(1)
	s.Listeners = []lb.Listener{{Addr: vip6, Proto: lb.TCP}}
	x.apply(lb.State{Services: []lb.Service{s}, ExpireNodestConn: true})
	send := func(client byte, flags, verdict string, action uint32) {
		t.Helper()
		a := client6.Addr().As16()
		a[15] = client
		p := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(netip.AddrFrom16(a), 40000), Dst: netip.AddrPortFrom(vip6, 0), Flags: flags}
		x.want6(frame6(p, 0, 0, nil), verdict, action)
	}
	send(1, "S", "forwarded", tx)
	send(2, "S", "forwarded", tx)
	s.Reals[0].Addr = realN6(2)
	x.apply(lb.State{Services: []lb.Service{s}, ExpireNodestConn: true})
	send(1, "A", "real_gone", pass)
	send(2, "A", "real_gone", pass)
	send(3, "S", "forwarded", tx)
	send(3, "A", "forwarded", tx)
	send(3, "A", "forwarded", tx)
	proven := 0
	x.eachFlow(func(_ entry, v bpf.FlowValue) bool {
		if v.IsProven() {
			proven++
		}
		return true
	})
	if proven != 1 {
		t.Errorf("%d flows are proven, want the third client's", proven)
	}
}

func TestIPv6Answers(t *testing.T) {
	x := newSix(t)
	x.hosts(1)
	svc := webService6(1)
	x.apply(lb.State{Services: []lb.Service{svc}})
	p := lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "S"}
	in := frame6(p, 0, 0, nil)
	in[21] = 1
	check := func(out []byte, typ, code byte) {
		t.Helper()
		if out[54] != typ || out[55] != code {
			t.Errorf("ICMPv6 %d/%d, want %d/%d", out[54], out[55], typ, code)
		}
		if sum := sum6(out[14:]); sum != 0xffff {
			t.Errorf("checksum: sum %04x of %x", sum, out)
		}
	}
	check(x.want6(in, "answered_ttl", tx), 3, 0)
	x.net.hosts[realN6(1)] = Neighbor{MAC: mac6(realN6(1)), Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1280}
	x.apply(lb.State{Services: []lb.Service{svc}})
	x.want6(frame6(p, 0, 0, nil), "forwarded", tx)
	p.Flags = "A"
	out := x.want6(frame6(p, 1400, 0, nil), "answered_too_big", tx)
	check(out, 2, 0)
	if mtu := binary.BigEndian.Uint32(out[58:]); mtu != 1280 || len(out) != 14+1280 {
		t.Errorf("mtu %d, frame of %d bytes", mtu, len(out))
	}
	svc.Reals = nil
	x.apply(lb.State{Services: []lb.Service{svc}})
	p.Flags, p.Src = "S", netip.AddrPortFrom(client6.Addr(), 41000)
	check(x.want6(frame6(p, 0, 0, nil), "answered_unreachable", tx), 1, 4)
}

// sum6 is the sum over the pseudo-header and the message of an IPv6 packet.
func sum6(ip []byte) uint16 {
	size := int(binary.BigEndian.Uint16(ip[4:]))
	sum := uint32(size) + uint32(ip[6])
	b := append([]byte{}, ip[8:40]...)
	b = append(b, ip[40:40+size]...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// TestIPv6TemplateOfAMark: a template of a mark is listed with the mark for an
// address, which has the family of the service. The mark may be another
// service's of IPv4.
func TestIPv6TemplateOfAMark(t *testing.T) {
	x := newSix(t)
	x.hosts(2)
	s := webService6(2)
	s.Mark, s.Persistence.Timeout = 101, time.Minute
	four := webService(0)
	four.Mark = s.Mark
	must(t, x.Apply(context.Background(), lb.State{Services: []lb.Service{four, s}}))
	observed, err := x.Observed()
	must(t, err)
	if all := observed.Services; len(all) != 2 || all[0].Mark != s.Mark || all[1].Mark != s.Mark {
		t.Errorf("observed %+v, want two services of mark %d", all, s.Mark)
	}
	x.want6(frame6(lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6}, 0, 0, nil), "forwarded", 3)
	conns, err := x.Connections(0)
	must(t, err)
	i := slices.IndexFunc(conns, func(c lb.Connection) bool { return c.Template })
	if want := netip.MustParseAddrPort("[0:65::]:0"); i < 0 || conns[i].Virtual != want || conns[i].Client != netip.AddrPortFrom(client6.Addr(), 0) {
		t.Errorf("connections %+v, want a template of %s", conns, want)
	}
}
