package judge

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// most is how many reals a service has at most, all reals are from 1 to 7.
const most = 7

// A file is a service as its configuration has it, with reals that are out
// for now.
type file struct {
	lb.Service
	family *family
	out    map[netip.Addr]bool

	// hasReturned says that a real has come back since mh asked last: the kernel's
	// backend took others out and in again, and the kernel forgot what a quiesced one
	// weighed before, by which mh gives it its part of the table
	// (ip_vs_dest.last_weight).
	hasReturned bool
}

// alignWeights is before mh asks what quiesced reals weighed: the same on both sides.
func (f *file) alignWeights() {
	if f.Scheduler != lb.MH || !f.hasReturned {
		return
	}
	f.hasReturned = false
	f.Reals = slices.Clone(f.Reals)
	for i := range f.Reals {
		f.Reals[i].Weight = max(f.Reals[i].Weight, 1)
	}
}

// compile is what the service's checks leave of it.
func (f file) compile() lb.Service {
	s := f.Service
	s.Reals, s.Absent = nil, nil
	for _, r := range f.Reals {
		if s.Scheduler == lb.RR || s.Scheduler == lb.WRR {
			r.Upper, r.Lower = 0, 0 // lvx gets more probes, and they count
		}
		if f.out[r.Addr] {
			s.Absent = append(s.Absent, r)
		} else {
			s.Reals = append(s.Reals, r)
		}
	}
	return s
}

// compile puts the files into the state that is applied next.
func (t *trial) compile() {
	t.state = t.state.Clone()
	t.state.Services = nil
	for _, f := range t.files {
		t.state.Services = append(t.state.Services, f.compile())
	}
}

func (t *trial) drawState() {
	t.state = lb.State{
		SloppyTCP: chance(t.rnd, 4), ExpireNodestConn: !chance(t.rnd, 2), ExpireQuiescentTempl: chance(t.rnd, 3),
	}
	if chance(t.rnd, 3) {
		t.state.Timeouts = lb.Timeouts{TCP: 200 * time.Second, TCPFin: 40 * time.Second, UDP: 80 * time.Second}
	}
	for i := range 1 + t.rnd.IntN(4) {
		t.drawService(i)
	}
	t.compile()
}

// listeners are those of a family that nobody has.
func (t *trial) listeners(of *family) []lb.Listener {
	var free []lb.Listener
	for _, v := range of.vips {
		for _, p := range []lb.Protocol{lb.TCP, lb.UDP} {
			for _, r := range [][2]uint16{{80, 80}, {443, 443}, {53, 53}, {8000, 8020}, {0, 0}} {
				l := lb.Listener{Addr: v, Proto: p, First: r[0], Last: r[1]}
				taken := func(f file) bool { return slices.Contains(f.Listeners, l) }
				if !slices.ContainsFunc(t.files, taken) {
					free = append(free, l)
				}
			}
		}
	}
	return free
}

func (t *trial) drawService(i int) {
	f := file{family: pick(t.rnd, ipv4, ipv6), out: map[netip.Addr]bool{}}
	f.Name = fmt.Sprintf("s%d", i)
	for range 1 + t.rnd.IntN(3)*t.rnd.IntN(2) {
		l := pick(t.rnd, t.listeners(f.family)...)
		if !slices.Contains(f.Listeners, l) {
			f.Listeners = append(f.Listeners, l)
		}
	}
	if chance(t.rnd, 3) {
		f.Persistence.Timeout = time.Duration(pick(t.rnd, 30, 90, 150, 360)) * time.Second
		f.Persistence.Prefix = pick(t.rnd, f.family.prefixes...)
	}
	// The kernel has every port of an address for persistent services only.
	if f.ByMark() || f.Listeners[0].EveryPort() && !f.Persistence.Enabled() || chance(t.rnd, 5) {
		f.Mark = uint32(100 + i)
	}
	f.OnePacket = chance(t.rnd, 8)
	if chance(t.rnd, 3) {
		f.Sorry = f.family.real(9) // not the director: of its own answers XDP sees nothing
	}
	t.drawScheduler(&f.Service)
	for n := 1; n <= most; n++ {
		if chance(t.rnd, 2) {
			f.Reals = append(f.Reals, t.drawReal(&f, n))
		}
	}
	if chance(t.rnd, 4) {
		t.drawThresholds(f.Reals)
	}
	t.rnd.Shuffle(len(f.Reals), func(a, b int) { f.Reals[a], f.Reals[b] = f.Reals[b], f.Reals[a] })
	t.files = append(t.files, f)
}

// drawReal is the n-th real of a service, by any way of forwarding.
func (t *trial) drawReal(f *file, n int) lb.Real {
	r := lb.Real{Addr: f.family.real(n), Weight: t.drawWeight(), Forward: pick(t.rnd, f.family.forwards...)}
	if r.Forward == lb.Tunnel {
		r.Encap = pick(t.rnd, lb.Encap{}, lb.Encap{Kind: lb.GRE}, lb.Encap{Kind: lb.GUE, Port: lb.GUEPort}, lb.Encap{Kind: lb.GUE, Port: 5555})
		if chance(t.rnd, 2) {
			r.Addr = f.family.other().real(n)
		}
	}
	if r.Forward == lb.NAT && !f.ByMark() && f.Listeners[0].Width() == 1 && chance(t.rnd, 2) {
		r.Port = 8080
	}
	return r
}

// schedulers are those that run in XDP.
var schedulers = slices.DeleteFunc(lb.Schedulers(), func(s lb.Scheduler) bool {
	return xdp.Cannot(lb.Service{Scheduler: s}) != ""
})

func (t *trial) drawScheduler(s *lb.Service) {
	s.Scheduler = pick(t.rnd, schedulers...)
	for s.Sorry.IsValid() && (s.Scheduler == lb.DH || s.Scheduler == lb.OVF) {
		// While a sorry server stands in, the kernel's dh gives quiesced reals
		// their share; its ovf refuses who comes when as many clients are there
		// as the sorry server has weight, and one more.
		s.Scheduler = pick(t.rnd, schedulers...)
	}
	s.Flags = 0
	switch s.Scheduler {
	case lb.SH:
		s.Flags = pick(t.rnd, 0, lb.SHPort, lb.SHFallback, lb.SHPort|lb.SHFallback)
		if s.Sorry.IsValid() {
			s.Flags |= lb.SHFallback // without it sh does as dh
		}
	case lb.MH:
		s.Flags = pick(t.rnd, 0, lb.MHPort, lb.MHFallback, lb.MHPort|lb.MHFallback)
	}
}

// drawThresholds gives some reals as few connections as a step can open.
func (t *trial) drawThresholds(reals []lb.Real) {
	for i := range reals {
		if chance(t.rnd, 2) {
			reals[i].Upper = pick[uint32](t.rnd, 1, 2, 3, 5)
			reals[i].Lower = pick(t.rnd, 0, 0, reals[i].Upper, (reals[i].Upper+1)/2)
		}
	}
}

func (t *trial) drawWeight() uint16 { return pick[uint16](t.rnd, 0, 1, 1, 1, 2, 3, 4, 6) }
