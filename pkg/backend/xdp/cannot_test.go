package xdp

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// What is kernel IPVS's: SCTP, three schedulers and other ways of forwarding
// (ipvs-facts/09 section 6). One service has one family.
func TestCannot(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	for want, change := range map[string]func(*lb.Service){
		"":                                     func(*lb.Service) {},
		"listeners of both families":           func(s *lb.Service) { s.Listeners[1].Addr, s.Listeners[1].Proto = six, lb.TCP },
		"real 2001:db8::1 of the other family": func(s *lb.Service) { s.Reals[1].Addr = six },
		"sorry_server by nat":                  func(s *lb.Service) { s.Sorry, s.SorryForward = realN(9), lb.NAT },
		"SCTP listener 10.0.0.100:5060/sctp": func(s *lb.Service) {
			s.Listeners[0] = lb.Listener{Addr: vip, Proto: lb.SCTP, First: 5060, Last: 5060}
		},
		"scheduler lblc remembers destinations":  func(s *lb.Service) { s.Scheduler = lb.LBLC },
		"scheduler lblcr remembers destinations": func(s *lb.Service) { s.Scheduler = lb.LBLCR },
		"forward gue with csum": func(s *lb.Service) {
			s.Reals[1].Forward, s.Reals[1].Encap = lb.Tunnel, lb.Encap{Kind: lb.GUE, Port: lb.GUEPort, Checksum: lb.WithChecksum}
		},
		"sorry_server by gre with csum": func(s *lb.Service) {
			s.Sorry, s.SorryForward, s.SorryEncap = realN(9), lb.Tunnel, lb.Encap{Kind: lb.GRE, Checksum: lb.WithChecksum}
		},
		"scheduler twos draws reals at random": func(s *lb.Service) { s.Scheduler = lb.TWOS },
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

// XDP runs services by NAT, but for FTP, and where a reply's port does not name the
// VIP's.
func TestCannotNAT(t *testing.T) {
	for want, change := range map[string]func(*lb.Service){
		"": func(*lb.Service) {},
		"FTP by NAT: its data connections need the kernel's helper": func(s *lb.Service) {
			s.Listeners[0] = lb.Listener{Addr: vip, Proto: lb.TCP, First: 21, Last: 21}
		},
		"forward nat of all ports of 10.0.0.100:80-90/tcp to one port": func(s *lb.Service) {
			s.Listeners[0] = lb.Listener{Addr: vip, Proto: lb.TCP, First: 80, Last: 90}
		},
	} {
		s := webService(2)
		s.Absent = []lb.Real{{Addr: realN(9), Port: 8080, Forward: lb.NAT}}
		change(&s)
		if got := cannot(s, true); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := Supports(s); (err == nil) != (want == "") {
			t.Errorf("%q: error %v", want, err)
		}
	}
}

// What a service by NAT needs of the host is known by its reals' ways.
func TestLackOf(t *testing.T) {
	on := func(device string, isLocal bool) func(netip.Addr) (string, bool) {
		return func(netip.Addr) (string, bool) { return device, isLocal }
	}
	direct, nat, mapped := webService(1), webService(1), natService()
	nat.Reals[0].Forward = lb.NAT
	absent := natService()
	absent.Absent, absent.Reals = absent.Reals, nil
	notServed := "replies of 10.0.0.11 come by eth1, which XDP does not serve (add it to interfaces:)"
	for _, c := range []struct {
		service lb.Service
		way     func(netip.Addr) (string, bool)
		want    string
	}{
		{direct, on("eth1", false), ""}, {nat, on("eth0", false), ""}, {nat, on("", false), ""}, {nat, on("", true), ""},
		{nat, on("eth1", false), notServed}, {mapped, on("eth1", false), notServed}, {absent, on("eth1", false), notServed},
		{mapped, on("", true), "10.0.0.11 is this host, where XDP does not change the port (take the service's port, or backend: ipvs)"},
	} {
		if got := LackOf(c.service, []string{"eth0", "eth2"}, c.way); got != c.want {
			t.Errorf("%+v: %q, want %q", c.service.Reals, got, c.want)
		}
	}
}

// A packet path that was opened without IPv6 says so of a service of IPv6.
func TestCannotIPv6(t *testing.T) {
	for want, change := range map[string]func(*lb.Service){
		"": func(s *lb.Service) {
			s.Reals[0].Forward, s.Reals[1].Forward, s.Reals[1].Addr = lb.Tunnel, lb.Tunnel, realN(1)
		},
		"forward nat with IPv6": func(s *lb.Service) { s.Reals[1].Forward = lb.NAT },
		"forward gue with csum": func(s *lb.Service) {
			s.Reals[1].Forward, s.Reals[1].Encap = lb.Tunnel, lb.Encap{Kind: lb.GUE, Port: lb.GUEPort, Checksum: lb.WithChecksum}
		},
		"real 10.0.0.11 of the other family": func(s *lb.Service) { s.Reals[1].Addr = realN(1) },
	} {
		s := webService6(2)
		change(&s)
		if got := Cannot(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	s := webService6(2)
	b := &Backend{}
	if why, want := b.Cannot(s), "IPv6 listener [2001:db8::100]:80/tcp"+withoutIPv6; why != want {
		t.Errorf("without IPv6: %q, want %q", why, want)
	}
	b.ipv6 = true
	if why := b.Cannot(s); why != "" {
		t.Errorf("with IPv6: %q", why)
	}
}
