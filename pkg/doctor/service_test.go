package doctor

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestServicesThatAreDownAreFound(t *testing.T) {
	st := director.Status{Services: []director.ServiceStatus{
		{Name: "fine", State: "up", Reals: []director.RealStatus{{Addr: netip.MustParseAddr("10.0.0.11"), State: "up"}}},
		{Name: "web", State: "down", Reason: "no quorum", Reals: []director.RealStatus{
			{Addr: netip.MustParseAddr("10.0.0.12"), State: "down", Reason: "connection refused"},
		}},
		{Name: "dns", State: "sorry"},
	}}
	var got []string
	for _, w := range Services(st) {
		got = append(got, w.Kind+" "+w.Subject+": "+w.Text)
	}
	want := []string{
		"service-down service web: no real takes connections: no quorum",
		"real-down real 10.0.0.12: down in web: connection refused",
		"service-down service dns: its sorry server answers",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Whoever looks at the real is told the whole command.
func TestTheCureOfARealNamesItsVIPs(t *testing.T) {
	st := director.Status{Services: []director.ServiceStatus{{
		Name: "web", State: "up", Reals: []director.RealStatus{{Addr: netip.MustParseAddr("10.0.0.12"), State: "down"}},
		Listeners: []string{"10.0.0.100:80/tcp", "10.0.0.100:8000-8100/tcp", "10.0.0.101:*/udp", "[2001:db8::100]:443/tcp"},
	}}}
	const want = "see lvx history --subject web; on the real: lvx real status --vip 10.0.0.100 --vip 10.0.0.101 --vip 2001:db8::100"
	if found := Services(st); len(found) != 1 || found[0].Cure != want {
		t.Errorf("found %+v, want the cure %q", found, want)
	}
}

// What a real has to have follows from how packets get to it.
func TestTheCureOfARealGoesByItsWay(t *testing.T) {
	for _, c := range []struct {
		real lb.Real
		want string
	}{
		{lb.Real{Forward: lb.DR}, "; on the real: lvx real status --vip 10.0.0.100"},
		{lb.Real{Forward: lb.NAT}, ""},
		{lb.Real{Forward: lb.Tunnel}, "; on the real: lvx real status --vip 10.0.0.100 --tunnel ipip"},
		{lb.Real{Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: 5555}}, "; on the real: lvx real status --vip 10.0.0.100 --tunnel gue:5555"},
		{lb.Real{Addr: netip.MustParseAddr("2001:db8::12"), Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: lb.GUEPort}}, "; on the real: lvx real status --vip 10.0.0.100 --tunnel gue6"},
		{lb.Real{Addr: netip.MustParseAddr("2001:db8::12"), Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GRE}}, "; on the real: lvx real status --vip 10.0.0.100 --tunnel gre6"},
	} {
		found := Services(director.Status{Services: []director.ServiceStatus{{
			Name: "web", State: "up", Listeners: []string{"10.0.0.100:80/tcp"},
			Reals: []director.RealStatus{{Addr: c.real.Addr, State: "down", Forward: c.real.Forward.String(), Tunnel: c.real.TunnelName()}},
		}}})
		if want := "see lvx history --subject web" + c.want; len(found) != 1 || found[0].Cure != want {
			t.Errorf("%+v: found %+v, want the cure %q", c.real, found, want)
		}
	}
}

func TestVIPsOfADeadDaemonAreFound(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.100")
	svc := config.Service{Service: lb.Service{Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}, {Addr: vip, Proto: lb.TCP, First: 81, Last: 81}}}}
	c := Case{Config: &config.Config{Services: []config.Service{svc}}, Has: func(a netip.Addr) bool { return a == vip }, IsDead: true}
	found := c.Abandoned(errors.New("no lvx runs here"))
	if len(found) != 1 || found[0].Subject != "VIP 10.0.0.100" || found[0].Text != "on this host, but no lvx runs here" {
		t.Errorf("found %+v", found)
	}
	c.Has = func(netip.Addr) bool { return false }
	if found := c.Abandoned(errors.New("no lvx runs here")); len(found) != 0 {
		t.Errorf("without a VIP: %+v", found)
	}
}

// A daemon that cannot be asked is a finding, also on a backup, which has no VIP.
func TestFault19ADaemonThatTalksNonsenseIsAFinding(t *testing.T) {
	c := Case{Config: &config.Config{}, Has: func(netip.Addr) bool { return false }}
	found := c.Abandoned(errors.New("answer of the daemon: unexpected EOF"))
	if len(found) != 1 || found[0].Kind != OddDaemon || found[0].Subject != "daemon" || found[0].Note {
		t.Errorf("found %+v", found)
	}
}
