package netfilter

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// Rules of the postrouting hook, and which of them, if any, gives packets to the real
// 172.25.0.12, or from it, by eth0 another source address.
var masquerading = map[string]struct{ commands, to, from string }{
	"no rules":             {"iptables -t nat -S", "", ""},
	"all that leaves":      {"iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "handle 2", "handle 2"},
	"by another interface": {"iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE", "", ""},
	"what comes in":        {"iptables -t nat -A POSTROUTING ! -o eth0 -j MASQUERADE", "", ""},
	"what reals send":      {"iptables -t nat -A POSTROUTING -s 172.25.0.0/24 -o eth0 -j MASQUERADE", "", "handle 2"},
	"what others send":     {"iptables -t nat -A POSTROUTING -s 172.26.0.0/24 -o eth0 -j MASQUERADE", "", ""},
	"what goes to reals":   {"iptables -t nat -A POSTROUTING -d 172.25.0.12 -j SNAT --to-source 172.25.0.11", "handle 2", ""},
	"some of that":         {"iptables -t nat -A POSTROUTING -d 172.25.0.12 -s 10.0.0.0/8 -j MASQUERADE", "", ""},
	"to the real first":    {"iptables -t nat -A POSTROUTING -d 172.25.0.12 -j ACCEPT\niptables -t nat -A POSTROUTING -j MASQUERADE", "", "handle 3"},
	"from the real first":  {"iptables -t nat -A POSTROUTING -s 172.25.0.12 -j RETURN\niptables -t nat -A POSTROUTING -j MASQUERADE", "handle 3", ""},
	"another destination":  {"iptables -t nat -A OUTPUT -d 172.25.0.12 -j DNAT --to-destination 172.25.0.13", "", ""},
	"nft":                  {nftLeaving("ip daddr { 172.25.0.12, 172.25.0.13 } masquerade"), "handle 3", ""},
	"nft, from a set":      {nftLeaving("ip saddr { 172.25.0.0/24 } oifname eth0 snat ip to 172.25.0.11"), "", "handle 2"},
	"legacy, all":          {"iptables-legacy -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "POSTROUTING, rule 1", "POSTROUTING, rule 1"},
	"legacy, from reals":   {"iptables-legacy -t nat -A POSTROUTING ! -o eth0 -j MASQUERADE\niptables-legacy -t nat -A POSTROUTING -s 172.25.0.0/24 -m comment --comment \"the way out\" -j MASQUERADE", "", "rule 2"},
	"legacy, to a real":    {"iptables-legacy -t nat -A POSTROUTING -p tcp -d 172.25.0.12 -j SNAT --to-source 172.25.0.11", "rule 1", ""},
	"legacy, some":         {"iptables-legacy -t nat -A POSTROUTING -p tcp -m tcp --dport 80 -j MASQUERADE", "", ""},
	"legacy, UDP":          {"iptables-legacy -t nat -A POSTROUTING -p udp -j MASQUERADE", "", ""},
	"legacy, others first": {"iptables-legacy -t nat -A POSTROUTING ! -d 172.26.0.0/16 -j ACCEPT\niptables-legacy -t nat -A POSTROUTING -j MASQUERADE", "", "rule 2"},
	"nft, UDP":             {nftLeaving("meta l4proto udp masquerade"), "", ""},
}

// nftLeaving is a chain of NAT on the postrouting hook with a rule.
func nftLeaving(rule string) string {
	return "nft add table inet t\nnft add chain inet t out { type nat hook postrouting priority 100 ; }\nnft add rule inet t out " + rule
}

// The same of the real fd25::12.
var masquerading6 = map[string]struct{ commands, to, from string }{
	"IPv4's":              {"iptables-legacy -t nat -A POSTROUTING -j MASQUERADE", "", ""},
	"legacy, all":         {"ip6tables-legacy -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "ip6tables-legacy, table nat, chain POSTROUTING, rule 1", "POSTROUTING, rule 1"},
	"legacy, from reals":  {"ip6tables-legacy -t nat -A POSTROUTING -s fd25::/64 -j MASQUERADE", "", "rule 1"},
	"legacy, to a real":   {"ip6tables-legacy -t nat -A POSTROUTING -p tcp -d fd25::12 -j SNAT --to-source fd25::11", "rule 1", ""},
	"legacy, to another":  {"ip6tables-legacy -t nat -A POSTROUTING -d fd25::13 -j MASQUERADE", "", ""},
	"nft, what it sends":  {nftLeaving("ip6 saddr fd25::/64 masquerade"), "", "handle 2"},
	"nft, IPv4 that goes": {nftLeaving("ip daddr 172.25.0.12 masquerade"), "", ""},
}

func TestMasquerading(t *testing.T) {
	testMasquerading(t, "172.25.0.12", masquerading)
}

func TestMasqueradingIPv6(t *testing.T) {
	testMasquerading(t, "fd25::12", masquerading6)
}

func testMasquerading(t *testing.T, address string, cases map[string]struct{ commands, to, from string }) {
	h := firewall(t)
	real := netip.MustParseAddr(address)
	for name, r := range cases {
		t.Run(name, func(t *testing.T) {
			for line := range strings.SplitSeq(r.commands, "\n") {
				tb.Run(t, h, "sh", "-c", quoted(line))
			}
			defer flush(t, h)
			check := func(what string, from, to netip.Addr, want string) {
				t.Helper()
				var got []string
				tb.Do(t, h, func() (err error) {
					got, err = new(Reader).Masquerading(from, to, "eth0")
					return err
				})
				if want == "" && len(got) != 0 || want != "" && (len(got) != 1 || !strings.HasSuffix(got[0], want)) {
					t.Errorf("%s: %q, want %q\n%s", what, got, want, tb.Run(t, h, "nft", "-a", "list", "ruleset"))
				}
			}
			check("to the real", netip.Addr{}, real, r.to)
			check("from the real", real, netip.Addr{}, r.from)
		})
	}
}

// `-m ipvs -j MASQUERADE`, which asks a module that not every host has.
func TestMasqueradingOfIPVS(t *testing.T) {
	rule := &nftables.Rule{Handle: 7, Exprs: []expr.Any{&expr.Match{Name: "ipvs"}, &expr.Target{Name: "MASQUERADE"}}}
	base := &chain{Chain: &nftables.Chain{Name: "POSTROUTING"}, rules: []*nftables.Rule{rule}}
	own := &table{name: "nat", family: nftables.TableFamilyIPv4}
	p := leavingPacket(netip.Addr{}, netip.MustParseAddr("172.25.0.12"), "eth0", 1)
	if got := own.findMasquerading(p, base); len(got) != 1 || got[0] != "table ip nat, chain POSTROUTING, handle 7" {
		t.Errorf("%q", got)
	}
}
