package ipvs

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cloudflare/ipvs"
	"github.com/cloudflare/ipvs/netmask"
	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

var comparable = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netmask.Mask) bool { return a == b }),
	cmp.AllowUnexported(virtual{}),
}

var (
	whole4 = netmask.MaskFrom(32, 32)
	whole6 = netmask.MaskFrom(128, 128)
)

// TestVirtuals: how a service looks to the kernel.
func TestVirtuals(t *testing.T) {
	rs := reals(2)
	d := func(change func(*ipvs.Destination)) []ipvs.Destination {
		e := ipvs.Destination{Address: rs[0].Addr, Port: 80, Family: ipvs.INET, Weight: 2, FwdMethod: ipvs.DirectRoute}
		change(&e)
		return []ipvs.Destination{e}
	}
	basic := ipvs.Service{Address: vip, Port: 80, Protocol: ipvs.TCP, Family: ipvs.INET, Scheduler: "rr", Netmask: whole4}
	with := func(change func(*ipvs.Service)) ipvs.Service { s := basic; change(&s); return s }
	for _, c := range []struct {
		name  string
		svc   func(*lb.Service)
		want  ipvs.Service
		reals []ipvs.Destination
	}{
		{"plain", func(*lb.Service) {}, basic, d(func(*ipvs.Destination) {})},
		{
			"udp, one packet", func(s *lb.Service) { s.Listeners[0].Proto, s.OnePacket = lb.UDP, true },
			with(func(s *ipvs.Service) { s.Protocol, s.Flags = ipvs.UDP, ipvs.ServiceOnePacket }), d(func(*ipvs.Destination) {}),
		},
		{
			"persistence", func(s *lb.Service) { s.Persistence = lb.Persistence{Timeout: 6 * time.Minute, Prefix: 24} },
			with(func(s *ipvs.Service) {
				s.Flags, s.Timeout, s.Netmask = ipvs.ServicePersistent, 360, netmask.MaskFrom(24, 32)
			}),
			d(func(*ipvs.Destination) {}),
		},
		{
			"flags of sh", func(s *lb.Service) { s.Scheduler, s.Flags = lb.SH, lb.SHFallback|lb.SHPort|lb.MHPort },
			with(func(s *ipvs.Service) {
				s.Scheduler, s.Flags = "sh", ipvs.ServiceSchedulerOpt1|ipvs.ServiceSchedulerOpt2
			}),
			d(func(*ipvs.Destination) {}),
		},
		{
			"flags of mh", func(s *lb.Service) { s.Scheduler, s.Flags = lb.MH, lb.SHFallback|lb.MHPort },
			with(func(s *ipvs.Service) { s.Scheduler, s.Flags = "mh", ipvs.ServiceSchedulerOpt2 }), d(func(*ipvs.Destination) {}),
		},
		{
			"flags of another scheduler", func(s *lb.Service) { s.Flags = lb.SHFallback | lb.MHFallback },
			basic, d(func(*ipvs.Destination) {}),
		},
		{
			"nat to another port", func(s *lb.Service) { s.Reals[0].Forward, s.Reals[0].Port = lb.NAT, 8080 },
			basic, d(func(d *ipvs.Destination) { d.FwdMethod, d.Port = ipvs.Masquerade, 8080 }),
		},
		{
			"direct routing keeps the port", func(s *lb.Service) { s.Reals[0].Port = 8080 },
			basic, d(func(*ipvs.Destination) {}),
		},
		{
			"tunnel, thresholds", func(s *lb.Service) {
				s.Reals[0].Forward, s.Reals[0].Upper, s.Reals[0].Lower = lb.Tunnel, 10, 5
			},
			basic, d(func(d *ipvs.Destination) { d.FwdMethod, d.UpperThreshold, d.LowerThreshold = ipvs.Tunnel, 10, 5 }),
		},
		{
			"gue", func(s *lb.Service) {
				s.Reals[0].Forward, s.Reals[0].Encap = lb.Tunnel, lb.Encap{Kind: lb.GUE, Port: 5555, Checksum: lb.RemoteChecksum}
			},
			basic, d(func(d *ipvs.Destination) {
				d.FwdMethod, d.TunnelType, d.TunnelPort, d.TunnelFlags = ipvs.Tunnel, ipvs.GUE, 5555, ipvs.TunnelEncapRemoteChecksum
			}),
		},
		{
			"gre", func(s *lb.Service) {
				s.Reals[0].Forward, s.Reals[0].Encap = lb.Tunnel, lb.Encap{Kind: lb.GRE, Checksum: lb.WithChecksum}
			},
			basic, d(func(d *ipvs.Destination) {
				d.FwdMethod, d.TunnelType, d.TunnelFlags = ipvs.Tunnel, ipvs.GRE, ipvs.TunnelEncapChecksum
			}),
		},
		{
			"a tunnel to the other family", func(s *lb.Service) {
				s.Reals[0].Forward, s.Reals[0].Addr = lb.Tunnel, netip.MustParseAddr("2001:db8::11")
			},
			basic, d(func(d *ipvs.Destination) {
				d.FwdMethod, d.Address, d.Family = ipvs.Tunnel, netip.MustParseAddr("2001:db8::11"), ipvs.INET6
			}),
		},
		{
			"SCTP, a scheduler of the kernel's alone", func(s *lb.Service) { s.Listeners[0].Proto, s.Scheduler = lb.SCTP, lb.LBLCR },
			with(func(s *ipvs.Service) { s.Protocol, s.Scheduler = ipvs.SCTP, "lblcr" }), d(func(*ipvs.Destination) {}),
		},
		{
			"mark", func(s *lb.Service) { s.Mark = 3 },
			ipvs.Service{FWMark: 3, Family: ipvs.INET, Scheduler: "rr", Netmask: whole4}, d(func(d *ipvs.Destination) { d.Port = 0 }),
		},
		{
			"every port", func(s *lb.Service) { s.Listeners[0].First, s.Listeners[0].Last = 0, 0 },
			ipvs.Service{FWMark: firstMark, Family: ipvs.INET, Scheduler: "rr", Netmask: whole4}, d(func(d *ipvs.Destination) { d.Port = 0 }),
		},
		{
			"every port, persistent", func(s *lb.Service) {
				s.Listeners[0].First, s.Listeners[0].Last = 0, 0
				s.Persistence.Timeout = time.Minute
			},
			with(func(s *ipvs.Service) { s.Port, s.Flags, s.Timeout = 0, ipvs.ServicePersistent, 60 }),
			d(func(d *ipvs.Destination) { d.Port = 0 }),
		},
	} {
		s := web(reals(2))
		c.svc(&s)
		errs := wrong(state(s), nil)
		p := newPlan(state(s), lb.State{}, nil, nil)
		want := []virtual{{name: "web", svc: c.want, reals: c.reals}}
		if diff := cmp.Diff(want, p.virtuals, comparable...); diff != "" || len(errs) > 0 {
			t.Errorf("%s: errors %v (-want +got):\n%s", c.name, errs, diff)
		}
	}
}

// TestVirtualsOfBothFamilies: a group with IPv4 and IPv6 listeners is two
// services of the kernel, each with its own reals.
func TestVirtualsOfBothFamilies(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::11")
	s := web(append(reals(0), lb.Real{Addr: six, Weight: 1}), "10.0.0.100:80/tcp", "[2001:db8::100]:80/tcp")
	s.Mark = 9
	s.Sorry = netip.MustParseAddr("10.0.0.14")
	errs := wrong(state(s), nil)
	p := newPlan(state(s), lb.State{}, nil, nil)
	four := []ipvs.Destination{
		{Address: reals(0)[0].Addr, Family: ipvs.INET, FwdMethod: ipvs.DirectRoute},
		{Address: s.Sorry, Family: ipvs.INET, FwdMethod: ipvs.DirectRoute, Weight: 1},
	}
	want := []virtual{
		{"web", ipvs.Service{FWMark: 9, Family: ipvs.INET, Scheduler: "rr", Netmask: whole4}, four, nil},
		{
			"web", ipvs.Service{FWMark: 9, Family: ipvs.INET6, Scheduler: "rr", Netmask: whole6},
			[]ipvs.Destination{{Address: six, Family: ipvs.INET6, FwdMethod: ipvs.DirectRoute, Weight: 1}}, nil,
		},
	}
	if diff := cmp.Diff(want, p.virtuals, comparable...); diff != "" || len(errs) > 0 {
		t.Errorf("errors %v (-want +got):\n%s", errs, diff)
	}
}

// TestSorryByNAT: a sorry server is reached its own way, on its own port.
func TestSorryByNAT(t *testing.T) {
	s := web(reals(0))
	s.Sorry, s.SorryPort, s.SorryForward = netip.MustParseAddr("10.1.0.9"), 8080, lb.NAT
	got := newPlan(state(s), lb.State{}, nil, nil).virtuals[0].reals
	want := ipvs.Destination{Address: s.Sorry, Port: 8080, Family: ipvs.INET, FwdMethod: ipvs.Masquerade, Weight: 1}
	if diff := cmp.Diff(want, got[len(got)-1], comparable...); diff != "" {
		t.Errorf("sorry server (-want +got):\n%s", diff)
	}
}

// TestSorryIsReal: a sorry server that is one of the quiesced reals takes its
// place.
func TestSorryIsReal(t *testing.T) {
	s := web(reals(0, 0))
	s.Sorry = s.Reals[0].Addr
	p := newPlan(state(s), lb.State{}, nil, nil)
	got := p.virtuals[0].reals
	if len(got) != 2 || got[1].Address != s.Sorry || got[1].Weight != 1 {
		t.Errorf("reals %+v", got)
	}
}

func TestTimeouts(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Timeouts: lb.Timeouts{UDP: 90 * time.Second}}
	p := newPlan(s, lb.State{}, nil, nil)
	if p.timeouts != (ipvs.Config{TCPTimeout: 900, TCPFinTimeout: 120, UDPTimeout: 90}) {
		t.Errorf("timeouts %+v", p.timeouts)
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		svc  ipvs.Service
		want string
	}{
		{ipvs.Service{Address: vip, Port: 80, Protocol: ipvs.TCP, Family: ipvs.INET}, "TCP 10.0.0.100:80"},
		{ipvs.Service{Address: netip.MustParseAddr("2001:db8::1"), Port: 53, Protocol: ipvs.UDP, Family: ipvs.INET6}, "UDP [2001:db8::1]:53"},
		{ipvs.Service{FWMark: 7, Family: ipvs.INET}, "FWM 7"},
		{ipvs.Service{FWMark: 7, Family: ipvs.INET6}, "FWM 7 IPv6"},
	} {
		k := keyOf(c.svc)
		if k.String() != c.want || k.service() != c.svc {
			t.Errorf("key %s of %+v gives back %+v", k, c.svc, k.service())
		}
	}
}
