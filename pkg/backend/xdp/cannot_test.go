package xdp

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// What is kernel IPVS's: thresholds (ipvs-facts/01, ipvs-facts/08b section 6),
// other ways of forwarding and IPv6 (ipvs-facts/09 section 6).
func TestCannot(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	for want, change := range map[string]func(*lb.Service){
		"":                                   func(*lb.Service) {},
		"IPv6 listener [2001:db8::1]:80/tcp": func(s *lb.Service) { s.Listeners[1].Addr, s.Listeners[1].Proto = six, lb.TCP },
		"IPv6 real 2001:db8::1":              func(s *lb.Service) { s.Reals[1].Addr = six },
		"forward nat":                        func(s *lb.Service) { s.Absent = []lb.Real{{Addr: realN(9), Forward: lb.NAT}} },
		"sorry_server by nat":                func(s *lb.Service) { s.Sorry, s.SorryForward = realN(9), lb.NAT },
		"upper_threshold":                    func(s *lb.Service) { s.Reals[1].Upper = 10 },
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
