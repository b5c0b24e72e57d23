package xdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// xdpSchedulers are those that do not need the kernel.
func xdpSchedulers() []lb.Scheduler {
	return slices.DeleteFunc(lb.Schedulers(), func(s lb.Scheduler) bool { return needsKernel[s] != "" })
}

const limitedReals = "ipvsadm -A -t 10.0.0.100:80 -s rr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g -x 2 -y 1; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g"

// open opens n connections and says who got them.
func (f *facts) open(n int) string {
	return strings.NewReplacer("rs", "", "icmp 3/3", "-").Replace(f.syns(n))
}

// ipvs-facts/08b section 6, ipvs-facts/01: overload by connections that are
// opened and end.
func TestFacts08bThresholds(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(limitedReals)
	f.expect("from none", f.open(8), "2 1 2 1 2 2 2 2")
	first := int(f.port) - 7 // the port of the first connection
	f.expect("table", f.table(web80), "1 2/0 2 6/0")
	o, err := f.Observed()
	must(t, err)
	if r := o.Services[0].Reals[0]; r.Usable || r.Reason != "overloaded: upper_threshold 2" {
		t.Errorf("status says %+v", r)
	}
	f.tcp(first+1, "A")
	f.tcp(first+1, "R")
	f.expect("one of rs1 in CLOSE", f.table(web80), "1 1/1 2 6/0")
	f.expect("still in the table", f.open(2), "2 2")
	f.wait(12)
	f.expect("it has expired", f.table(web80), "1 1/0 2 8/0")
	f.expect("one is not below 1", f.open(3), "2 2 2")
	f.tcp(first+3, "A")
	f.tcp(first+3, "R")
	f.wait(12)
	f.expect("none is left", f.table(web80), "1 0/0 2 11/0")
	f.expect("it gets new ones again", f.open(5), "1 2 1 2 2")
}

// ipvs-facts/08b section 6: a template is followed above the threshold.
func TestFacts08bThresholdsAndTemplates(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(strings.Replace(limitedReals, "-s rr", "-s rr -p 60", 1))
	for _, c := range []struct{ client, who string }{
		{"0.5", "rs2 rs2 rs2 rs2"}, {"0.6", "rs1 rs1 rs1 rs1"}, {"0.7", "rs2"}, {"0.8", "rs2"},
	} {
		var got []string
		for range strings.Fields(c.who) {
			got = append(got, f.from(c.client, "S"))
		}
		f.expect(c.client, strings.Join(got, " "), c.who)
	}
	f.expect("table", f.table(web80), "1 4/0 2 6/0")
}

// Without -y the kernel lets a real back below three quarters of -x; an edit
// that raises -x, or takes it away, lets it back at once.
func TestThresholdDefaultsAndEdits(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s fo; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g -w 9 -x 4; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g -w 1")
	f.expect("fo until it is full", f.open(6), "1 1 1 1 2 2")
	end := func(port int) {
		f.tcp(port, "A")
		f.tcp(port, "R")
		f.wait(12)
	}
	first := int(f.port) - 5
	end(first)
	f.expect("three of four are not below three quarters", f.open(2), "2 2")
	end(first + 1)
	f.expect("two are", f.open(3), "1 1 2")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11 -g -w 9 -x 5")
	f.expect("raised, and not below three quarters of it", f.open(2), "2 2")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11 -g -w 9 -x 8")
	f.expect("raised above what it has by more", f.open(1), "1")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11 -g -w 9")
	f.expect("gone", f.open(2), "1 1")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.11 -g -w 9 -x 3; ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.expect("set below what it has", f.open(2), "- -")
}

// ovf: the heaviest that has no more active connections than weight.
func TestOverflow(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s ovf; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g -w 2; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g -w 1; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.13 -g -w 0")
	f.expect("full at weight + 1", f.open(6), "1 1 1 2 2 -")
}

// A wrr ring of 60,002 slots: a packet does not walk over all of an overloaded
// real's.
func TestThresholdOnALongRing(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s wrr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g -w 60000 -x 1; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g -w 1 -x 2; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.13 -g -w 1 -x 3")
	got := strings.Fields(f.open(8))
	count := map[string]int{}
	for _, who := range got {
		count[who]++
	}
	if s := fmt.Sprint(count); s != "map[-:2 1:1 2:2 3:3]" {
		t.Errorf("connections by real %s of %v", s, got)
	}
}

// A sorry server has no weight to go by: ovf sends all clients there, where the
// kernel's refuses those who come while two are active.
func TestOverflowSparesSorryServer(t *testing.T) {
	s := webService(1)
	s.Scheduler, s.Sorry, s.Reals[0].Weight = lb.OVF, realN(5), 0
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	for n := range uint16(6) {
		for _, flags := range []string{"S", "A"} {
			p := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 50000+n), Dst: web, Flags: flags}
			if got := h.Send(p).Real; got != realN(5) {
				t.Fatalf("client %d, %s: reached %s", n, flags, got)
			}
		}
	}
}
