package vrrp

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func sample(edit func(*Instance)) Instance {
	i := Instance{
		Name: "VI_1", Interface: "eth0", VRID: 51, Version: 2, Priority: 100,
		AdvertInterval: time.Second, AuthPass: "s3cr3t12",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.99.0.100/24")},
	}
	if edit != nil {
		edit(&i)
	}
	return i
}

func TestAccepts(t *testing.T) {
	second := netip.MustParsePrefix("10.99.0.101/24")
	unicast := func(i *Instance) { i.UnicastPeers = []netip.Addr{addrA} }
	tests := []struct {
		name string
		cfg  func(*Instance)
		dst  netip.Addr
		edit func(*Packet)
		want error
	}{
		{"as it should be", nil, Group4, nil, nil},
		{"unicast", unicast, addrB, nil, nil},
		{"unicast without peers", nil, addrB, nil, BadDestination},
		{"multicast with peers", unicast, Group4, nil, BadDestination},
		{"stranger", func(i *Instance) { i.UnicastPeers = []netip.Addr{addrB} }, addrB, nil, BadPeer},
		{"version 3", nil, Group4, func(p *Packet) { p.Version = 3 }, BadVersion},
		{"no authentication", nil, Group4, func(p *Packet) { p.Auth = AuthNone }, BadAuth},
		{"unwanted password", func(i *Instance) { i.AuthPass = "" }, Group4, nil, BadAuth},
		{"other password", nil, Group4, func(p *Packet) { p.Password[7]++ }, BadPassword},
		{"password that only begins alike", func(i *Instance) { i.AuthPass = "s3cr3t1" }, Group4, nil, BadPassword},
		{"other interval", nil, Group4, func(p *Packet) { p.Interval *= 2 }, BadInterval},
		{"other address", nil, Group4, func(p *Packet) { p.Addrs = []netip.Addr{addrA} }, BadAddresses},
		{"one more address", nil, Group4, func(p *Packet) { p.Addrs = []netip.Addr{vip, addrA} }, BadAddresses},
		{"one address less", func(i *Instance) { i.Addresses = append(i.Addresses, second) }, Group4, nil, BadAddresses},
		{"other address of the owner", nil, Group4, func(p *Packet) { p.Addrs = []netip.Addr{addrA}; p.Priority = 255 }, nil},
		{"another order", func(i *Instance) { i.Addresses = append(i.Addresses, second) }, Group4,
			func(p *Packet) { p.Addrs = []netip.Addr{second.Addr(), vip} }, nil},
		{"addresses of the other family are not advertised",
			func(i *Instance) { i.Addresses = append(i.Addresses, netip.MustParsePrefix("fd99::100/64")) }, Group4, nil, nil},
		{"version 3 may have another interval", func(i *Instance) { i.Version, i.AuthPass = 3, "" }, Group4,
			func(p *Packet) { p.Version, p.Interval = 3, 3*time.Second }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := vectors[0].want
			if tt.edit != nil {
				tt.edit(&p)
			}
			if err := sample(tt.cfg).Accepts(p, addrA, tt.dst); err != tt.want {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	if err := sample(nil).Validate(); err != nil {
		t.Errorf("sample: %v", err)
	}
	tests := []struct {
		want string
		edit func(*Instance)
	}{
		{"no name", func(i *Instance) { i.Name = "" }},
		{"no interface", func(i *Instance) { i.Interface = "" }},
		{"identifier 0", func(i *Instance) { i.VRID = 0 }},
		{"priority 0", func(i *Instance) { i.Priority = 0 }},
		{"longer than 8", func(i *Instance) { i.AuthPass = "123456789" }},
		{"password in version 3", func(i *Instance) { i.Version = 3 }},
		{"no addresses", func(i *Instance) { i.Addresses = nil }},
		{"VRRP version 4", func(i *Instance) { i.Version, i.AuthPass = 4, "" }},
		{"interval 100ms", func(i *Instance) { i.AdvertInterval = 100 * time.Millisecond }},
		{"another family", func(i *Instance) { i.UnicastPeers = []netip.Addr{netip.MustParseAddr("fd99::1")} }},
		{"version 2 is IPv4", func(i *Instance) { i.Addresses = []netip.Prefix{netip.MustParsePrefix("fd99::1/64")} }},
	}
	for _, tt := range tests {
		err := sample(tt.edit).Validate()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
	}
}

func TestSkewLeaseAndSuccession(t *testing.T) {
	ms := time.Millisecond
	tests := []struct {
		version     int
		priority    uint8
		interval    time.Duration
		skew, lease time.Duration
		succession  time.Duration // a takeover and the slowest backup's skew
	}{
		{2, 100, time.Second, 609375 * time.Microsecond, 4109375 * time.Microsecond, 1500 * ms},
		{2, 100, 3 * time.Second, 609375 * time.Microsecond, 11109375 * time.Microsecond, 1500 * ms},
		{2, 150, time.Second, 414062500 * time.Nanosecond, 4 * time.Second, 1500 * ms}, // the lease: never below the slowest backup
		{3, 100, 100 * ms, 60937500 * time.Nanosecond, 500 * ms, 600 * ms},
		{3, 254, 40 * ms, 312500 * time.Nanosecond, 500 * ms, 540 * ms},
		{3, 1, time.Second, 996093750 * time.Nanosecond, 4496093750 * time.Nanosecond, 1500 * ms},
	}
	for _, tt := range tests {
		i := Instance{Version: tt.version, AdvertInterval: tt.interval}
		if got := i.skewTime(tt.priority, tt.interval); got != tt.skew {
			t.Errorf("version %d, priority %d, %s: skew %s, want %s", tt.version, tt.priority, tt.interval, got, tt.skew)
		}
		if got := i.leaseTime(tt.priority); got != tt.lease {
			t.Errorf("version %d, priority %d, %s: lease %s, want %s", tt.version, tt.priority, tt.interval, got, tt.lease)
		}
		if got := i.successionTime(); got != tt.succession {
			t.Errorf("version %d, priority %d, %s: waits %s for a successor, want %s", tt.version, tt.priority, tt.interval, got, tt.succession)
		}
	}
}
