package xdp

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// newDual is a harness whose program serves both families, with a clock that
// only the test moves.
func newDual(t testing.TB) *harness {
	t.Helper()
	return openHarness(t, Options{Flows: 1024, Templates: 256, StillClock: true, IPv6: true})
}

// explainedWorld6 is [explainedWorld] with the same services at an IPv6 VIP.
func explainedWorld6() lb.State {
	s := explainedWorld()
	for _, svc := range s.Clone().Services {
		svc.Name += "6"
		for i := range svc.Listeners {
			svc.Listeners[i].Addr = vip6
		}
		for i := range svc.Reals {
			svc.Reals[i].Addr = realN6(i + 1)
		}
		if svc.Sorry.IsValid() {
			svc.Sorry = realN6(9)
		}
		if svc.Persistence.Enabled() {
			svc.Persistence.Prefix = 120
		}
		if len(svc.Deny) > 0 {
			svc.Deny = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::3/128")}
		}
		s.Services = append(s.Services, svc)
	}
	s.VIPs = append(s.VIPs, standby(realN6(70))...)
	return s
}

// packet6 is [randomPacket] of IPv6.
func packet6(r *rand.Rand) lb.Packet {
	p := randomPacket(r)
	if p.Quotes != nil {
		q := translate6(*p.Quotes)
		p.Quotes = &q
		p.Proto, p.ICMPType = lb.ICMPv6, []uint8{1, 2, 3, 128}[r.IntN(4)]
	}
	return translate6(p)
}

// translate6 gives a packet between known IPv4 addresses their IPv6 ones.
func translate6(p lb.Packet) lb.Packet {
	last := p.Src.Addr().As4()[3]
	src := client6.Addr().As16()
	src[15] = last
	p.Src = netip.AddrPortFrom(netip.AddrFrom16(src), p.Src.Port())
	to := vip6
	if p.Dst.Addr() != vip {
		to = realN6(int(p.Dst.Addr().As4()[3]) - 10)
	}
	p.Dst = netip.AddrPortFrom(to, p.Dst.Port())
	return p
}

// What explain says of IPv6 is what happens next, and asking changes nothing.
func TestExplainAgreesOfIPv6(t *testing.T) {
	h := newDual(t)
	s := explainedWorld6()
	h.net.silent[realN6(3)] = "does not answer neighbour discovery"
	h.apply(s)
	r := rand.New(rand.NewPCG(1, 2))
	met := map[string]int{}
	for i := range explainedPackets(t, 3000) {
		if i%500 == 499 {
			for j := range s.Services {
				s.Services[j].Reals = newWeights(s.Services[j].Reals, r)
			}
			h.apply(s)
			h.pass(r.IntN(100))
		}
		p := packet6(r)
		f, err := buildFrame(p, h.dp.Interfaces[0].MAC)
		must(t, err)
		var x lb.Explanation
		var frame []byte
		before := ""
		if i%100 == 0 {
			before = h.hashMaps()
		}
		inNamespace(t, func() {
			e, err := h.dp.Explain("lvx0", f)
			must(t, err)
			x, frame = h.explanationOf(e), e.Frame
		})
		if i%100 == 0 && h.hashMaps() != before {
			t.Fatalf("explaining packet %d, %+v, has changed a map", i, p)
		}
		verdict, out, action := h.runAs(f)
		met[verdict]++
		if x.Verdict != verdict || !bytes.Equal(frame, out) {
			t.Fatalf("packet %d, %+v: explained as %s %q, is %s (action %d)\nexplained %x\nsent      %x",
				i, p, x.Verdict, x.Steps, verdict, action, frame, out)
		}
	}
	t.Logf("verdicts: %v", met)
	for _, v := range []bpf.Verdict{bpf.Redirected, bpf.NotOurs, bpf.Standby, bpf.NoListener, bpf.NoFlow, bpf.Denied, bpf.AnsweredUnreachable, bpf.AnsweredTooBig, bpf.ICMPForwarded, bpf.ICMPNoFlow, bpf.OtherProtocol} {
		if met[v.String()] == 0 {
			t.Errorf("no packet was %s", v)
		}
	}
}

func TestExplainSaysWhyOfIPv6(t *testing.T) {
	h := newDual(t)
	h.apply(explainedWorld6())
	from := func(n byte, port uint16) lb.Packet {
		a := client6.Addr().As16()
		a[15] = n
		return lb.Packet{Proto: lb.TCP, Flags: "S", Src: netip.AddrPortFrom(netip.AddrFrom16(a), 4000), Dst: netip.AddrPortFrom(vip6, port)}
	}
	says := func(p lb.Packet, want ...string) {
		t.Helper()
		x, err := h.Explain(p)
		must(t, err)
		for _, w := range want {
			if !strings.Contains(strings.Join(x.Steps, "\n"), w) {
				t.Errorf("no step says %q: %q", w, x.Steps)
			}
		}
	}
	says(from(1, 80), "2001:db8::100 is a VIP", "no connection [2001:db8:1::1]:4000 > [2001:db8::100]:80", `service "rr6" listens there`, "to real 2001:db8::11, MAC")
	says(from(3, 82), "the lists of sh6 deny 2001:db8:1::3")
	says(from(1, 99), "no service listens on [2001:db8::100]:99/tcp")
	for port, why := range map[uint16]string{80: "had its turn", 81: "persistence template", 82: "the one that the hash names", 84: "had the least connections"} {
		f, err := buildFrame(from(1, port), h.dp.Interfaces[0].MAC)
		must(t, err)
		h.runAs(f)
		again := from(1, port)
		again.Flags = "A"
		says(again, "known connection", why)
	}
	if _, err := h.Explain(lb.Packet{Proto: lb.TCP, Src: client, Dst: web6}); err == nil {
		t.Error("a packet from an IPv4 address to an IPv6 one is explained")
	}
}

// Where no service is IPv6's, its packets are explained as the kernel's.
func TestExplainWithoutIPv6(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	x, err := h.Explain(lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "S"})
	if err != nil || x.Verdict != "not_ipv4" {
		t.Errorf("explained as %+v, %v", x, err)
	}
}

// A trace shows packets of both families while the programs that serve IPv6 are
// others, which it takes out of force again.
func TestTraceOfIPv6(t *testing.T) {
	h := newDual(t)
	h.apply(explainedWorld6())
	p := lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "S"}
	f, err := buildFrame(p, h.dp.Interfaces[0].MAC)
	must(t, err)
	usual := h.family(t)
	for words, want := range map[string]bool{
		"":                                      true,
		"host 2001:db8:1::5 port 40000 port 80": true,
		"net 2001:db8::/32 verdict redirected":  true,
		"net 2001:db8::/49 host 2001:db8:1::5":  true,
		"ip6 tcp":                               true,
		"net ::/0":                              true,
		"host 2001:db8:1::6":                    false,
		"net 2001:db9::/32":                     false,
		"ip":                                    false,
		"net 0.0.0.0/0":                         false,
		"icmp6":                                 false,
	} {
		filter, err := lb.ParseTraceFilter(strings.Fields(words))
		must(t, err)
		watch := h.startTrace(filter, 2048)
		if h.family(t) == usual {
			t.Error("the program of IPv6 that records is the one that serves otherwise")
		}
		out, _ := h.runTraced(f)
		rec, err := h.trace.tracer.Read(time.Now())
		must(t, err)
		if (rec != nil) != want {
			t.Errorf("%q wants the packet: %v, want %v", words, rec != nil, want)
		}
		if rec != nil {
			got := h.trace.packet(rec)
			if got.Source != p.Src || got.Destination != p.Dst || got.Protocol != "tcp" || got.Service != "rr6" || string(got.FrameIn) != string(f) || string(got.FrameOut) != string(out) {
				t.Errorf("shown as %+v", got)
			}
		}
		must(t, watch.Close())
		if h.family(t) != usual {
			t.Error("after the trace another program of IPv6 is in force")
		}
	}
}

// family is the number of the program of IPv6 that is in force.
func (h *harness) family(t *testing.T) uint32 {
	t.Helper()
	var id uint32
	must(t, h.dp.Maps.Families.Lookup(uint32(0), &id))
	return id
}
