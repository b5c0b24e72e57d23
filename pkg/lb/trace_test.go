package lb

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseTraceFilter(t *testing.T) {
	one, net := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("198.51.100.0/24")
	for text, want := range map[string]TraceFilter{
		"":                                     {},
		"host 192.0.2.1 and port 80":           {Version: 4, Nets: []netip.Prefix{one}, Ports: []uint16{80}},
		"net 198.51.100.7/24 host 192.0.2.1":   {Version: 4, Nets: []netip.Prefix{net, one}},
		"tcp port 80 port 40000":               {Protocol: TCP, Ports: []uint16{80, 40000}},
		"udp verdict denied,no_flow":           {Protocol: UDP, Verdicts: []string{"denied", "no_flow"}},
		"icmp":                                 {Protocol: ICMP},
		"host 2001:db8::1 and icmp6":           {Version: 6, Nets: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/128")}, Protocol: ICMPv6},
		"ip6 net ::/0":                         {Version: 6, Nets: []netip.Prefix{netip.MustParsePrefix("::/0")}},
		"ip port 53":                           {Version: 4, Ports: []uint16{53}},
		"proto 50 verdict not_ours verdict tx": {Protocol: 50, Verdicts: []string{"not_ours", "tx"}},
	} {
		got, err := ParseTraceFilter(strings.Fields(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"host", "host x", "host fe80::1%eth0", "port 0", "ip6 host 192.0.2.1", "host 192.0.2.1 host 2001:db8::1", "ip ip6", "port 65536", "proto 256", "and or", "src host 192.0.2.1",
		"host 192.0.2.1 host 192.0.2.2 host 192.0.2.3", "port 1 port 2 port 3",
	} {
		if f, err := ParseTraceFilter(strings.Fields(text)); err == nil {
			t.Errorf("%q is read as %+v", text, f)
		}
	}
}
