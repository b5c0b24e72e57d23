package xdp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// mostVIPs is how many VIPs' ports may lead to one port of a real.
const mostVIPs = bpf.Probes * bpf.ReplyWays

// manyVIPs are services by NAT, from the first-th on, whose only real's port is the same.
func manyVIPs(first, n int) (services []lb.Service) {
	for i := first; i < first+n; i++ {
		s := natService()
		s.Name = fmt.Sprint("web", i)
		s.Listeners = []lb.Listener{{Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), Proto: lb.TCP, First: 80, Last: 80}}
		services = append(services, s)
	}
	return services
}

// absent has all reals of services be out for now.
func absent(services []lb.Service) []lb.Service {
	for i := range services {
		s := &services[i]
		s.Absent, s.Reals = s.Reals, nil
	}
	return services
}

// Services whose replies have no place are refused when they come, and not when their
// reals pass their first checks: no other change would be in force from then on.
func TestNATOfTooManyVIPs(t *testing.T) {
	h := newNAT(t, manyVIPs(0, mostVIPs)...)
	for _, services := range [][]lb.Service{manyVIPs(0, mostVIPs+1), absent(manyVIPs(0, mostVIPs+1))} {
		if err := Fits(lb.State{Services: services}); err == nil {
			t.Error("what is one too many fits")
		}
		if err := h.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: services}); err == nil {
			t.Error("what is one too many is applied")
		}
	}
	must(t, Fits(lb.State{Services: manyVIPs(0, mostVIPs)}))
	vip := netip.MustParseAddrPort("10.0.1.15:80")
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: vip, flags: "S"}, natReal)
	h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "SA"}, vip)
	h.serveNAT(manyVIPs(100, mostVIPs)...) // in place of them all
	vip = netip.MustParseAddrPort("10.0.1.115:80")
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: vip, flags: "S"}, natReal)
	h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "SA"}, vip)
}

// Whether replies have a place does not depend on the order in which they come, which is
// another one whenever a real has been away.
func TestNATRepliesFitInEveryOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	from := map[uint32]netip.Addr{} // reals by where the searches for their replies begin
	for range 16 * bpf.ReplyLines {
		a := bpf.AddrOfWord(rnd.Uint32())
		from[bpf.FirstReplyLine(a, 80, uint16(lb.TCP))] = a
	}
	fit := 0
	for range 40 {
		var all []bpf.Reply
		for line := range uint32(6) {
			for vip := range rnd.UintN(10) {
				all = append(all, bpf.Reply{Source: bpf.IPv4Word(from[line+100]), Port: bpf.PortWord(80), Protocol: uint16(lb.TCP), VIP: uint32(vip), VIPPort: bpf.PortWord(80)})
			}
		}
		var first error
		for try := range 10 {
			rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			err := placeReplies(make([]bpf.ReplyLine, bpf.ReplyLines), all)
			if try == 0 {
				first = err
			}
			if (err == nil) != (first == nil) {
				t.Fatalf("%v in one order, %v in another", first, err)
			}
		}
		if first == nil {
			fit++
		}
	}
	if fit < 5 || fit > 38 {
		t.Errorf("%d of 40 fit: neither is tested", fit)
	}
}
