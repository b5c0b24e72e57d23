package director

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// What is named exactly is meant, also beside a real that has the port from the service: an
// override that is left of the one can be ended.
func TestExactNameOfAReal(t *testing.T) {
	svc := service("web", 1)
	d := New(Options{Config: configOf(svc)})
	left := netip.AddrPortFrom(svc.Reals[0].Addr, 80)
	d.overrides = Overrides{{Service: "web", Real: left}}
	if got, err := d.findReal("web", left.String(), true); got != left || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// A real is found by the name that listings, the log and mails give it: with the port that
// it serves, also where that is the service's.
func TestRealIsFoundByThePortThatItServes(t *testing.T) {
	svc := service("web", 1, 1, 1)
	svc.Reals[0] = lb.Real{Addr: server(1), Weight: 1, Forward: lb.NAT}
	svc.Reals[1] = lb.Real{Addr: server(1), Port: 8081, Weight: 1, Forward: lb.NAT}
	d := New(Options{Config: configOf(svc)})
	for _, c := range []struct {
		name string
		want netip.AddrPort
		err  string
	}{
		{"10.0.0.11:80", svc.Reals[0].Key(), ""},
		{"10.0.0.11:8081", svc.Reals[1].Key(), ""},
		{"10.0.0.13:80", svc.Reals[2].Key(), ""},
		{"10.0.0.13", svc.Reals[2].Key(), ""},
		{"10.0.0.13:81", netip.AddrPort{}, "real 10.0.0.13:81 of web: not found (there are 10.0.0.11, 10.0.0.11:8081, 10.0.0.13)"},
		{"10.0.0.11", netip.AddrPort{}, "real 10.0.0.11 of web: 2 of them (give ADDR:PORT: there are 10.0.0.11:80, 10.0.0.11:8081)"},
	} {
		got, err := d.findReal("web", c.name, false)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: %v, %v, want %v, %q", c.name, got, err, c.want, c.err)
		}
	}
}
