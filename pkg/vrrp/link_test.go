package vrrp

import (
	"net/netip"
	"strings"
	"testing"
)

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestPrimary(t *testing.T) {
	v6 := func(i *Instance) {
		i.Version, i.AuthPass, i.Addresses = 3, "", prefixes("fe80::5:100/64", "fd99::100/64")
	}
	tests := []struct {
		name  string
		addrs []netip.Prefix
		edit  func(*Instance)
		want  string
	}{
		{"first of the family", prefixes("fe80::1/64", "10.99.0.1/24", "10.99.0.7/24"), nil, "10.99.0.1"},
		{"never a VIP", prefixes("10.99.0.100/24", "10.99.0.1/24"), nil, "10.99.0.1"},
		{"a VIP of another prefix length", prefixes("10.99.0.100/32", "10.99.0.1/24"), nil, "10.99.0.1"},
		{"nothing but the VIP", prefixes("10.99.0.100/24"), nil, ""},
		{"the owner's VIP", prefixes("10.99.0.100/24"), func(i *Instance) { i.Priority = 255 }, "10.99.0.100"},
		{"the owner's other address", prefixes("10.99.0.100/24", "10.99.0.1/24"), func(i *Instance) { i.Priority = 255 }, "10.99.0.1"},
		{"IPv6 link-local", prefixes("10.99.0.1/24", "fd99::1/64", "fe80::5:100/64", "fe80::1/64"), v6, "fe80::1"},
		{"no link-local", prefixes("fd99::1/64"), v6, ""},
		{"nothing", nil, nil, ""},
	}
	for _, tt := range tests {
		got := link{addrs: tt.addrs}.primaryAddr(sample(tt.edit))
		if want, _ := netip.ParseAddr(tt.want); got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
}

// Advertisements come from no VIP of another instance.
func TestPrimaryBesideOtherInstances(t *testing.T) {
	one := sample(nil)
	two := sample(func(i *Instance) { i.Name, i.Addresses = "VI_2", prefixes("10.99.0.200/24") })
	six := sample(func(i *Instance) {
		i.Name, i.Version, i.AuthPass, i.Addresses = "VI_6", 3, "", prefixes("fe80::100/64")
	})
	other := sample(func(i *Instance) {
		i.Name, i.Version, i.AuthPass, i.Addresses = "VI_7", 3, "", prefixes("fe80::200/64")
	})
	ls := links{"eth0": {up: true, addrs: prefixes("fe80::200/64", "fe80::1/64", "10.99.0.200/32", "10.99.0.1/24", "10.99.0.7/24")}}
	ls.putVIPsLast([]Instance{one, two, six, other})
	for _, test := range []struct {
		of   Instance
		want string
	}{{one, "10.99.0.1"}, {two, "10.99.0.1"}, {six, "fe80::1"}, {other, "fe80::1"}} {
		if got := ls["eth0"].primaryAddr(test.of); got != netip.MustParseAddr(test.want) {
			t.Errorf("%s: %s, want %s", test.of.Name, got, test.want)
		}
	}
}

func TestHolding(t *testing.T) {
	i := sample(func(i *Instance) { i.Addresses = prefixes("10.99.0.100/24", "10.99.0.101/32") })
	for want, addrs := range map[bool][]netip.Prefix{
		true:  prefixes("10.99.0.1/24", "10.99.0.101/24", "10.99.0.100/24"),
		false: prefixes("10.99.0.1/24", "10.99.0.100/24"),
	} {
		if got := (links{"eth0": {addrs: addrs}}).hasVIPs(i); got != want {
			t.Errorf("%v: holding %v", addrs, got)
		}
	}
}

func TestCondition(t *testing.T) {
	host := func(eth0, eth1, eth2 bool) links {
		return links{
			"eth0": {index: 1, up: eth0, addrs: prefixes("10.99.0.1/24")},
			"eth1": {index: 2, up: eth1}, "eth2": {index: 3, up: eth2},
		}
	}
	track := func(ts ...Track) func(*Instance) { return func(i *Instance) { i.Track = ts } }
	watch := func(weight int, names ...string) func(*Instance) {
		return func(i *Instance) { i.TrackServices, i.TrackWeight = names, weight }
	}
	tests := []struct {
		name     string
		links    links
		services map[string]bool
		edit     func(*Instance)
		want     Condition
	}{
		{"well", host(true, false, false), nil, nil, Condition{}},
		{"own interface down", host(false, true, true), nil, nil, Condition{Fault: "eth0 is down"}},
		{"tracked interface down", host(true, false, true), nil, track(Track{"eth1", 0}), Condition{Fault: "eth1 is down"}},
		{"tracked interface gone", host(true, true, true), nil, track(Track{"eth9", 0}), Condition{Fault: "eth9 is down"}},
		{"weights add up", host(true, false, false), nil, track(Track{"eth1", 20}, Track{"eth2", 30}), Condition{Penalty: 50}},
		{"up costs nothing", host(true, true, false), nil, track(Track{"eth1", 20}, Track{"eth2", 30}), Condition{Penalty: 30}},
		{"the first fault is told", host(true, false, false), nil, track(Track{"eth1", 0}, Track{"eth2", 0}), Condition{Fault: "eth1 is down"}},
		{"service without reals", host(true, true, true), map[string]bool{"web": false}, watch(0, "web"), Condition{Fault: "no usable real server in web"}},
		{"service counted once", host(true, true, true), map[string]bool{"web": false, "dns": false}, watch(40, "web", "dns"), Condition{Penalty: 40}},
		{"unknown service is well", host(true, true, true), map[string]bool{"dns": false}, watch(0, "web"), Condition{}},
		{"usable service", host(true, true, true), map[string]bool{"web": true}, watch(0, "web"), Condition{}},
		{"service nobody tracks", host(true, true, true), map[string]bool{"web": false}, nil, Condition{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Self = addrA
			got := tt.links.conditionFor(sample(tt.edit), tt.services, nil)
			if got.IsLink != strings.HasSuffix(got.Fault, "is down") {
				t.Errorf("%q is a fault of an interface: %v", got.Fault, got.IsLink)
			}
			got.IsLink = false
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if got := (links{}).conditionFor(sample(nil), nil, nil); got != (Condition{Fault: "no interface eth0", IsLink: true}) {
		t.Errorf("without the interface: %+v", got)
	}
	bare := links{"eth0": {index: 1, up: true}}
	if got := bare.conditionFor(sample(nil), nil, nil); got != (Condition{Fault: "no IPv4 address on eth0", IsLink: true}) {
		t.Errorf("without an address: %+v", got)
	}
	v6 := sample(func(i *Instance) { i.Version, i.AuthPass, i.Addresses = 3, "", prefixes("fd99::100/64") })
	if got := bare.conditionFor(v6, nil, nil); got != (Condition{Fault: "no IPv6 link-local address on eth0", IsLink: true}) {
		t.Errorf("without a link-local address: %+v", got)
	}
}
