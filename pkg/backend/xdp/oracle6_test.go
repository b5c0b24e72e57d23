package xdp

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/oracle"
)

// duel6 is one case of IPv6: the program and the oracle.
type duel6 struct {
	*six
	ledger *ledger
	rt     *rapid.T
	oracle *oracle.Director
	state  lb.State
	hosts  map[netip.Addr]oracle.Host
	known  []endpoints
	out    []byte
}

var (
	vips6     = []netip.Addr{vip6, netip.MustParseAddr("2001:db8::101"), netip.MustParseAddr("fd00::1")}
	clients6  = []netip.Addr{client6.Addr(), netip.MustParseAddr("2001:db8:1::85"), netip.MustParseAddr("2001:db8:1:1::5"), netip.MustParseAddr("2001:db8:2::7"), netip.MustParseAddr("fd00:1::87")}
	martians6 = []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("::"), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("::ffff:192.0.2.1")}
	peer6     = netip.MustParseAddr("2001:db8::2")
)

// The differential test of IPv6. In half of the cases the names of clients
// have one bit, or none: then keys are equal all the time.
func TestOracle6(t *testing.T) {
	steps := oracleSteps / 2
	if s := os.Getenv("LVX_ORACLE_STEPS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		steps = n
	}
	setFlag(t, "rapid.checks", strconv.Itoa((steps+caseSteps-1)/caseSteps))
	setFlag(t, "rapid.nofailfile", "true")
	x := newSix(t)
	seen := map[string]uint64{}
	inNamespace(t, func() {
		rapid.Check(t, func(rt *rapid.T) {
			d := newDuel6(x, rt)
			for range caseSteps {
				d.step(seen)
			}
			d.ledger.compareVerdicts()
		})
	})
	t.Logf("%d steps: %v", steps, seen)
	reached, all := uint64(0), uint64(0)
	for verdict, n := range seen {
		if slices.Contains([]string{"forwarded", "redirected", "local", "icmp_forwarded"}, verdict) {
			reached += n
		}
		all += n
	}
	if 5*reached < 2*all {
		t.Errorf("%d of %d frames reached a real: the draw means little", reached, all)
	}
}

func newDuel6(x *six, rt *rapid.T) *duel6 {
	x.reset(x.home)
	x.grace = func() {}
	d := &duel6{six: x, rt: rt, hosts: map[netip.Addr]oracle.Host{}}
	seed := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "hash seed"), 0))
	for i := range x.dp.Settings.Seed {
		x.dp.Settings.Seed[i] = seed.Uint64()
	}
	x.dp.Settings.NameKey = [len(x.dp.Settings.NameKey)]uint64{}
	switch rapid.IntRange(0, 3).Draw(rt, "names") {
	case 0: // one for all
	case 1:
		x.dp.Settings.NameKey[4] = 2 // the highest bit of an address's last byte
	default:
		for i := range x.dp.Settings.NameKey {
			x.dp.Settings.NameKey[i] = seed.Uint64()
		}
	}
	x.dp.Settings.Clock = rapid.SampledFrom([]uint64{1 << 20, 1<<16 - 100, 1<<24 - 300, 0}).Draw(rt, "clock")
	x.net.hosts = map[netip.Addr]Neighbor{}
	for n := range 4 {
		a := realN6(n + 1)
		h := oracle.Host{MAC: mac6(a), Source: directorMAC, IfIndex: ingress, MTU: draw(rt, "MTU", 1500, 1400, 0), From: ownAddr6}
		if n == 3 {
			h = oracle.Host{Local: true}
		}
		d.setHost6(a, h)
		h.From = ownAddr
		d.setHost6(realN(n+1), h)
	}
	d.setHost6(peer6, oracle.Host{MAC: mac6(peer6), IfIndex: x.dp.Attachments[0].Index})
	d.oracle = oracle.New(oracle.World{
		MAC: directorMAC, IfIndex: ingress, MTU: 1500, IPv6: true, Tick: ticksDuration(1), Own: []netip.Addr{peer6.Next()},
		Host:        func(a netip.Addr) oracle.Host { return d.hosts[a] },
		Lives:       func(uint32) bool { return true },
		ExpectsNews: func() bool { return *d.dp.Takeover != 0 },
		Name:        x.dp.Settings.NameOf,
	})
	d.drawState6()
	d.apply6()
	d.ledger = newLedger(rt, x.dp)
	return d
}

func (d *duel6) setHost6(a netip.Addr, o oracle.Host) {
	d.hosts[a] = o
	d.net.hosts[a] = Neighbor{MAC: o.MAC, Source: o.Source, IfIndex: o.IfIndex, MTU: o.MTU, Device: "lvx0", From: o.From, Local: o.Local}
}

// drawReal6 is the n-th real of a service, by any way of forwarding; by tunnel it may
// have an address of IPv4.
func (d *duel6) drawReal6(n int, weight uint16) lb.Real {
	r := lb.Real{Addr: realN6(n), Weight: weight, Forward: draw(d.rt, "forward", lb.DR, lb.DR, lb.Tunnel)}
	if r.Forward != lb.Tunnel {
		return r
	}
	if r.Encap = drawTunnel(d.rt); chance(d.rt, 2, "of the other family") {
		r.Addr = realN(n)
	}
	return r
}

func (d *duel6) drawState6() {
	d.state = lb.State{ExpireNodestConn: rapid.Bool().Draw(d.rt, "expire nodest"), SloppyTCP: rapid.IntRange(0, 3).Draw(d.rt, "sloppy") == 3}
	d.state.OuterSources = drawOuterSources(d.rt)
	used := map[lb.Listener]bool{}
	for n := range rapid.IntRange(1, 3).Draw(d.rt, "services") {
		s := lb.Service{Name: "s" + strconv.Itoa(n), Scheduler: draw(d.rt, "scheduler", lb.RR, lb.WRR, lb.SH, lb.DH, lb.MH)}
		for range rapid.IntRange(2, 4).Draw(d.rt, "listeners") {
			r := draw(d.rt, "port", [2]uint16{80, 80}, [2]uint16{443, 443}, [2]uint16{8000, 8100}, [2]uint16{0, 0})
			l := lb.Listener{Addr: draw(d.rt, "VIP", vips6...), Proto: draw(d.rt, "protocol", lb.TCP, lb.UDP), First: r[0], Last: r[1]}
			if !used[l] {
				used[l] = true
				s.Listeners = append(s.Listeners, l)
			}
		}
		if len(s.Listeners) == 0 {
			continue
		}
		for i := range draw(d.rt, "reals", 3, 4, 2, 3, 1, 3, 4, 4, 3, 0) {
			s.Reals = append(s.Reals, d.drawReal6(i+1, draw[uint16](d.rt, "weight", 1, 1, 1, 2, 3, 5, 0)))
		}
		if chance(d.rt, 3, "persistent") {
			s.Persistence = lb.Persistence{Timeout: 50 * time.Second, Prefix: draw(d.rt, "prefix", 0, 48, 64, 33, 127)}
		}
		if chance(d.rt, 10, "deny") {
			s.Deny = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}
		}
		s.OnePacket = chance(d.rt, 8, "one packet")
		drawStateless(d.rt, &s)
		if chance(d.rt, 4, "flags") {
			s.Flags = map[lb.Scheduler]lb.SchedFlags{lb.SH: lb.SHPort, lb.MH: lb.MHPort}[s.Scheduler]
		}
		d.state.Services = append(d.state.Services, s)
	}
}

func (d *duel6) apply6() {
	d.rt.Logf("state: %+v", d.state)
	if err := d.Backend.Apply(context.Background(), d.state); err != nil {
		d.rt.Fatalf("apply: %v", err)
	}
	i := &d.dp.Interfaces[0]
	i.Mode, i.MTU = bpf.ModeNative, 1500
	i.Own = [len(i.Own)]bpf.Address{bpf.AddressOf(peer6.Next())}
	d.oracle.Apply(d.state)
}

func (d *duel6) step(seen map[string]uint64) {
	switch n := rapid.IntRange(0, 99).Draw(d.rt, "step"); {
	case n < 92:
		what, in := d.drawFrame6()
		d.frame6(what, in, seen)
	case n < 96:
		d.edit6()
	default:
		ticks := rapid.SampledFrom([]int{1, 5, 12, 31, 60, 118, 300, 900}).Draw(d.rt, "ticks")
		d.dp.Settings.Clock += uint64(ticks)
		d.oracle.Pass(ticks)
		d.endExpired()
	}
}

// endExpired frees the places of expired flows, as the sweeper does: whether a
// flow has a twin depends on them.
func (d *duel6) endExpired() {
	d.oracle.EndExpired()
	var over []entry
	d.eachFlow(func(e entry, v bpf.FlowValue) bool {
		age := uint16(d.dp.Settings.Clock) - v.Seen()
		if age > d.dp.Settings.Timeout[v.Code()] {
			e.was = v
			over = append(over, e)
		}
		return true
	})
	if len(over) > 0 {
		must(d.t, over[0].table.end(over, func(bpf.FlowValue) {}))
	}
}

func (d *duel6) edit6() {
	d.state = d.state.Clone()
	if len(d.state.Services) == 0 {
		return
	}
	s := &d.state.Services[rapid.IntRange(0, len(d.state.Services)-1).Draw(d.rt, "service")]
	switch rapid.IntRange(-1, 3).Draw(d.rt, "edit") {
	case -1:
		*d.dp.Takeover = drawTakeover(d.rt)
	case 0:
		if n := len(s.Reals); n > 1 || n > 0 && chance(d.rt, 4, "the last") {
			s.Reals = slices.Delete(s.Reals, n-1, n)
		}
	case 1:
		if n := len(s.Reals); n < 4 {
			s.Reals = append(s.Reals, d.drawReal6(n+1, 1))
		}
	case 2:
		if n := len(s.Reals); n > 0 {
			s.Reals[0].Weight = draw[uint16](d.rt, "weight", 1, 5, 0)
		}
	case 3:
		v := draw(d.rt, "VIP", vips6...)
		standby := chance(d.rt, 3, "standby")
		d.state.VIPs = []lb.VIP{{Addr: v, Owner: "VI_1", Standby: standby}}
	}
	d.apply6()
}

func (d *duel6) drawFrame6() (string, []byte) {
	e := d.drawEndpoints6()
	p := lb.Packet{Proto: e.proto, Src: e.src, Dst: e.dst, Flags: draw(d.rt, "flags", append([]string{"S", "A", "S", "A", "A", "S", "PA"}, flagSets...)...)}
	if p.Flags == "none" {
		p.Flags = "P"
	}
	kind := rapid.IntRange(0, 39).Draw(d.rt, "kind") // small numbers are frequent
	if kind < 24 {
		return "packet", frame6(p, draw(d.rt, "payload", 0, 1, 80), 0, nil)
	}
	next, extensions := d.drawExtensions(e.proto)
	in := frame6(p, draw(d.rt, "payload", 0, 1, 80, 1220, 1400), next, extensions)
	in[21] = draw[byte](d.rt, "hop limit", 64, 64, 64, 255, 2, 1, 0)
	switch kind {
	case 30, 31:
		return "ICMP error", d.error6(e)
	case 32:
		return "first fragment", d.fragment6(p, 0)
	case 33:
		return "later fragment", d.fragment6(p, 8*draw[uint16](d.rt, "offset", 1, 64))
	case 34:
		return "cut short", in[:rapid.IntRange(54, len(in)).Draw(d.rt, "cut")]
	case 35:
		return "tagged", tagged(in, 0x8100)
	case 36:
		return "tagged twice", tagged(in, 0x88a8, 0x8100)
	case 37:
		return "solicitation", solicitation(draw(d.rt, "target", append(vips6, peer6)...))
	case 38:
		in[14] = 0x40
		return "another version", in
	case 39:
		in[5] = 9
		return "for another host", in
	}
	return "long packet", in
}

// drawEndpoints6: mostly those of a packet that was sent before, else mostly of
// a listener.
func (d *duel6) drawEndpoints6() endpoints {
	if len(d.known) > 0 && !chance(d.rt, 5, "new") {
		return rapid.SampledFrom(d.known).Draw(d.rt, "known")
	}
	from := rapid.SampledFrom(clients6).Draw(d.rt, "client")
	if chance(d.rt, 40, "martian") {
		from = rapid.SampledFrom(append(martians6, vip6, peer6.Next())).Draw(d.rt, "source")
	}
	e := endpoints{
		draw(d.rt, "protocol", lb.TCP, lb.TCP, lb.UDP), netip.AddrPortFrom(from, draw[uint16](d.rt, "port", 40000, 40001)),
		netip.AddrPortFrom(draw(d.rt, "VIP", vips6...), draw[uint16](d.rt, "port", 80, 443, 8050, 22)),
	}
	if len(d.state.Services) > 0 && !chance(d.rt, 10, "anywhere") {
		s := rapid.SampledFrom(d.state.Services).Draw(d.rt, "to")
		l := rapid.SampledFrom(s.Listeners).Draw(d.rt, "at")
		e.proto, e.dst = l.Proto, netip.AddrPortFrom(l.Addr, l.Last)
	}
	if d.known = append(d.known, e); len(d.known) > 16 {
		d.known = d.known[1:]
	}
	return e
}

// drawExtensions makes a chain of extension headers that ends in proto.
func (d *duel6) drawExtensions(proto lb.Protocol) (first byte, all []byte) {
	n := draw(d.rt, "extensions", 0, 0, 0, 1, 2, 8, 9)
	kinds := make([]byte, n+1)
	for i := range n {
		kinds[i] = draw[byte](d.rt, "kind of extension", 0, 43, 51, 60)
	}
	kinds[n] = byte(proto)
	for i := range n {
		words := draw[byte](d.rt, "length", 0, 1, 3)
		size := (int(words) + 1) * 8
		if kinds[i] == 51 {
			size = (int(words) + 2) * 4
		}
		h := make([]byte, size)
		h[0], h[1] = kinds[i+1], words
		all = append(all, h...)
	}
	return kinds[0], all
}

func (d *duel6) fragment6(p lb.Packet, offset uint16) []byte {
	h := make([]byte, 8)
	h[0] = byte(p.Proto)
	binary.BigEndian.PutUint16(h[2:], offset|1)
	binary.BigEndian.PutUint32(h[4:], uint32(rapid.IntRange(1, 3).Draw(d.rt, "id")))
	return frame6(p, 100, 44, h)
}

func (d *duel6) error6(e endpoints) []byte {
	quoted := frame6(lb.Packet{Proto: e.proto, Src: e.dst, Dst: e.src, Flags: "A"}, 20, 0, nil)[14:]
	in := make([]byte, 14+40+8+len(quoted))
	copy(in, frame6(lb.Packet{Proto: lb.UDP, Src: netip.AddrPortFrom(netip.MustParseAddr("2001:db8:f::1"), 1), Dst: e.dst}, 0, 0, nil)[:54])
	in[20] = 58
	binary.BigEndian.PutUint16(in[18:], uint16(8+len(quoted)))
	in[54] = draw[byte](d.rt, "type", 1, 2, 3, 4, 5, 128)
	copy(in[62:], quoted)
	if chance(d.rt, 4, "cut off") {
		n := rapid.IntRange(0, len(quoted)).Draw(d.rt, "quoted")
		binary.BigEndian.PutUint16(in[18:], uint16(8+n))
		in = in[:62+n]
	}
	return in
}

func solicitation(target netip.Addr) []byte {
	f := make([]byte, 14+40+24)
	copy(f, []byte{0x33, 0x33, 0xff, 0, 1, 0})
	copy(f[6:], clientMAC[:])
	f[12], f[13] = 0x86, 0xdd
	f[14], f[20], f[21], f[19] = 0x60, 58, 255, 24
	f[54] = 135
	a := target.As16()
	copy(f[62:], a[:])
	return f
}

func (d *duel6) frame6(what string, in []byte, seen map[string]uint64) {
	d.rt.Logf("%s: %x", what, in)
	want := d.oracle.Packet(in)
	d.out = slices.Grow(d.out[:0], len(in)+256)[:len(in)+256]
	opts := &ebpf.RunOptions{Data: in, DataOut: d.out}
	action, err := d.prog.Run(opts)
	if err != nil {
		d.rt.Fatalf("run: %v", err)
	}
	verdict := d.ledger.verdictOf(want.Verdict)
	seen[verdict]++
	if verdict != want.Verdict && want.Twin != nil {
		want = want.Twin()
		seen["by a twin's flow"]++
	}
	if verdict != want.Verdict || action != want.Action {
		d.rt.Fatalf("%s: %s, action %d; the oracle says %s, %d", what, verdict, action, want.Verdict, want.Action)
	}
	allowAny(opts.DataOut, want)
	if want.Frame != nil && !bytes.Equal(opts.DataOut, want.Frame) {
		d.rt.Fatalf("%s: %s, frame\n%x in\n%x out\n%x the oracle's; evicted %v", what, verdict, in, opts.DataOut, want.Frame, d.evicted())
	}
}

// evicted is what has lost its place since the program was loaded: a model
// without a capacity knows nothing of that.
func (d *duel6) evicted() map[string]uint64 {
	s, err := d.Stats()
	if err != nil {
		d.rt.Fatal(err)
	}
	return s.Flows.Evicted
}
