package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// An ICMP error whose flow another director carries goes to the real that the
// ring names, and makes no flow: what follows is scheduled as ever.
func TestICMPErrorWithoutAFlowGoesByTheRing(t *testing.T) {
	for _, scheduler := range []lb.Scheduler{lb.SH, lb.DH, lb.MH} {
		t.Run(string(scheduler), func(t *testing.T) {
			s := webService(5)
			s.Scheduler = scheduler
			if scheduler != lb.DH {
				s.Flags = map[lb.Scheduler]lb.SchedFlags{lb.SH: lb.SHPort, lb.MH: lb.MHPort}[scheduler]
			}
			h := serving(t, lb.State{SloppyTCP: true, Services: []lb.Service{s}})
			for port := uint16(4000); port < 4020; port++ {
				for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
					e := endpoints{proto, netip.AddrPortFrom(client.Addr(), port), web}
					before := h.connections()
					errorOwner := macOwner(h.want(icmpErrorOf(3, 4, e, 0), "icmp_forwarded", tx))
					if n := h.connections(); n != before {
						t.Fatalf("an ICMP error has made %d flows", n-before)
					}
					flowOwner := macOwner(h.want(frame(lb.Packet{Proto: proto, Src: e.src, Dst: e.dst, Flags: "A"}), "forwarded", tx))
					if errorOwner != flowOwner {
						t.Errorf("%s port %d: the error to %s, the flow to %s", proto, port, errorOwner, flowOwner)
					}
				}
			}
		})
	}
}

// Where only the flow knows its real, an ICMP error without one is counted.
func TestICMPErrorThatOnlyItsFlowCanPlace(t *testing.T) {
	for name, change := range map[string]func(*lb.State){
		"rr":                      func(s *lb.State) { s.Services[0].Scheduler = lb.RR },
		"lc":                      func(s *lb.State) { s.Services[0].Scheduler = lb.LC },
		"persistent":              func(s *lb.State) { s.Services[0].Persistence.Timeout = time.Minute },
		"no real":                 func(s *lb.State) { s.Services[0].Reals = nil },
		"TCP, not sloppy":         func(s *lb.State) { s.SloppyTCP = false },
		"a client that is denied": func(s *lb.State) { s.Services[0].Deny = []netip.Prefix{netip.PrefixFrom(client.Addr(), 32)} },
	} {
		t.Run(name, func(t *testing.T) {
			s := webService(3)
			s.Scheduler = lb.MH
			state := lb.State{SloppyTCP: true, Services: []lb.Service{s}}
			change(&state)
			serving(t, state).want(icmpError(3, 4, lb.TCP, 0), "icmp_no_flow", pass)
		})
	}
}
