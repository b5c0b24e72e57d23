package xdp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// explainedWorld is a state in which packets meet as many decisions as a few
// services have.
func explainedWorld() lb.State {
	s := lb.State{ExpireNodestConn: true, VIPs: standby(realN(70))}
	for i, kind := range []lb.Scheduler{lb.RR, lb.WRR, lb.SH, lb.MH, lb.LC, lb.NQ} {
		svc := webService(1 + i%3)
		svc.Name, svc.Scheduler = string(kind), kind
		svc.Listeners = []lb.Listener{
			{Addr: vip, Proto: lb.TCP, First: uint16(80 + i), Last: uint16(80 + i)},
			{Addr: vip, Proto: lb.UDP, First: uint16(80 + i), Last: uint16(80 + i)},
		}
		if i%2 == 1 {
			svc.Persistence = lb.Persistence{Timeout: time.Minute}
		}
		if i == 2 {
			svc.Deny = []netip.Prefix{netip.MustParsePrefix("172.16.0.3/32")}
		}
		s.Services = append(s.Services, svc)
	}
	s.Services[3].Reals, s.Services[3].Sorry = s.Services[3].Reals[:0], realN(9)
	s.Services[5].Reals = nil
	return s
}

// randomPacket is one of few clients' to few ports, so that connections meet
// again.
func randomPacket(r *rand.Rand) lb.Packet {
	p := lb.Packet{
		Proto: []lb.Protocol{lb.TCP, lb.TCP, lb.TCP, lb.UDP}[r.IntN(4)],
		Src:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(r.IntN(6))}), uint16(4000+r.IntN(8))),
		Dst:   netip.AddrPortFrom([]netip.Addr{vip, vip, vip, vip, realN(70), realN(71)}[r.IntN(6)], uint16(80+r.IntN(8))),
		Size:  []int{0, 0, 0, 100, 1500, 1501}[r.IntN(6)],
	}
	if p.Proto == lb.TCP {
		p.Flags = []string{"S", "S", "A", "PA", "FA", "R", "SA", "RA"}[r.IntN(8)]
	}
	if r.IntN(10) == 0 {
		q := p
		p = lb.Packet{
			Proto: lb.ICMP, Src: netip.AddrPortFrom(realN(60), 0), Dst: netip.AddrPortFrom(p.Dst.Addr(), 0),
			ICMPType: []uint8{3, 8, 11}[r.IntN(3)], ICMPCode: uint8(r.IntN(5)), Quotes: &q,
		}
	}
	return p
}

// runAs runs a frame as one that comes by the interface, and returns its
// verdict.
func (h *harness) runAs(in []byte) (verdict string, out []byte, action uint32) {
	h.t.Helper()
	ctx := make([]byte, 24)
	binary.NativeEndian.PutUint32(ctx[4:], uint32(len(in)))
	binary.NativeEndian.PutUint32(ctx[12:], uint32(h.dp.Attachments[0].Index))
	var err error
	before := h.verdicts()
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: ctx}
	inNamespace(h.home, func() { action, err = h.dp.Program("lvx0").Run(opts) })
	must(h.t, err)
	after := h.verdicts()
	for i := range after {
		if after[i].Count != before[i].Count {
			return after[i].Name, opts.DataOut, action
		}
	}
	h.t.Fatal("the packet has no verdict")
	return "", nil, 0
}

// withoutRandom is a frame without what an ICMP answer has at random: its IP
// header's identification and checksum.
func withoutRandom(frame []byte, verdict string) []byte {
	if strings.HasPrefix(verdict, "answered") {
		frame = bytes.Clone(frame)
		clear(frame[18:20])
		clear(frame[24:26])
	}
	return frame
}

// mixedWorld is [explainedWorld] with services by NAT, at ports of the reals' and at
// the VIP's, and by tunnel. h gets the hosts that it has besides.
func (h *harness) mixedWorld() lb.State {
	s := explainedWorld()
	for i, forward := range []lb.Forward{lb.NAT, lb.NAT, lb.Tunnel} {
		svc := webService(0)
		svc.Name, svc.Scheduler = fmt.Sprintf("%s%d", forward, i), lb.RR
		for j := range svc.Listeners {
			svc.Listeners[j].First, svc.Listeners[j].Last = uint16(86+i), uint16(86+i)
		}
		for j := range 3 {
			real := lb.Real{Addr: realN(mixedReals + 4*i + j), Weight: 1, Forward: forward}
			if i == 0 {
				real.Port = natReal.Port()
			}
			svc.Reals = append(svc.Reals, real)
		}
		s.Services = append(s.Services, svc)
	}
	tunnels := s.Services[len(s.Services)-1].Reals
	h.net.hosts = map[netip.Addr]Neighbor{}
	for _, r := range tunnels {
		n := h.net.Lookup(r.Addr)
		n.From = outerSource
		h.net.hosts[r.Addr] = n
	}
	h.net.routes = []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: natGateway}}
	return s
}

// mixedReals is where the numbers of the reals begin that [harness.mixedWorld] adds.
const mixedReals = 20

// mixedPacket is [randomPacket] in a [harness.mixedWorld]: it may be a reply.
func mixedPacket(r *rand.Rand) lb.Packet {
	p := randomPacket(r)
	if p.Quotes != nil || r.IntN(3) == 0 {
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), p.Dst.Port()+uint16(r.IntN(4)))
		return p
	}
	to := uint16(86 + r.IntN(3))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), to)
	if to != 88 && r.IntN(4) > 0 { // back
		from := natReal.Port()
		if to == 87 {
			from = to
		}
		p.Src, p.Dst = netip.AddrPortFrom(realN(mixedReals+4*int(to-86)+r.IntN(3)), from), p.Src
		if p.Proto == lb.TCP {
			p.Flags = []string{"SA", "A", "PA", "FA", "R"}[r.IntN(5)]
		}
	}
	return p
}

// explainedPackets is how many random packets are asked about: n, or what
// LVX_EXPLAIN_PACKETS says.
func explainedPackets(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv("LVX_EXPLAIN_PACKETS"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// What explain says is what happens next.
func TestExplainAgreesWithWhatHappens(t *testing.T) {
	n := explainedPackets(t, 10_000)
	h := newStill(t, 1024, 256)
	s := h.mixedWorld()
	h.net.silent[realN(3)] = "does not answer ARP"
	h.apply(s)
	r := rand.New(rand.NewPCG(1, 2))
	met := map[string]int{}
	for i := range n {
		if i%500 == 499 { // reals leave and return, quiesce, and time passes
			for j := range s.Services {
				s.Services[j].Reals = newWeights(s.Services[j].Reals, r)
			}
			h.apply(s)
			h.pass(r.IntN(100))
		}
		p := mixedPacket(r)
		f, err := buildFrame(p, h.dp.Interfaces[0].MAC)
		must(t, err)
		var x lb.Explanation
		var frame []byte
		inNamespace(t, func() {
			e, err := h.dp.Explain("lvx0", f)
			must(t, err)
			x, frame = h.explanationOf(e), e.Frame
		})
		verdict, out, action := h.runAs(f)
		met[verdict]++
		if x.Verdict != verdict || !bytes.Equal(withoutRandom(frame, verdict), withoutRandom(out, verdict)) {
			t.Fatalf("packet %d, %+v: explained as %s %q, is %s (action %d)\nexplained %x\nsent      %x",
				i, p, x.Verdict, x.Steps, verdict, action, frame, out)
		}
	}
	t.Logf("verdicts: %v", met)
	for _, v := range []bpf.Verdict{bpf.Redirected, bpf.NotOurs, bpf.Standby, bpf.NoListener, bpf.NoFlow, bpf.Denied, bpf.AnsweredUnreachable, bpf.AnsweredTooBig, bpf.ICMPForwarded, bpf.ICMPNoFlow, bpf.OtherProtocol, bpf.Replied} {
		if met[v.String()] == 0 {
			t.Errorf("no packet was %s", v)
		}
	}
}

// newWeights gives each real a new weight, 0 to 2.
func newWeights(reals []lb.Real, r *rand.Rand) []lb.Real {
	reals = append([]lb.Real(nil), reals...)
	for i := range reals {
		reals[i].Weight = uint16(r.IntN(3))
	}
	return reals
}

// hashMaps is a hash of what is in every map of the packet path.
func (h *harness) hashMaps() string {
	h.t.Helper()
	d, sum := h.dp, sha256.New()
	for _, mapped := range [][]byte{
		bytesOf(unsafe.Slice(d.Settings, 1)), bytesOf(d.Interfaces), bytesOf(d.VIPs), bytesOf(d.Verdicts), bytesOf(d.Ports), bytesOf(d.Ranges),
		bytesOf(d.Services), bytesOf(d.Cursors), bytesOf(d.Rings), bytesOf(d.Reals), bytesOf(d.Addresses), bytesOf(d.Loads), bytesOf(d.Shares),
		bytesOf(d.Labels), bytesOf(d.Leases), bytesOf(d.Flows), bytesOf(d.Templates), bytesOf(d.Flows6), bytesOf(d.Templates6),
	} {
		_, _ = sum.Write(mapped)
	}
	for _, m := range []*ebpf.Map{d.Maps.Counters, d.Maps.Evictions, d.Maps.Answers, d.Maps.Turns, d.Maps.Locks, d.Maps.Fragments, d.Maps.Filters, d.Maps6.Fragments6} {
		hashMap(h.t, sum, m)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func bytesOf[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}

func hashMap(t testing.TB, sum io.Writer, m *ebpf.Map) {
	t.Helper()
	if m.Type() == ebpf.LPMTrie || m.Type() == ebpf.LRUHash {
		var entries []string
		var key, value []byte
		for it := m.Iterate(); it.Next(&key, &value); {
			entries = append(entries, string(key)+string(value))
		}
		slices.Sort(entries)
		_, _ = io.WriteString(sum, strings.Join(entries, ""))
		return
	}
	for i := range min(m.MaxEntries(), 4096) { // of reals, more than are used
		var value []byte
		var perCPU [][]byte
		if m.Type() == ebpf.PerCPUArray {
			must(t, m.Lookup(i, &perCPU))
		} else {
			must(t, m.Lookup(i, &value))
		}
		_, _ = sum.Write(append(value, bytes.Join(perCPU, nil)...))
	}
}

func TestExplainChangesNothing(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 { // something to forget
		f, err := buildFrame(randomPacket(r), h.dp.Interfaces[0].MAC)
		must(t, err)
		h.runAs(f)
	}
	before := h.hashMaps()
	for range 10_000 {
		_, err := h.Explain(randomPacket(r))
		must(t, err)
	}
	if h.hashMaps() != before {
		t.Error("10,000 explanations have changed a map")
	}
	f, err := buildFrame(randomPacket(r), h.dp.Interfaces[0].MAC)
	must(t, err)
	h.runAs(f)
	if h.hashMaps() == before {
		t.Error("a packet that is not an explanation has changed nothing: the hash sees nothing")
	}
}

func TestExplainSaysWhy(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	from := func(n int, port uint16) lb.Packet {
		return lb.Packet{Proto: lb.TCP, Flags: "S", Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(n)}), 4000), Dst: netip.AddrPortFrom(vip, port)}
	}
	explain := func(p lb.Packet) lb.Explanation {
		x, err := h.Explain(p)
		must(t, err)
		return x
	}
	says := func(x lb.Explanation, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(strings.Join(x.Steps, "\n"), w) {
				t.Errorf("no step says %q: %q", w, x.Steps)
			}
		}
	}
	says(explain(from(1, 80)), "is a VIP", "no connection", `service "rr" listens there, scheduler rr`, "next of the rotation", "to real")
	says(explain(from(3, 82)), "the lists of sh deny 172.16.0.3")
	says(explain(from(1, 99)), "no service listens on")
	for port, why := range map[uint16]string{80: "had its turn", 81: "persistence template", 82: "the one that the hash names", 84: "had the least connections"} {
		f, err := buildFrame(from(1, port), h.dp.Interfaces[0].MAC)
		must(t, err)
		h.runAs(f)
		again := from(1, port)
		again.Flags = "A"
		says(explain(again), "known connection", why)
	}
	big := from(1, 80)
	big.Flags, big.Size = "A", 1501
	says(explain(big), "longer than the 1500 bytes")
	q := from(1, 80)
	icmp := lb.Packet{Proto: lb.ICMP, Src: netip.AddrPortFrom(realN(60), 0), Dst: netip.AddrPortFrom(vip, 0), ICMPType: 3, ICMPCode: 4, Quotes: &q}
	if x := explain(icmp); x.Verdict != "icmp_forwarded" || x.Service != "rr" {
		t.Errorf("explained ICMP error: %+v", x)
	}
}
