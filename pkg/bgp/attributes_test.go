package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/testenv"
)

// What the configuration says of routes is on the wire, and a session that takes
// packets from the segment alone stands.
func TestAttributesAreSpoken(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, "ttl security on; bfd on; graceful restart aware;")
	med, localPref := uint32(50), uint32(250)
	d := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.MED, c.LocalPref = &med, &localPref
		c.Communities, c.GracefulRestart = []uint32{directorASN<<16 | 1, directorASN<<16 | 2}, 30*time.Second
		c.Peers[0].GTSM = true
		c.Peers[0].BFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
	})
	d.announce(Route{Addr: vip})
	l.eventually("announced", func() bool { return l.routes(vip) != "" })
	route := l.birdc("show", "route", "for", vip.String(), "all")
	for _, want := range []string{"BGP.med: 50", "(65010,1)", "(65010,2)", "BGP.as_path: 65010\n", "BGP.next_hop: 172.25.0.11\n", "BGP.local_pref: 100\n"} {
		if !strings.Contains(route, want) {
			t.Errorf("the route has no %q:\n%s", want, route)
		}
	}
	session := l.birdc("show", "protocols", "all", "d1")
	_, neighbor, _ := strings.Cut(session, "Neighbor capabilities")
	if !strings.Contains(neighbor, "Restart time: 30") {
		t.Errorf("the director does not offer to restart gracefully within 30 s:\n%s", session)
	}
}

// farConf is a router behind another one; %[2]s is what it asks of sessions.
const farConf = `
router id 10.25.0.50;
log "%[1]s/bird.log" all;
protocol device {}
protocol bgp d1 { local 10.25.0.50 as 65000; neighbor 172.25.0.11 as 65010; %[2]s connect delay time 1; error wait time 1, 2; ipv4 { import all; export none; }; }
`

// Sessions with a router that is two hops away stand, and what is sent there has
// the TTL that the configuration gives it: with GTSM the highest one.
func TestRouterOverHops(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, test := range []struct {
		name, router string
		gtsm         bool
		ttl          uint8
	}{
		{"multihop", "multihop 2;", false, 1},
		{"GTSM", "multihop 2; ttl security on;", true, 254},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newNetwork(t, testenv.Shape{Routed: true})
			l.startBIRD(fmt.Sprintf(farConf, l.dir, test.router))
			wire, err := l.Host("client").Capture("eth0")
			if err != nil {
				t.Fatal(err)
			}
			defer wire.Close()
			d := l.speak("d1", "172.25.0.11", func(c *Config) {
				c.Peers[0].Address, c.Peers[0].Multihop, c.Peers[0].GTSM = netip.MustParseAddr("10.25.0.50"), 2, test.gtsm
			})
			d.announce(Route{Addr: vip})
			l.eventually("announced", func() bool {
				return d.status().IsUp && strings.Contains(l.birdc("show", "route", "for", vip.String(), "all"), "BGP.next_hop: 172.25.0.11\n")
			})
			ttls := map[uint8]int{}
			if _, err := wire.Select(func(f testenv.Frame) bool {
				p := f.Packet()
				ip, isIPv4 := p.NetworkLayer().(*layers.IPv4)
				tcp, isTCP := p.TransportLayer().(*layers.TCP)
				if isIPv4 && isTCP && !f.Out && !tcp.RST { // by which the kernel refuses the router's own attempts
					ttls[ip.TTL]++
				}
				return false
			}); err != nil {
				t.Fatal(err)
			}
			if len(ttls) != 1 || ttls[test.ttl] == 0 {
				t.Errorf("packets of the director by TTL: %v, want %d alone", ttls, test.ttl)
			}
		})
	}
}

// linkLocalConf is a router on a link without other addresses than link-local ones;
// %[2]s is d1's.
const linkLocalConf = `
router id 172.25.0.50;
log "%[1]s/bird.log" all;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol bfd { interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
protocol bgp d1 {
  local as 65000; neighbor %[2]s%%eth0 as 65010; direct; bfd on; hold time 9; connect delay time 1;
  ipv4 { extended next hop on; import all; export none; }; ipv6 { import all; export none; };
}
`

// One session of link-local addresses, with BFD, announces VIPs of both families.
func TestLinkLocalSession(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newNetwork(t, testenv.Shape{})
	l.addIPv6()
	router, director := l.linkLocal("client"), l.linkLocal("d1")
	l.startBIRD(fmt.Sprintf(linkLocalConf, l.dir, director))
	d := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.Peers[0].Address = router.WithZone("eth0")
		c.Peers[0].BFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
	})
	d.announce(Route{Addr: vip}, Route{Addr: vip6})
	l.eventually("VIPs of both families are announced", func() bool {
		return d.status().IsUp && d.status().BFD == "up" &&
			strings.Contains(l.routes(vip), "via inet6 "+director.String()+" ") && strings.Contains(l.routes(vip6), "via "+director.String()+" ")
	})
	d.announce(Route{Addr: vip6})
	l.eventually("the IPv4 one is withdrawn", func() bool { return l.routes(vip) == "" && l.routes(vip6) != "" })
}

// linkLocal is the link-local address of a host's interface.
func (l *lab) linkLocal(host string) netip.Addr {
	l.t.Helper()
	out, err := l.Host(host).Run(l.t.Context(), "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
	if err != nil {
		l.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out, "inet6 ")
	prefix, _, _ := strings.Cut(rest, " ")
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		l.t.Fatal(err)
	}
	return p.Addr()
}

// sameASConf is a router that is of the directors' AS for IPv4, and of another one
// for IPv6.
const sameASConf = `
router id 172.25.0.50;
protocol device {}
protocol bgp same { local 172.25.0.50 as 65000; neighbor 172.25.0.11 as 65000; direct; connect delay time 1; ipv4 { import all; export none; }; }
protocol bgp foreign { local fd00::50 as 65001; neighbor fd00::11 as 65000; direct; connect delay time 1; ipv6 { import all; export none; }; }
`

// A router of the same AS hears the preference that the configuration gives, and
// of a drain by the lowest one: it would take a longer AS path, of its own AS, for
// a loop. A router of another AS beside it hears the longer path as ever.
func TestRoutersOfTheSameASHearPreferences(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newNetwork(t, testenv.Shape{})
	l.addIPv6()
	l.startBIRD(sameASConf)
	pref := uint32(250)
	d := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.ASN, c.LocalPref = routerASN, &pref
		c.Peers = append(c.Peers, Peer{Address: netip.MustParseAddr("fd00::50"), ASN: 65001})
	})
	for _, step := range []struct {
		isDraining bool
		same       []string // of the route to the router of the same AS
		other      string
	}{
		{false, []string{"BGP.local_pref: 250\n", "BGP.as_path: \n", "BGP.next_hop: 172.25.0.11\n"}, "BGP.as_path: 65000\n"},
		{true, []string{"BGP.local_pref: 0\n", "BGP.as_path: \n", "(65535,0)"}, "BGP.as_path: 65000 65000\n"},
		{false, []string{"BGP.local_pref: 250\n", "BGP.as_path: \n"}, "BGP.as_path: 65000\n"},
	} {
		d.announce(Route{vip, step.isDraining}, Route{vip6, step.isDraining})
		route, route6 := "", ""
		l.eventually(fmt.Sprintf("draining %t: %q, %q", step.isDraining, step.same, step.other), func() bool {
			route, route6 = l.birdc("show", "route", "for", vip.String(), "all"), l.birdc("show", "route", "for", vip6.String(), "all")
			for _, want := range step.same {
				if !strings.Contains(route, want) {
					return false
				}
			}
			return strings.Contains(route6, step.other)
		})
		t.Logf("draining %t:\n%s%s", step.isDraining, route, route6)
	}
}
