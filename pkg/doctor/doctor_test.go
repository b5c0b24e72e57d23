package doctor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// fake is a host where all is well, unless a test changes it.
type fake struct {
	owners  map[string][]neigh.MAC
	routes  map[string]Route
	iface   Interface
	sysctls map[string]string
	marks   []string
	hides   []string // what masquerades packets to reals,
	hidden  []string // and from them
	asked   []string
	err     error
}

func (f *fake) Owners(_ context.Context, _ string, a netip.Addr) ([]neigh.MAC, error) {
	return f.owners[a.String()], f.err
}

func (f *fake) Route(a netip.Addr) (Route, error) {
	r, ok := f.routes[a.String()]
	if !ok {
		return Route{}, errors.New("network is unreachable")
	}
	return r, nil
}

func (f *fake) Interface(string) (Interface, error) { return f.iface, nil }
func (f *fake) Sysctl(key string) (string, error)   { return f.sysctls[key], nil }

func (f *fake) Marks(served []lb.Listener, _ []string) ([]string, error) {
	for _, l := range served {
		f.asked = append(f.asked, l.String())
	}
	return f.marks, f.err
}

func (f *fake) Masquerading(from, _ netip.Addr, _ string) ([]string, error) {
	if from.IsValid() {
		return f.hidden, f.err
	}
	return f.hides, f.err
}

var (
	vip     = netip.MustParseAddr("192.0.2.100")
	first   = netip.MustParseAddr("192.0.2.11")
	second  = netip.MustParseAddr("192.0.2.12")
	macs    = map[string][]neigh.MAC{first.String(): {{2, 11}}, second.String(): {{2, 12}}}
	healthy = Interface{MTU: 1500, IsNative: true, IsDefault: true}
)

// healthyCase is a director that has nothing wrong.
func healthyCase() (Case, *fake) {
	cfg := &config.Config{Interfaces: []string{"eth0"}, Services: []config.Service{{Service: lb.Service{
		Name: "web", Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}},
		Reals: []lb.Real{{Addr: first, Weight: 1}, {Addr: second, Weight: 1}},
	}}}}
	way := Route{Device: "eth0", MTU: 1500}
	return Case{Config: cfg, Has: func(netip.Addr) bool { return true }}, &fake{
		owners: map[string][]neigh.MAC{first.String(): macs[first.String()], second.String(): macs[second.String()]},
		routes: map[string]Route{first.String(): way, second.String(): way}, iface: healthy,
	}
}

// plantOuterSource has a real behind a tunnel from a network.
func plantOuterSource(c *Case, _ *fake) {
	c.Config.Services[0].Reals[0].Forward = lb.Tunnel
	c.Config.OuterSources = []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}
}

func TestFindings(t *testing.T) {
	for name, test := range map[string]struct {
		plant func(c *Case, f *fake)
		want  []string // kind and subject
	}{
		"nothing": {func(*Case, *fake) {}, nil},
		"a real answers": {
			func(_ *Case, f *fake) { f.owners[vip.String()] = []neigh.MAC{{2, 12}} },
			[]string{"real-answers-arp real 192.0.2.12"},
		},
		"a stranger answers": {
			func(_ *Case, f *fake) { f.owners[vip.String()] = []neigh.MAC{{2, 99}} },
			[]string{"vip-elsewhere VIP 192.0.2.100"},
		},
		"the backup has taken over from a dead daemon": {
			func(c *Case, f *fake) { f.owners[vip.String()], c.IsDead = []neigh.MAC{{2, 99}}, true }, nil,
		},
		"the master answers": {
			func(c *Case, f *fake) {
				f.owners[vip.String()], c.Has = []neigh.MAC{{2, 99}}, func(netip.Addr) bool { return false }
				c.Config.VRRP = []vrrp.Instance{{Interface: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}}
			}, nil,
		},
		"the master answers, which is a real": {
			func(c *Case, f *fake) {
				f.owners[vip.String()], c.Has = []neigh.MAC{{2, 12}}, func(netip.Addr) bool { return false }
				c.Directors = []netip.Addr{second}
			}, nil,
		},
		"another director that is a real answers, too": {
			func(c *Case, f *fake) {
				f.owners[vip.String()], c.Directors = []neigh.MAC{{2, 12}}, []netip.Addr{second}
			},
			[]string{"vip-elsewhere VIP 192.0.2.100"},
		},
		"a real and a stranger": {
			func(_ *Case, f *fake) { f.owners[vip.String()] = []neigh.MAC{{2, 11}, {2, 99}} },
			[]string{"vip-elsewhere VIP 192.0.2.100", "real-answers-arp real 192.0.2.11"},
		},
		"the MAC is known": {
			func(c *Case, f *fake) {
				c.MACs = map[neigh.MAC]netip.Addr{{2, 77}: first}
				f.owners[vip.String()] = []neigh.MAC{{2, 77}}
			}, []string{"real-answers-arp real 192.0.2.11"},
		},
		"the VIP is a real": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Addr = vip
				f.routes[vip.String()] = Route{Device: "eth0", MTU: 1500}
			}, []string{"vip-is-real VIP 192.0.2.100"},
		},
		"a gateway": {
			func(_ *Case, f *fake) { f.routes[first.String()] = Route{Device: "eth0", MTU: 1500, IsGateway: true} },
			[]string{"real-off-segment real 192.0.2.11"},
		},
		"a gateway, by NAT": {
			func(c *Case, f *fake) {
				f.routes[first.String()] = Route{Device: "eth0", MTU: 1500, IsGateway: true}
				c.Config.Services[0].Reals[0].Forward = lb.NAT
			}, nil,
		},
		"no way": {
			func(_ *Case, f *fake) { delete(f.routes, second.String()) },
			[]string{"real-off-segment real 192.0.2.12"},
		},
		"a narrow way": {
			func(_ *Case, f *fake) { f.routes[second.String()] = Route{Device: "eth1", MTU: 1400} },
			[]string{"small-mtu real 192.0.2.12"},
		},
		"a narrow way for a tunnel, behind a gateway": {
			func(c *Case, f *fake) {
				f.routes[second.String()] = Route{Device: "eth1", MTU: 1400, IsGateway: true}
				c.Config.Services[0].Reals[1].Forward = lb.Tunnel
			}, []string{"small-mtu real 192.0.2.12"},
		},
		"a tunnel over a way as wide as the segment": {
			func(c *Case, f *fake) {
				f.routes[second.String()] = Route{Device: "eth1", MTU: 1500, IsGateway: true}
				c.Config.Services[0].Reals[1].Forward = lb.Tunnel
			}, nil,
		},
		"a gateway, by a tunnel to one service and direct routing to another": {
			func(c *Case, f *fake) {
				f.routes[first.String()] = Route{Device: "eth0", MTU: 1500, IsGateway: true}
				shareReal(c, "tunnels", lb.Tunnel)
			}, []string{"real-off-segment real 192.0.2.11"},
		},
		"merged packets and a tunnel": {
			func(c *Case, f *fake) {
				f.iface.IsNative, f.iface.IsGeneric, f.iface.HasGRO = false, true, true
				c.Config.Services[0].Reals[1].Forward = lb.Tunnel
			}, []string{"merged-packets interface eth0"},
		},
		"merged packets and a tunnel, by IPVS": {
			func(c *Case, f *fake) {
				f.iface.IsNative, f.iface.HasGRO = false, true
				c.Config.Services[0].Reals[1].Forward = lb.Tunnel
			}, nil,
		},
		"merged packets, no tunnel": {
			func(_ *Case, f *fake) { f.iface.IsNative, f.iface.IsGeneric, f.iface.HasGRO = false, true, true }, nil,
		},
		"frames are lost": {
			func(_ *Case, f *fake) { f.iface.LacksPeer = true },
			[]string{"lost-frames interface eth0"},
		},
		"frames are lost by a bridge": {
			func(_ *Case, f *fake) { f.iface.Bridge = "br0" },
			[]string{"lost-frames interface eth0"},
		},
		"generic mode loses none by a bridge": {
			func(_ *Case, f *fake) { f.iface.Bridge, f.iface.IsNative = "br0", false }, nil,
		},
		"generic mode loses none": {
			func(_ *Case, f *fake) { f.iface.LacksPeer, f.iface.IsNative = true, false }, nil,
		},
		"strict filter, a local real": {
			func(_ *Case, f *fake) {
				f.routes[first.String()] = Route{IsLocal: true}
				f.iface.IsDefault, f.sysctls = false, map[string]string{"net.ipv4.conf.eth0.rp_filter": "1", "net.ipv4.conf.all.rp_filter": "0"}
			}, []string{"rp-filter interface eth0"},
		},
		"loose filter wins": {
			func(_ *Case, f *fake) {
				f.routes[first.String()] = Route{IsLocal: true}
				f.iface.IsDefault, f.sysctls = false, map[string]string{"net.ipv4.conf.eth0.rp_filter": "2", "net.ipv4.conf.all.rp_filter": "1"}
			}, nil,
		},
		"strict filter, no local real": {
			func(_ *Case, f *fake) {
				f.iface.IsDefault, f.sysctls = false, map[string]string{"net.ipv4.conf.all.rp_filter": "1"}
			}, nil,
		},
		"a mark": {
			func(_ *Case, f *fake) { f.marks = []string{"netfilter would mark packets"} },
			[]string{"bypassed-mark firewall"},
		},
		"a mark, and NAT by the kernel": {
			func(c *Case, f *fake) {
				f.marks = []string{"netfilter would mark packets"}
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				c.OnIPVS = map[string]bool{"web": true}
			}, nil,
		},
		"NAT, and nothing is forwarded": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				f.sysctls = map[string]string{"net.ipv4.ip_forward": "0"}
			}, []string{"no-forwarding sysctl net.ipv4.ip_forward"},
		},
		"NAT, and all is forwarded": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				f.sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
			}, nil,
		},
		"NAT, and clients are hidden": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				f.hides = []string{"table ip nat, chain POSTROUTING, handle 2"}
			}, []string{"bypassed-masquerade real 192.0.2.11"},
		},
		"NAT, and clients are hidden if the kernel tracked connections": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				f.hides, f.sysctls = []string{"rule"}, map[string]string{"net.ipv4.vs.conntrack": "0"}
			}, nil,
		},
		"NAT by the kernel, and clients are hidden": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward, f.hides = lb.NAT, []string{"rule"}
				c.OnIPVS = map[string]bool{"web": true}
			}, nil,
		},
		"NAT by the kernel and by XDP, and clients are hidden": {
			func(c *Case, f *fake) {
				shareReal(c, "web2", lb.NAT)
				c.Config.Services[0].Reals[0].Forward, f.hides = lb.NAT, []string{"rule"}
				c.OnIPVS = map[string]bool{"web": true}
			}, []string{"bypassed-masquerade real 192.0.2.11"},
		},
		"NAT of UDP, and the VIP is hidden": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward, c.Config.Services[0].Listeners[0].Proto = lb.NAT, lb.UDP
				f.hidden = []string{"rule"}
			}, []string{"masqueraded-vip VIP 192.0.2.100"},
		},
		"NAT of UDP by the kernel, and the VIP is hidden": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward, c.Config.Services[0].Listeners[0].Proto = lb.NAT, lb.UDP
				f.hidden, c.OnIPVS = []string{"rule"}, map[string]bool{"web": true}
			}, nil,
		},
		"UDP without NAT, and the VIP is hidden": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Listeners[0].Proto, f.hidden = lb.UDP, []string{"rule"}
			}, nil,
		},
		"no NAT, and clients are hidden": {func(_ *Case, f *fake) { f.hides = []string{"rule"} }, nil},
		"NAT of private reals": {
			plantPrivate, []string{"note: no-masquerade real 10.0.0.11"},
		},
		"NAT of private reals, masqueraded": {
			func(c *Case, f *fake) {
				plantPrivate(c, f)
				f.hidden = []string{"rule"}
			}, nil,
		},
		"NAT of private reals, and the way out is elsewhere": {
			func(c *Case, f *fake) {
				plantPrivate(c, f)
				f.iface.IsDefault = false
			}, nil,
		},
		"no NAT, and nothing is forwarded": {
			func(_ *Case, f *fake) { f.sysctls = map[string]string{"net.ipv4.ip_forward": "0"} }, nil,
		},
		"tunnels from elsewhere": {
			func(c *Case, f *fake) {
				plantOuterSource(c, f)
				f.routes["192.0.2.65"] = Route{Device: "lo", IsLocal: true} // the host's own
			}, []string{"foreign-outer-source outer_source 192.0.2.64/26"},
		},
		"tunnels from a network of the host's": {
			func(c *Case, f *fake) {
				plantOuterSource(c, f)
				for _, a := range []string{"192.0.2.65", "192.0.2.66"} {
					f.routes[a] = Route{Device: "lo", IsLocal: true}
				}
			}, nil,
		},
		"tunnels of the other family, from elsewhere": {
			func(c *Case, f *fake) {
				plantOuterSource(c, f)
				c.Config.OuterSources = []netip.Prefix{netip.MustParsePrefix("2001:db8:f::1/128")}
			}, nil,
		},
		"tunnels by the kernel, from elsewhere": {
			func(c *Case, f *fake) {
				plantOuterSource(c, f)
				c.OnIPVS = map[string]bool{"web": true}
			}, nil,
		},
		"NAT by another interface": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				f.routes[first.String()] = Route{Device: "eth1", MTU: 1500}
			}, []string{"not-served real 192.0.2.11"},
		},
		"NAT by another interface, by the kernel": {
			func(c *Case, f *fake) {
				c.Config.Services[0].Reals[0].Forward = lb.NAT
				f.routes[first.String()] = Route{Device: "eth1", MTU: 1500}
				c.OnIPVS = map[string]bool{"web": true}
			}, nil,
		},
		"a mark, and NAT in XDP": {
			func(c *Case, f *fake) {
				f.marks = []string{"netfilter would mark packets"}
				c.Config.Backend, c.Config.Services[0].Reals[0].Forward = config.BackendXDP, lb.NAT
			}, []string{"bypassed-mark firewall"},
		},
		"notes": {
			func(_ *Case, f *fake) { f.iface.IsNative, f.iface.HasLRO, f.iface.HasVLANStrip = false, true, true },
			[]string{"note: offload interface eth0", "note: offload interface eth0"},
		},
		"BFD on the segment": {func(c *Case, _ *fake) { c.Config.BFD = []bfd.Session{{Name: "r1", Neighbour: first}} }, nil},
		"BFD behind a router, to this host, to nowhere": {
			func(c *Case, f *fake) {
				f.routes["192.0.2.7"], f.routes["192.0.2.8"] = Route{Device: "eth0", IsGateway: true}, Route{Device: "lo", IsLocal: true}
				c.Config.BFD = []bfd.Session{
					{Name: "far", Neighbour: netip.MustParseAddr("192.0.2.7")}, {Name: "own", Neighbour: netip.MustParseAddr("192.0.2.8")},
					{Name: "nowhere", Neighbour: netip.MustParseAddr("192.0.2.9")}, {Name: "multihop", Neighbour: netip.MustParseAddr("192.0.2.9"), Multihop: true},
				}
			}, []string{"bfd-off-segment bfd far", "bfd-off-segment bfd nowhere", "bfd-off-segment bfd own"},
		},
		"a VLAN in generic mode": {
			func(_ *Case, f *fake) { f.iface.Below, f.iface.NotBelow = "eth0", "eth0 takes VLAN tags out of frames" },
			[]string{"note: offload interface eth0"},
		},
		"a VLAN whose tags are taken out below it": {
			func(_ *Case, f *fake) {
				f.iface.Below, f.iface.NotBelow, f.iface.IsServed = "eth0", "eth0 takes VLAN tags out of frames", true
			},
			[]string{"offload interface eth0"},
		},
		"a VLAN served below it": {
			func(_ *Case, f *fake) { f.iface.Below, f.iface.IsServed = "eth0", true }, nil,
		},
		"native in spite of LRO": {
			func(_ *Case, f *fake) { f.iface.IsNative, f.iface.HasLRO = true, true }, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, f := healthyCase()
			test.plant(&c, f)
			var got []string
			for _, w := range Examine(t.Context(), c, f) {
				line := w.Kind + " " + w.Subject
				if w.Note {
					line = "note: " + line
				} else if w.Cure == "" {
					t.Errorf("%s has no cure", line)
				}
				if !slices.Contains(Kinds(), w.Kind) {
					t.Errorf("%s is not one of Kinds", w.Kind)
				}
				got = append(got, line)
			}
			slices.Sort(got)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// shareReal has another service reach the first real in a way of its own.
func shareReal(c *Case, service string, by lb.Forward) {
	s := c.Config.Services[0]
	s.Name, s.Reals = service, []lb.Real{{Addr: first, Weight: 1, Forward: by}}
	c.Config.Services = append(c.Config.Services, s)
}

// A segment that fits a narrow way has room for the headers of the tunnel and for those
// of the client's protocol, which differ between the families of the VIPs of one real.
func TestSegmentsOfANarrowTunnel(t *testing.T) {
	c, f := healthyCase()
	f.routes[first.String()] = Route{Device: "eth0", MTU: 1400}
	c.Config.Services[0].Reals[0].Forward = lb.Tunnel
	shareReal(&c, "ipv6", lb.Tunnel)
	c.Config.Services[1].Listeners = []lb.Listener{{Addr: netip.MustParseAddr("2001:db8::100"), Proto: lb.TCP, First: 80, Last: 80}}
	var cures []string
	for _, w := range Examine(t.Context(), c, f) {
		if w.Kind == SmallMTU {
			cures = append(cures, w.Cure)
		}
	}
	want := []string{
		"on 192.0.2.11: ip route change default ... advmss 1340",
		"on 192.0.2.11: ip -6 route change default ... advmss 1320",
	}
	if !slices.Equal(cures, want) {
		t.Errorf("%q, want %q", cures, want)
	}
}

// A service that stands for a mark does what the rule would do.
func TestMarkServicesAreNotAskedAbout(t *testing.T) {
	c, f := healthyCase()
	c.Config.Services[0].Mark = 10
	f.marks = []string{"netfilter would mark packets"}
	if found := Examine(t.Context(), c, f); len(found) != 0 || len(f.asked) != 0 {
		t.Errorf("%+v, asked about %q", found, f.asked)
	}
}

// What cannot be asked is no finding.
func TestUnknownIsANote(t *testing.T) {
	c, f := healthyCase()
	f.err = errors.New("no socket")
	found := Examine(t.Context(), c, f)
	if len(found) != 4 { // two reals, the VIP, the firewall
		t.Errorf("%+v", found)
	}
	for _, w := range found {
		if !w.Note || w.Kind != Unknown {
			t.Errorf("%+v", w)
		}
	}
}

// plantPrivate has two reals by NAT with private addresses.
func plantPrivate(c *Case, f *fake) {
	for i, a := range []string{"10.0.0.11", "10.0.0.12"} {
		c.Config.Services[0].Reals[i] = lb.Real{Addr: netip.MustParseAddr(a), Weight: 1, Forward: lb.NAT}
		f.routes[a] = Route{Device: "eth0", MTU: 1500}
	}
}
