package xdp

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// What is kernel IPVS's: SCTP, three schedulers, other ways of forwarding and IPv6 (ipvs-facts/09 section 6).
func TestCannot(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	for want, change := range map[string]func(*lb.Service){
		"":                                   func(*lb.Service) {},
		"IPv6 listener [2001:db8::1]:80/tcp": func(s *lb.Service) { s.Listeners[1].Addr, s.Listeners[1].Proto = six, lb.TCP },
		"IPv6 real 2001:db8::1":              func(s *lb.Service) { s.Reals[1].Addr = six },
		"forward nat":                        func(s *lb.Service) { s.Absent = []lb.Real{{Addr: realN(9), Forward: lb.NAT}} },
		"sorry_server by nat":                func(s *lb.Service) { s.Sorry, s.SorryForward = realN(9), lb.NAT },
		"SCTP listener 10.0.0.100:5060/sctp": func(s *lb.Service) {
			s.Listeners[0] = lb.Listener{Addr: vip, Proto: lb.SCTP, First: 5060, Last: 5060}
		},
		"scheduler lblc remembers destinations":  func(s *lb.Service) { s.Scheduler = lb.LBLC },
		"scheduler lblcr remembers destinations": func(s *lb.Service) { s.Scheduler = lb.LBLCR },
		"scheduler twos draws reals at random":   func(s *lb.Service) { s.Scheduler = lb.TWOS },
	} {
		s := webService(2)
		change(&s)
		if got := Cannot(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		err := Supports(s)
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrUnsupported) || err.Error() != "service web: "+want+": "+ErrUnsupported.Error()) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}
