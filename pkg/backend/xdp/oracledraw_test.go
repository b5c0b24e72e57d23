package xdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/oracle"
)

// ingress is the interface that prog-run's frames come by.
const ingress = 1

var (
	vips       = []netip.Addr{netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.101"), netip.MustParseAddr("10.0.0.102")}
	ownAddr    = netip.MustParseAddr("10.0.0.1")
	peerAddr   = netip.MustParseAddr("10.0.0.2")
	sorryOne   = netip.MustParseAddr("10.0.0.21")
	farGateway = netip.MustParseAddr("10.0.0.254")
	thisHost   = netip.MustParseAddr("127.0.0.1")
	allHosts   = slices.Concat([]netip.Addr{peerAddr, sorryOne, thisHost, farGateway}, realAddrs, otherReals)

	realAddrs = func() (as []netip.Addr) {
		for n := range 7 {
			as = append(as, realN(n+1))
		}
		return as
	}()
	clientAddrs = []netip.Addr{
		netip.MustParseAddr("172.16.0.5"), netip.MustParseAddr("172.16.0.77"), netip.MustParseAddr("172.16.1.5"),
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.9"),
	}
	martians = []netip.Addr{
		netip.MustParseAddr("0.1.2.3"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.5"),
		netip.MustParseAddr("239.255.255.255"), netip.MustParseAddr("255.255.255.255"),
	}
	prefixes = []netip.Prefix{
		netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("172.16.0.0/24"), netip.MustParsePrefix("172.16.0.5/32"),
		netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("198.51.100.9/32"),
	}
)

func draw[T any](rt *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(rt, label)
}

// chance is true once in n draws.
func chance(rt *rapid.T, n int, label string) bool {
	return rapid.IntRange(0, n-1).Draw(rt, label) == n-1
}

// drawHost makes up how an address is reached, or how that has changed.
func (d *duel) drawHost(a netip.Addr) {
	b := a.As16()
	h := oracle.Host{MAC: [6]byte{2, 0, b[12], b[13], b[14], b[15]}, Source: directorMAC, IfIndex: ingress, MTU: 1500}
	switch {
	case a == thisHost || a == realN(7): // 10.0.0.17 is this host's, too
		h = oracle.Host{Local: true}
	case a == peerAddr:
		h.IfIndex = d.dp.Attachments[0].Index // a peer is heard where it is attached
	default:
		h.MAC[0] = draw(d.rt, "MAC", byte(2), 6)
		if chance(d.rt, 8, "another interface") {
			h.IfIndex, h.Source = 2, [6]byte{2, 0, 0, 0, 0, 2}
		}
		h.MTU = draw(d.rt, "MTU", 1500, 1500, 1500, 100, 0)
		if chance(d.rt, 8, "silent") {
			h.Silent, h.MAC = true, [6]byte{}
		}
		h.From, h.Far = fromOwn(a), chance(d.rt, 16, "behind a router")
	}
	d.setHost(a, h)
}

// pool is every listener that a service may have; no two of a pair's exact
// ports, ranges or every-port listeners are the same.
var pool = func() (ls []lb.Listener) {
	for _, v := range vips {
		for _, p := range []lb.Protocol{lb.TCP, lb.UDP} {
			for _, r := range [][2]uint16{{80, 80}, {443, 443}, {53, 53}, {8000, 8100}, {8050, 8059}, {0, 0}} {
				ls = append(ls, lb.Listener{Addr: v, Proto: p, First: r[0], Last: r[1]})
			}
		}
	}
	return ls
}()

var dstPorts = []uint16{80, 80, 443, 53, 53, 8000, 8050, 8055, 8059, 8060, 8100, 8101, 22, 0, 65535}

// free lists the listeners that nobody has.
func (d *duel) free() []lb.Listener {
	return slices.DeleteFunc(slices.Clone(pool), func(l lb.Listener) bool {
		return slices.ContainsFunc(d.state.Services, func(s lb.Service) bool { return slices.Contains(s.Listeners, l) })
	})
}

func (d *duel) drawState() {
	for range rapid.IntRange(1, 4).Draw(d.rt, "services") {
		d.addService()
	}
	for range rapid.IntRange(0, 2).Draw(d.rt, "settings") {
		d.drawSetting()
	}
}

func (d *duel) addService() {
	s := lb.Service{}
	for n := 0; ; n++ {
		if s.Name = fmt.Sprintf("s%d", n); !slices.ContainsFunc(d.state.Services, func(o lb.Service) bool { return o.Name == s.Name }) {
			break
		}
	}
	for range rapid.IntRange(1, 4).Draw(d.rt, "listeners") {
		l := rapid.SampledFrom(pool).Draw(d.rt, "listener")
		if slices.Contains(d.free(), l) && !slices.Contains(s.Listeners, l) {
			s.Listeners = append(s.Listeners, l)
		}
	}
	if len(s.Listeners) == 0 {
		return
	}
	if chance(d.rt, 4, "mark") {
		s.Mark = uint32(rapid.IntRange(1, 1<<30).Draw(d.rt, "number"))
	}
	d.drawScheduler(&s)
	d.drawPersistence(&s)
	s.OnePacket = chance(d.rt, 8, "one packet")
	drawStateless(d.rt, &s)
	for range rapid.IntRange(0, 5).Draw(d.rt, "reals") {
		d.addReal(&s)
	}
	if chance(d.rt, 3, "sorry") {
		d.drawSorry(&s, sorryOne, thisHost, realN(1))
	}
	if chance(d.rt, 10, "lists") {
		d.drawLists(&s.Deny, &s.Allow)
	}
	d.state.Services = append(d.state.Services, s)
}

func (d *duel) drawScheduler(s *lb.Service) {
	s.Scheduler = rapid.SampledFrom(xdpSchedulers()).Draw(d.rt, "scheduler")
	s.Flags = map[lb.Scheduler][]lb.SchedFlags{
		lb.SH: {0, lb.SHPort, lb.SHFallback, lb.SHPort | lb.SHFallback},
		lb.MH: {0, lb.MHPort, lb.MHFallback, lb.MHPort | lb.MHFallback},
		"":    {0, 0, 0, 0},
	}[map[bool]lb.Scheduler{true: s.Scheduler}[s.Scheduler == lb.SH || s.Scheduler == lb.MH]][rapid.IntRange(0, 3).Draw(d.rt, "flags")]
}

// drawStateless makes a service stateless, or not.
func drawStateless(rt *rapid.T, s *lb.Service) {
	if s.Stateless = chance(rt, 4, "stateless"); !s.Stateless {
		return
	}
	s.Scheduler = draw(rt, "hash", lb.MH, lb.SH)
	s.Flags = map[lb.Scheduler]lb.SchedFlags{lb.MH: lb.MHPort, lb.SH: lb.SHPort}[s.Scheduler] * lb.SchedFlags(draw(rt, "by port", 0, 1))
	s.Persistence, s.OnePacket = lb.Persistence{}, false
}

func (d *duel) drawPersistence(s *lb.Service) {
	s.Persistence = lb.Persistence{}
	if chance(d.rt, 3, "persistent") {
		s.Persistence.Timeout = time.Duration(draw(d.rt, "persistence", 5, 30, 60, 90, 360)) * time.Second
		s.Persistence.Prefix = draw(d.rt, "netmask", 0, 24, 16, 32, 1)
	}
}

var weights = []uint16{0, 1, 1, 1, 2, 3, 5, 100, 300}

// addReal puts a real into the list, at the end or elsewhere.
func (d *duel) addReal(s *lb.Service) {
	r := lb.Real{
		Addr:    rapid.SampledFrom(realAddrs).Draw(d.rt, "real"),
		Weight:  rapid.SampledFrom(weights).Draw(d.rt, "weight"),
		Forward: draw(d.rt, "forward", lb.DR, lb.DR, lb.Tunnel, lb.NAT, lb.NAT),
	}
	if r.Forward == lb.Tunnel {
		r.Encap = drawTunnel(d.rt)
		if chance(d.rt, 3, "of the other family") {
			r.Addr = rapid.SampledFrom(otherReals).Draw(d.rt, "real")
		}
	}
	if chance(d.rt, 10, "own port") || r.Forward == lb.NAT && chance(d.rt, 2, "mapped port") {
		r.Port = 8080
	}
	isWide := func(l lb.Listener) bool { return l.Width() > 1 }
	if byNAT := d.goesByNAT(s.Name, r); byNAT != (r.Forward == lb.NAT) {
		r.Forward, r.Encap = map[bool]lb.Forward{true: lb.NAT, false: lb.DR}[byNAT], lb.Encap{}
	}
	if r.Addr.Is6() {
		r.Forward = lb.Tunnel
	}
	if slices.ContainsFunc(s.Reals, r.Same) || mapsPort(r) && slices.ContainsFunc(s.Listeners, isWide) {
		return
	}
	at := len(s.Reals)
	if chance(d.rt, 4, "in between") {
		at = rapid.IntRange(0, at).Draw(d.rt, "at")
	}
	s.Reals = slices.Insert(slices.Clone(s.Reals), at, r)
}

// goesByNAT reports whether a real goes by NAT for as long as its service has its
// name. An edit between NAT and another way ends connections, which the model has not.
func (d *duel) goesByNAT(service string, r lb.Real) bool {
	who := realOfName{service, r.Key()}
	if _, ok := d.byNAT[who]; !ok {
		d.byNAT[who] = r.Forward == lb.NAT
	}
	return d.byNAT[who]
}

// drawSorry gives a service a sorry server, which never goes by NAT: it is a real
// like those of the list.
func (d *duel) drawSorry(s *lb.Service, from ...netip.Addr) {
	s.Sorry = draw(d.rt, "sorry server", from...)
	if s.Sorry.IsValid() && d.goesByNAT(s.Name, lb.Real{Addr: s.Sorry}) {
		s.Sorry = netip.Addr{}
	}
}

func (d *duel) drawLists(deny, allow *[]netip.Prefix) {
	*deny, *allow = nil, nil
	for range rapid.IntRange(0, 2).Draw(d.rt, "prefixes") {
		list := deny
		if chance(d.rt, 2, "allow") {
			list = allow
		}
		if p := rapid.SampledFrom(prefixes).Draw(d.rt, "prefix"); !slices.Contains(*list, p) {
			*list = append(*list, p)
		}
	}
}

// drawSetting changes what is not of one service.
func (d *duel) drawSetting() {
	s := &d.state
	switch rapid.IntRange(-2, 9).Draw(d.rt, "setting") {
	case -2:
		*d.dp.Takeover = drawTakeover(d.rt)
	case -1:
		s.OuterSources = drawOuterSources(d.rt)
	case 0:
		s.SloppyTCP = !s.SloppyTCP
	case 1:
		s.ExpireNodestConn = !s.ExpireNodestConn
	case 2:
		s.ExpireQuiescentTempl = !s.ExpireQuiescentTempl
	case 3:
		s.Timeouts = lb.Timeouts{}
		if chance(d.rt, 2, "timeouts") {
			s.Timeouts = lb.Timeouts{TCP: 50 * time.Second, TCPFin: 20 * time.Second, UDP: 30 * time.Second}
		}
	case 4:
		s.Deny, s.Allow = nil, nil
		if chance(d.rt, 3, "lists") {
			d.drawLists(&s.Deny, &s.Allow)
		}
	case 5:
		standby := netip.Addr{}
		if chance(d.rt, 3, "standby") {
			standby = rapid.SampledFrom(vips).Draw(d.rt, "VIP")
		}
		s.VIPs = withRoles(s.VIPs, func(v *lb.VIP) { v.Standby = v.Addr == standby })
	case 6:
		leases := map[netip.Addr]uint32{}
		for id := range uint32(rapid.IntRange(0, 2).Draw(d.rt, "leases")) {
			leases[rapid.SampledFrom(vips).Draw(d.rt, "VIP")] = id
			d.lives[id] = !chance(d.rt, 3, "over")
		}
		s.VIPs = withRoles(s.VIPs, func(v *lb.VIP) { v.Lease, v.Leased = leases[v.Addr] })
	case 7:
		s.Peers = nil
		if chance(d.rt, 2, "peer") {
			s.Peers = []netip.Addr{peerAddr}
		}
	case 8:
		d.drawHost(rapid.SampledFrom(allHosts).Draw(d.rt, "host"))
	case 9:
		d.drawRoutes()
	}
}

// drawRoutes are the ways of replies by NAT: by a gateway, as the kernel has them
// (there is none in the test's namespace), or not at all.
func (d *duel) drawRoutes() {
	d.net.routes = nil
	if chance(d.rt, 3, "a route for some") {
		to := rapid.SampledFrom(prefixes).Draw(d.rt, "to")
		d.net.routes = append(d.net.routes, Route{To: to, Gateway: draw(d.rt, "gateway", netip.Addr{}, farGateway, sorryOne)})
	}
	if !chance(d.rt, 6, "no default route") {
		d.net.routes = append(d.net.routes, Route{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: farGateway})
	}
}

// withRoles is what a state says of the VIPs, after a change to each.
func withRoles(before []lb.VIP, change func(*lb.VIP)) (after []lb.VIP) {
	for _, addr := range vips {
		v := lb.VIP{Addr: addr, Owner: "VI_1"}
		if i := slices.IndexFunc(before, func(v lb.VIP) bool { return v.Addr == addr }); i >= 0 {
			v = before[i]
		}
		change(&v)
		after = append(after, v)
	}
	return after
}

// drawEdit makes one edit of a service, or of what is around.
func (d *duel) drawEdit() {
	d.state = d.state.Clone()
	what := rapid.IntRange(0, 16).Draw(d.rt, "edit")
	if len(d.state.Services) == 0 || what == 0 {
		d.addService()
		return
	}
	i := rapid.IntRange(0, len(d.state.Services)-1).Draw(d.rt, "service")
	s := &d.state.Services[i]
	switch what {
	case 1:
		d.state.Services = slices.Delete(d.state.Services, i, i+1)
	case 2:
		d.drawScheduler(s)
	case 3:
		d.drawPersistence(s)
	case 4:
		if s.OnePacket = !s.OnePacket; s.Scheduler == lb.MH || s.Scheduler == lb.SH {
			s.OnePacket, s.Stateless = false, !s.Stateless
		}
	case 5:
		d.drawSorry(s, netip.Addr{}, sorryOne, thisHost, realN(1))
	case 6:
		d.drawLists(&s.Deny, &s.Allow)
	case 7:
		d.drawListeners(s)
	case 8, 9:
		d.drawSetting()
	case 10, 11:
		d.addReal(s)
	case 12, 13, 14:
		if n := len(s.Reals); n > 0 {
			at := rapid.IntRange(0, n-1).Draw(d.rt, "real")
			s.Absent = nil
			if r := s.Reals[at]; chance(d.rt, 2, "not checked yet") {
				r.Unchecked = true
				s.Absent = []lb.Real{r}
			}
			s.Reals = slices.Delete(s.Reals, at, at+1)
		}
	case 15, 16:
		if n := len(s.Reals); n > 0 {
			s.Reals[rapid.IntRange(0, n-1).Draw(d.rt, "real")].Weight = rapid.SampledFrom(weights).Draw(d.rt, "weight")
		}
	}
}

// drawListeners takes one away, or adds one.
func (d *duel) drawListeners(s *lb.Service) {
	if len(s.Listeners) > 1 && chance(d.rt, 2, "take away") {
		at := rapid.IntRange(0, len(s.Listeners)-1).Draw(d.rt, "listener")
		s.Listeners = slices.Delete(s.Listeners, at, at+1)
		return
	}
	l := rapid.SampledFrom(pool).Draw(d.rt, "listener")
	if l.Width() > 1 && slices.ContainsFunc(slices.Concat(s.Reals, s.Absent), mapsPort) {
		return
	}
	if slices.Contains(d.free(), l) {
		s.Listeners = append(s.Listeners, l)
	}
}

// drawReply is what a real would send on a connection, or nearly.
func (d *duel) drawReply() endpoints {
	c := rapid.SampledFrom(d.open).Draw(d.rt, "of")
	e := endpoints{proto: c.Proto, src: c.Real, dst: c.Client}
	if e.src.Addr().Is6() { // which answers past the director
		e.src = netip.AddrPortFrom(realN(1), e.src.Port())
	}
	if chance(d.rt, 12, "another port") {
		e.src = netip.AddrPortFrom(e.src.Addr(), draw[uint16](d.rt, "port", 80, 8080, 53))
	}
	return e
}

// drawEndpoints: mostly those of a packet that was sent before.
func (d *duel) drawEndpoints() endpoints {
	if len(d.open) > 0 && chance(d.rt, 3, "the other way") {
		return d.drawReply()
	}
	if len(d.known) > 0 && !chance(d.rt, 5, "new") {
		return rapid.SampledFrom(d.known).Draw(d.rt, "known")
	}
	e := endpoints{proto: draw(d.rt, "protocol", lb.TCP, lb.TCP, lb.UDP)}
	from := rapid.SampledFrom(clientAddrs).Draw(d.rt, "client")
	if chance(d.rt, 40, "martian") {
		from = rapid.SampledFrom(append(martians, append(vips, ownAddr)...)).Draw(d.rt, "source")
	}
	e.src = netip.AddrPortFrom(from, draw[uint16](d.rt, "source port", 40000, 40001, 40002, 0))
	to := rapid.SampledFrom(vips).Draw(d.rt, "VIP")
	if len(d.state.Services) > 0 && !chance(d.rt, 10, "anywhere") {
		s := rapid.SampledFrom(d.state.Services).Draw(d.rt, "to")
		l := rapid.SampledFrom(s.Listeners).Draw(d.rt, "at")
		to, e.proto = l.Addr, l.Proto
		e.dst = netip.AddrPortFrom(to, l.Last)
	} else {
		e.dst = netip.AddrPortFrom(to, rapid.SampledFrom(dstPorts).Draw(d.rt, "port"))
	}
	if d.known = append(d.known, e); len(d.known) > 24 {
		d.known = d.known[1:]
	}
	return e
}

var flagSets = []string{"S", "S", "S", "A", "A", "A", "PA", "FA", "F", "R", "RA", "SA", "SR", "SF", "SFRA", "none", "P"}

func (d *duel) drawFrame() (string, []byte) {
	e := d.drawEndpoints()
	p := lb.Packet{Proto: e.proto, Src: e.src, Dst: e.dst, Flags: rapid.SampledFrom(flagSets).Draw(d.rt, "flags")}
	in := frame(p)
	if p.Flags == "none" && p.Proto == lb.TCP {
		in[47] = 0
	}
	d.drawSum(in)
	kind := rapid.IntRange(0, 24).Draw(d.rt, "kind")
	if kind < 12 {
		return "packet", in
	}
	if kind < 18 {
		return d.drawLong(p)
	}
	switch kind {
	case 18, 19:
		return "ICMP error", d.drawError(e)
	case 20:
		return d.drawFragment(p)
	case 21:
		return "later fragment", d.laterFragment()
	case 22:
		return "ARP", d.drawARP()
	case 23:
		return "odd", d.drawOdd(in)
	}
	cut := rapid.IntRange(14, len(in)).Draw(d.rt, "cut")
	return "cut short", in[:cut]
}

// drawLong varies what an ordinary packet has: payload, TTL, DF, TOS, options,
// tags, who sent the frame.
func (d *duel) drawLong(p lb.Packet) (string, []byte) {
	in := frameOf(p, draw(d.rt, "payload", 0, 1, 59, 61, 80, 333, 1400, 1472))
	in[15] = draw[byte](d.rt, "TOS", 0, 0xb8, 0xff)
	in[20] = draw[byte](d.rt, "DF", 0, 0x40, 0xc0)
	in[22] = draw[byte](d.rt, "TTL", 64, 255, 2, 1, 0)
	binary.BigEndian.PutUint16(in[18:], uint16(rapid.IntRange(0, 0xffff).Draw(d.rt, "id")))
	binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
	d.drawSum(in)
	if words := draw(d.rt, "options", 0, 0, 0, 1, 10); words > 0 {
		df := in[20]
		in = withOptions(in, words)
		in[20] = df
	}
	if chance(d.rt, 8, "bad checksum") {
		in[24] ^= 0x55
	}
	if chance(d.rt, 8, "from a peer") {
		mac := d.hosts[peerAddr].MAC
		copy(in[6:], mac[:])
	}
	switch rapid.IntRange(0, 9).Draw(d.rt, "tags") {
	case 7:
		in = tagged(in, 0x8100)
	case 8:
		in = tagged(in, 0x88a8, 0x8100)
	case 9:
		in = tagged(in, 0x8100, 0x8100, 0x8100)
	}
	return "long packet", in
}

// drawSum makes the checksum of TCP or UDP, which is 0, right, or one that the
// kernel has only begun.
func (d *duel) drawSum(in []byte) {
	ip := in[14:]
	switch rapid.IntRange(0, 3).Draw(d.rt, "checksum") {
	case 2:
		finishSums(ip)
	case 3:
		beginSum(ip)
	}
}

// drawError quotes a packet that a real may have sent.
func (d *duel) drawError(e endpoints) []byte {
	words := draw(d.rt, "quoted options", 0, 0, 1, 10)
	in := icmpErrorOf(draw[byte](d.rt, "type", 3, 3, 11, 4, 5, 12, 8), draw[byte](d.rt, "code", 0, 1, 3, 4), e, words)
	switch rapid.IntRange(0, 9).Draw(d.rt, "flaw") {
	case 4:
		in[22] = draw[byte](d.rt, "TTL", 1, 0, 2)
	case 5: // another source than the VIP
		in[14+28+15] ^= 1
	case 6: // the quoted packet is a later fragment
		in[14+28+7] = 9
	case 7: // or of another protocol
		in[14+28+9] = draw[byte](d.rt, "quoted protocol", 1, 6, 17, 47)
	case 8: // or cut off
		n := rapid.IntRange(20, 20+8+20+4*words+8).Draw(d.rt, "length")
		binary.BigEndian.PutUint16(in[16:], uint16(n))
	case 9: // or no IPv4
		in[14+28] = draw[byte](d.rt, "quoted version", 0x44, 0x65, 0x4f, 0x46)
	}
	binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
	if chance(d.rt, 6, "tagged") {
		in = tagged(in, 0x8100)
	}
	return in
}

// drawFragment is a first fragment; what it is cut from is kept for the
// others.
func (d *duel) drawFragment(p lb.Packet) (string, []byte) {
	d.held = frameOf(p, 600)
	binary.BigEndian.PutUint16(d.held[18:], uint16(rapid.IntRange(0, 3).Draw(d.rt, "datagram")))
	return "first fragment", d.piece(0, draw(d.rt, "size", 400, 24, 16, 8))
}

func (d *duel) laterFragment() []byte {
	if d.held == nil {
		d.held = frameOf(lb.Packet{Proto: lb.UDP, Src: client, Dst: web}, 600)
	}
	return d.piece(draw(d.rt, "offset", 400, 8, 504), 100)
}

// piece cuts a fragment out of the packet that is held.
func (d *duel) piece(from, size int) []byte {
	l4 := d.held[34 : 14+binary.BigEndian.Uint16(d.held[16:])]
	to := min(from+size, len(l4))
	in := append(slices.Clone(d.held[:34]), l4[from:to]...)
	off := uint16(from / 8)
	if to < len(l4) {
		off |= 0x2000
	}
	binary.BigEndian.PutUint16(in[16:], uint16(20+to-from))
	binary.BigEndian.PutUint16(in[20:], off)
	in[22] = draw[byte](d.rt, "TTL", 64, 64, 64, 1)
	binary.BigEndian.PutUint16(in[24:], ipSum(in[14:34]))
	return in
}

func (d *duel) drawARP() []byte {
	who := rapid.SampledFrom(vips).Draw(d.rt, "who has")
	from := clientAddrs[0]
	if chance(d.rt, 4, "announcement") {
		from = who
	}
	in := arpFor(draw[byte](d.rt, "operation", 1, 1, 2), from, who)
	if chance(d.rt, 3, "unicast") {
		copy(in, directorMAC[:])
	}
	return in[:draw(d.rt, "size", 60, 42, 41)]
}

// drawOdd changes one thing of a good frame that makes it another kind.
func (d *duel) drawOdd(in []byte) []byte {
	switch rapid.IntRange(0, 7).Draw(d.rt, "odd") {
	case 0:
		in[rapid.IntRange(0, 5).Draw(d.rt, "MAC")] ^= 1
	case 1:
		binary.BigEndian.PutUint16(in[12:], draw[uint16](d.rt, "ethertype", 0x0806, 0x86dd, 0x88cc, 0x8100, 0))
	case 2:
		in[14] = draw[byte](d.rt, "version", 0x44, 0x4f, 0x65, 0x05, 0x46)
	case 3:
		binary.BigEndian.PutUint16(in[16:], draw[uint16](d.rt, "length", 0, 19, 20, 27, 28, 39, 40, 41, 60, 0xffff))
	case 4:
		in[23] = draw[byte](d.rt, "protocol", 0, 1, 2, 47, 50, 58, 132, 255)
	case 5:
		in[20], in[21] = draw[byte](d.rt, "fragment", 0x20, 0x80, 0x1f, 0x3f), draw[byte](d.rt, "offset", 0, 1, 0xff)
	case 6:
		in[rapid.IntRange(14, 53).Draw(d.rt, "byte")] = byte(rapid.IntRange(0, 255).Draw(d.rt, "value"))
	case 7:
		return in[:draw(d.rt, "size", 14, 33, 34, 54)]
	}
	return in
}
