//go:build ipvsvm

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// realPort is another one than the VIP's: NAT has ports to change.
const realPort = 8080

// Of the guest's wire: connections that are open, and packets of a load.
const (
	wireFlows = 1000
	wireLoad  = 10_000
)

// mostBent is how far the second load may take longer, or less long, than the
// first one. They are equal: what differs is the guest's timer ticks.
const mostBent = 0.03

// A guestWire is a wire whose near end is the director's. All of it runs on the
// guest's one CPU, whose clock counts its instructions: what passes between a
// frame's making and the look at it behind the director is what all of that has
// taken.
type guestWire struct {
	t   *testing.T
	raw RawObjects
	nic netlink.Link
}

func newGuestWire(t *testing.T) *guestWire {
	t.Helper()
	must(t, ownNamespace())
	w := &guestWire{t: t}
	var err error
	w.nic, err = netlink.LinkByName(nic)
	must(t, err)
	far, err := netlink.LinkByName(nicPeer)
	must(t, err)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644)) // it would send, too
	must(t, netlink.LinkSetUp(far))
	spec, err := LoadRaw()
	must(t, err)
	must(t, spec.Variables[RawVarWayOut].Set(uint32(far.Attrs().Index)))
	must(t, spec.LoadAndAssign(&w.raw, nil))
	t.Cleanup(func() { must(t, w.raw.Close()) })
	w.attach(w.raw.Arrive, far)
	return w
}

// attach has a program at an end of the wire until the test's end.
func (w *guestWire) attach(p *ebpf.Program, end netlink.Link) {
	w.t.Helper()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: end.Attrs().Index, Flags: link.XDPDriverMode})
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, l.Close()) })
}

// A flood is frames of one direction, and what they are to be behind the director.
type flood struct {
	traffic
	arrival RawArrival
}

// requests are what clients send: behind the director they go to the real, whose
// port is another one by NAT.
func requests(flags byte, method lb.Forward) flood {
	l := flood{traffic: uniform(tcpFrame(flags), wireFlows)}
	l.by = func(o *RawObjects) *ebpf.Program { return o.WireRequest }
	l.arrival = RawArrival{Address: l.Vip, Port: be16(80)}
	if method == lb.NAT {
		l.arrival = RawArrival{Address: native(firstReal), Port: be16(realPort)}
	}
	return l
}

// replies are what the real sends, which comes from the VIP behind the director.
func replies(flags byte) flood {
	l := flood{traffic: uniform(tcpFrame(flags), wireFlows).toVIP(firstReal).ports(realPort, realPort)}
	l.Ports = 1
	l.by = func(o *RawObjects) *ebpf.Program { return o.WireReply }
	l.arrival = RawArrival{Address: native(firstVIP), Port: be16(80), IsReply: 1}
	return l
}

// native is an IPv4 address as it lies in memory.
func native(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// send sends so many frames of a flood and returns how many instructions have
// passed from the first one's making until the last one has arrived. Each has to
// arrive as it should.
func (w *guestWire) send(l flood, n int) (float64, error) {
	l.arrival.Wanted = uint64(n)
	if err := errors.Join(w.raw.Plans.Put(uint32(0), &l.RawPlan), w.raw.Arrivals.Put(uint32(0), &l.arrival)); err != nil {
		return 0, err
	}
	again := false
	_, err := l.by(&w.raw).Run(&ebpf.RunOptions{
		Data: l.Frame[:shortFrame], Repeat: uint32(n), Flags: liveFrames, BatchSize: 32, Reset: func() { again = true },
	})
	if err != nil || again {
		return 0, fmt.Errorf("live frames: %v (begun again: %v)", err, again)
	}
	var a RawArrival
	if err := w.raw.Arrivals.Lookup(uint32(0), &a); err != nil {
		return 0, err
	}
	if a.Right != uint64(n) || a.Wrong != 0 {
		return 0, fmt.Errorf("of %d frames %d arrived as they should, %d otherwise", n, a.Right, a.Wrong)
	}
	return float64(a.Ended - a.Began), nil
}

// open opens the connections, and sends data both ways.
func (w *guestWire) open(method lb.Forward) {
	w.t.Helper()
	steps := []flood{requests(syn, method)}
	if method == lb.NAT {
		steps = append(steps, replies(syn|ack))
	}
	steps = append(steps, requests(ack, method), requests(ack, method))
	if method == lb.NAT {
		steps = append(steps, replies(ack))
	}
	for i, l := range steps {
		if _, err := w.send(l, wireFlows); err != nil {
			w.t.Fatalf("step %d of a connection: %v", i+1, err)
		}
	}
}

// perPacket is how many instructions each packet of a load takes: what twice the
// load takes longer than the load, and three times than twice, which has to be
// the same, or it is not the packets that took it.
func (w *guestWire) perPacket(l flood) float64 {
	w.t.Helper()
	var took [4]float64
	for i := range took { // the first one warms up
		var err error
		if took[i], err = w.send(l, max(i, 1)*wireLoad); err != nil {
			w.t.Fatal(err)
		}
	}
	first, second := (took[2]-took[1])/wireLoad, (took[3]-took[2])/wireLoad
	if err := straight(first, second); err != nil {
		w.t.Fatal(err)
	}
	return (first + second) / 2
}

// straight is an error if two loads of the same number of packets took differently long.
func straight(first, second float64) error {
	if first <= 0 || second <= 0 || math.Abs(first/second-1) > mostBent {
		return fmt.Errorf("a load took %.0f instructions per packet, the same load once more %.0f", first, second)
	}
	return nil
}

// TestStraight: what does not grow with the packets is no figure.
func TestStraight(t *testing.T) {
	for _, bad := range [][2]float64{{0, 0}, {-5, -5}, {100, 0}, {100, 110}} {
		if straight(bad[0], bad[1]) == nil {
			t.Errorf("%v: no error", bad)
		}
	}
	must(t, straight(100, 101))
}

// TestClock: the guest's clock counts instructions, one a nanosecond.
func TestClock(t *testing.T) {
	const times = 10_000_000
	began := time.Now()
	spin(times)
	if took := float64(time.Since(began).Nanoseconds()); math.Abs(took/(2*times)-1) > mostBent {
		t.Errorf("%d instructions counted as %.0f", 2*times, took)
	}
}

// wireMethods are the ways of forwarding that are compared.
var wireMethods = []struct {
	name    string
	forward lb.Forward
}{{"dr", lb.DR}, {"nat", lb.NAT}}

// TestKernelInstructions counts, for `go run ./bench instructions`, what a packet
// takes in this guest: through lvx, through the kernel's IPVS, and through a program
// that sends it back at once. Each director has a network of its own.
func TestKernelInstructions(t *testing.T) {
	say := func(by, what string, n float64) { fmt.Printf("instructions per packet: %s/%s %.1f\n", by, what, n) }
	t.Run("empty", func(t *testing.T) {
		w := newGuestWire(t)
		w.attach(w.raw.AnswerTx, w.nic)
		say("empty", "back", w.perPacket(requests(ack, lb.DR)))
	})
	for _, director := range []struct {
		name string
		open func(*guestWire, lb.State)
	}{{"lvx", (*guestWire).openLVX}, {"ipvs", (*guestWire).openKernel}} {
		for _, method := range wireMethods {
			t.Run(director.name+" "+method.name, func(t *testing.T) {
				w := newGuestWire(t)
				director.open(w, with(services(1, 1), func(svc *lb.Service) {
					svc.Reals[0].Forward = method.forward
					if method.forward == lb.NAT {
						svc.Reals[0].Port = realPort
					}
				}))
				w.open(method.forward)
				say(director.name, method.name+"_in", w.perPacket(requests(ack, method.forward)))
				if method.forward == lb.NAT {
					say(director.name, method.name+"_out", w.perPacket(replies(ack)))
				}
			})
		}
	}
}

// openLVX has lvx be the director.
func (w *guestWire) openLVX(s lb.State) {
	w.t.Helper()
	r, err := newRig(rigOptions{flows: 4 * wireFlows, templates: 1, segment: w.nic.Attrs().Index})
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, r.close()) })
	must(w.t, r.apply(s))
}

// openKernel has the kernel's IPVS be the director. In front of it is a program
// that passes everything: only where there is one does veth take frames that are no
// packets of the kernel's yet, as a NIC's driver does.
func (w *guestWire) openKernel(s lb.State) {
	w.t.Helper()
	w.attach(w.raw.AnswerPass, w.nic)
	w.settleKernel()
	b, err := ipvs.Open(w.t.Context(), ipvs.Options{StateDir: w.t.TempDir()})
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, b.Close(false)) })
	must(w.t, b.Apply(w.t.Context(), s))
}

// settleKernel has the kernel forward, to neighbours that it knows.
func (w *guestWire) settleKernel() {
	w.t.Helper()
	for knob, value := range map[string]string{
		"ip_forward": "1", "conf/all/send_redirects": "0", "conf/" + nic + "/send_redirects": "0",
		"conf/all/rp_filter": "0", "conf/" + nic + "/rp_filter": "0",
	} {
		must(w.t, os.WriteFile("/proc/sys/net/ipv4/"+knob, []byte(value), 0o644))
	}
	index := w.nic.Attrs().Index
	for _, a := range []netip.Prefix{netip.PrefixFrom(ownAddr, 24), netip.PrefixFrom(firstVIP, 32)} {
		must(w.t, netlink.AddrReplace(w.nic, &netlink.Addr{IPNet: ipNet(a)}))
	}
	must(w.t, netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(firstReal, 32)), Scope: netlink.SCOPE_LINK}))
	must(w.t, netlink.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice()}))
	for _, a := range []netip.Addr{firstReal, gateway} {
		must(w.t, netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: clientMAC[:]}))
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
