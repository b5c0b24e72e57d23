//go:build ipvsvm

package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// TestKernelListing: on the kernel's IPVS, "lvx list" prints the bytes that
// ipvsadm prints, for random services with traffic on them.
func TestKernelListing(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			n, err := onearm.New(netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.101"), netip.MustParseAddr("2001:db8::100"))
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			b, err := ipvs.Open(t.Context(), ipvs.Options{StateDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close(false)
			s := randomState(rnd)
			if err := b.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			visit(t, n, rnd, s)
			// The kernel adds up its counters every two seconds.
			time.Sleep(5 * time.Second)
			compareViews(t, b, s)
		})
	}
}

// compareViews prints each view with both programs.
func compareViews(t *testing.T, b *ipvs.Backend, s lb.State) {
	t.Helper()
	for options, o := range map[string]ipvsadm.View{
		"":                  {},
		"--stats":           {Stats: true},
		"--stats --exact":   {Stats: true, Exact: true},
		"--thresholds":      {Thresholds: true},
		"--persistent-conn": {PersistentConn: true},
		"-c":                {Connections: true},
		"--timeout":         {Timeout: true},
	} {
		o.Numeric = true
		// Seconds go by: a connection may expire between the two.
		var ours, theirs string
		for range 5 {
			ours = list(t, b, s, o)
			out, err := exec.Command("ipvsadm", append([]string{"-L", "-n"}, strings.Fields(options)...)...).Output()
			if err != nil {
				t.Fatalf("ipvsadm %s: %v", options, err)
			}
			if theirs = string(out); ours == theirs {
				break
			}
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("ipvsadm -L -n %s (-ipvsadm +lvx):\n%s", options, diff)
		}
	}
}

// list is what "lvx list" prints.
func list(t *testing.T, b *ipvs.Backend, s lb.State, o ipvsadm.View) string {
	t.Helper()
	observed, err := b.Observed()
	if err != nil {
		t.Fatal(err)
	}
	stats, err := b.Stats()
	if err != nil {
		t.Fatal(err)
	}
	conns, err := b.Connections(0)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := ipvsadm.Print(&out, ipvsadm.NewListing(s, observed, stats, nil, conns), o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// randomState draws services of every kind that one line of a listing can
// show.
func randomState(rnd *rand.Rand) lb.State {
	pick := func(n int) int { return rnd.IntN(n) }
	var s lb.State
	for i := range 1 + pick(8) {
		l := lb.Listener{Addr: netip.MustParseAddr([]string{"10.0.0.100", "10.0.0.101", "2001:db8::100"}[pick(3)]), Proto: lb.TCP}
		l.First = uint16(1000*(i+1) + pick(900))
		l.Last = l.First + uint16(pick(2)*pick(50))
		if pick(3) == 0 {
			l.Proto = lb.UDP
		}
		v := lb.Service{
			Name: fmt.Sprint("service-", i), Listeners: []lb.Listener{l}, Scheduler: lb.Schedulers()[pick(9)],
			Flags: lb.SchedFlags(pick(16)), OnePacket: pick(5) == 0,
		}
		if pick(3) == 0 {
			v.Persistence = lb.Persistence{Timeout: time.Duration(1+pick(1000)) * time.Second, Prefix: []int{0, 8, 24, 30}[pick(4)]}
		}
		if pick(4) == 0 {
			v.Mark = uint32(pick(1000) + 1000*i)
		}
		for k := range pick(5) {
			r := lb.Real{Addr: onearm.Real(1 + k), Weight: uint16(pick(3) * pick(200)), Forward: lb.Forward(pick(3))}
			if l.Addr.Is6() {
				r.Addr = onearm.Real6(1 + k)
			}
			if r.Forward == lb.NAT {
				r.Port = uint16(8000 + pick(2000))
			}
			if pick(3) == 0 {
				r.Upper = uint32(2 + pick(10))
				r.Lower = r.Upper - 1
			}
			v.Reals = append(v.Reals, r)
		}
		s.Services = append(s.Services, v)
	}
	s.Timeouts = lb.Timeouts{TCP: time.Duration(100+pick(1000)) * time.Second, UDP: time.Duration(100+pick(100)) * time.Second}
	return s
}

// visit sends a few packets to each service.
func visit(t *testing.T, n *onearm.Net, rnd *rand.Rand, s lb.State) {
	t.Helper()
	for _, v := range s.Services {
		l := v.Listeners[0]
		for i := range rnd.IntN(20) {
			src := netip.AddrFrom4([4]byte{172, 16, byte(rnd.IntN(3)), byte(i % 7)})
			if l.Addr.Is6() {
				src = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", i%7))
			}
			p := onearm.Packet{
				Src: netip.AddrPortFrom(src, uint16(2000+i)), Dst: netip.AddrPortFrom(l.Addr, l.First),
				UDP: l.Proto == lb.UDP, Flags: "S", Payload: make([]byte, rnd.IntN(1200)),
			}
			for _, flags := range []string{"S", "A", "FA"}[:1+rnd.IntN(3)] {
				p.Flags = flags
				if _, err := n.Send(p); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
