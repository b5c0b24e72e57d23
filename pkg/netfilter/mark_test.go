package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// markRules are commands, one a line, and what they say of marks: "10:
// LISTENER LISTENER", or "10! CONDITION" for what no listener can express.
var markRules = map[string]struct{ commands, want string }{
	"the articles' rules": {
		mangle("-d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10", "-d 172.25.0.100 -p tcp --dport 443 -j MARK --set-mark 10"),
		"10: 172.25.0.100:80/tcp 172.25.0.100:443/tcp",
	},
	"several ports": {
		mangle("-d 172.25.0.100 -p tcp -m multiport --dports 80,443,8000:8100 -j MARK --set-mark 10"),
		"10: 172.25.0.100:80/tcp 172.25.0.100:443/tcp 172.25.0.100:8000-8100/tcp",
	},
	"a range":           {mangle("-d 172.25.0.100 -p udp --dport 5000:5100 -j MARK --set-mark 0x11"), "17: 172.25.0.100:5000-5100/udp"},
	"every port":        {mangle("-d 172.25.0.100 -p tcp -j MARK --set-mark 1"), "1: 172.25.0.100:*/tcp"},
	"every protocol":    {mangle("-d 172.25.0.100 -j MARK --set-mark 1"), "1: 172.25.0.100:*/tcp 172.25.0.100:*/udp"},
	"two marks":         {mangle("-d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 1", "-d 172.25.0.101 -p tcp --dport 80 -j MARK --set-mark 2"), "1: 172.25.0.100:80/tcp\n2: 172.25.0.101:80/tcp"},
	"the last one sets": {mangle("-d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 1", "-d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 2"), "2: 172.25.0.100:80/tcp"},
	"a comment":         {mangle(`-d 172.25.0.100 -p tcp --dport 80 -m comment --comment "web, mostly" -j MARK --set-mark 10`), "10: 172.25.0.100:80/tcp"},
	"a source":          {mangle("-s 198.51.100.7 -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10"), "10:\n10! the source"},
	"an interface":      {mangle("-i eth0 -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10"), "10:\n10! the interface"},
	"a state":           {mangle("-d 172.25.0.100 -p tcp --dport 80 -m conntrack --ctstate NEW -j MARK --set-mark 10"), "10:\n10! match conntrack"},
	"a network":         {mangle("-d 172.25.0.0/24 -p tcp --dport 80 -j MARK --set-mark 10"), "10:\n10! a network of destinations"},
	"no destination":    {mangle("-p tcp --dport 80 -j MARK --set-mark 10"), "10:\n10! no destination address"},
	"not a port":        {mangle("-d 172.25.0.100 -p tcp ! --dport 80 -j MARK --set-mark 10"), "10:\n10! a comparison of the port"},
	"a part of a mark":  {mangle("-d 172.25.0.100 -p tcp --dport 80 -j MARK --set-xmark 0x1/0xff"), "1:\n1! a mark of which some bits are kept"},
	"icmp":              {mangle("-d 172.25.0.100 -p icmp -j MARK --set-mark 10"), "10:\n10! a protocol that is neither TCP nor UDP"},
	"another chain":     {"iptables -t mangle -A OUTPUT -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10", ""},
	"another target":    {mangle("-d 172.25.0.100 -p tcp --dport 80 -j TTL --ttl-inc 1"), ""},
	"a jump": {
		"iptables -t mangle -N web\niptables -t mangle -A web -p tcp --dport 80 -j MARK --set-mark 10\n" + mangle("-d 172.25.0.100 -j web"),
		"10: 172.25.0.100:80/tcp",
	},
	"iptables of IPv6": {"ip6tables -t mangle -A PREROUTING -d 2001:db8::100 -p tcp --dport 80 -j MARK --set-mark 10", "10: [2001:db8::100]:80/tcp"},

	"nft":          {prerouting("ip daddr 172.25.0.100 tcp dport 80 meta mark set 10"), "10: 172.25.0.100:80/tcp"},
	"nft, IPv6":    {prerouting("ip6 daddr 2001:db8::100 tcp dport 80 meta mark set 10"), "10: [2001:db8::100]:80/tcp"},
	"nft, sets":    {prerouting("ip daddr { 172.25.0.100, 172.25.0.101 } tcp dport { 80, 8000-8100 } counter meta mark set 10"), "10: 172.25.0.100:80/tcp 172.25.0.100:8000-8100/tcp 172.25.0.101:80/tcp 172.25.0.101:8000-8100/tcp"},
	"nft, range":   {prerouting("ip daddr 172.25.0.100 udp dport 5000-5100 meta mark set 10"), "10: 172.25.0.100:5000-5100/udp"},
	"nft, both":    {prerouting("ip daddr 172.25.0.100 meta l4proto { tcp, udp } th dport 53 meta mark set 10"), "10: 172.25.0.100:53/tcp 172.25.0.100:53/udp"},
	"nft, rate":    {prerouting("ip daddr 172.25.0.100 tcp dport 80 limit rate 5/second meta mark set 10"), "10:\n10! condition Limit"},
	"nft, map":     {prerouting("ip daddr 172.25.0.100 meta mark set tcp dport map { 80 : 1, 443 : 2 }"), ""},
	"nft, or":      {prerouting("ip daddr 172.25.0.100 tcp dport 80 meta mark set meta mark or 0x1"), ""},
	"nft, of lvx":  {strings.ReplaceAll(prerouting("ip daddr 172.25.0.100 tcp dport 80 meta mark set 10"), "inet t", "inet lvx"), ""},
	"nft, dormant": {"nft add table ip t { flags dormant \\; }\nnft add chain ip t pre { type filter hook prerouting priority -150 ; }\nnft add rule ip t pre ip daddr 172.25.0.100 tcp dport 80 meta mark set 10", ""},

	"legacy": {
		strings.ReplaceAll(mangle("-d 172.25.0.100 -p tcp -m multiport --dports 80,8000:8100 -j MARK --set-mark 10"), "iptables", "iptables-legacy"),
		"10: 172.25.0.100:80/tcp 172.25.0.100:8000-8100/tcp",
	},
	"legacy, a source": {"iptables-legacy -t mangle -A PREROUTING -s 10.0.0.0/8 -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10", "10:\n10! condition -s"},
	"legacy, IPv6": {
		"ip6tables-legacy -t mangle -A PREROUTING -d 2001:db8::100 -p tcp --dport 80 -j MARK --set-mark 10\niptables-legacy -t mangle -A PREROUTING -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10",
		"10: 172.25.0.100:80/tcp [2001:db8::100]:80/tcp",
	},
	"legacy and nft": {
		"iptables-legacy -t mangle -A PREROUTING -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10\n" + mangle("-d 172.25.0.100 -p tcp --dport 443 -j MARK --set-mark 10"),
		"10: 172.25.0.100:443/tcp 172.25.0.100:80/tcp",
	},
}

func mangle(rules ...string) string {
	for i, r := range rules {
		rules[i] = "iptables -t mangle -A PREROUTING " + r
	}
	return strings.Join(rules, "\n")
}

func prerouting(rule string) string {
	return "nft add table inet t\nnft add chain inet t pre { type filter hook prerouting priority -150 ; }\nnft add rule inet t pre " + rule
}

// describeMarks writes marks as the table above does.
func describeMarks(all []lb.MarkRules) string {
	var lines []string
	for _, m := range all {
		line := fmt.Sprintf("%d:", m.Mark)
		for _, l := range m.Listeners {
			line += " " + l.String()
		}
		lines = append(lines, line)
		if m.Condition != "" {
			_, why, _ := strings.Cut(m.Condition, ": ")
			lines = append(lines, fmt.Sprintf("%d! %s", m.Mark, why))
		}
	}
	return strings.Join(lines, "\n")
}

func TestParseSaved(t *testing.T) {
	for text, want := range map[string]string{
		"-A PREROUTING -d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0xa/0xffffffff":                                       "10: 10.0.0.1:80/tcp",
		"-A PREROUTING -d 10.0.0.1/32 -p udp -m multiport --dports 53,5000:5100 -j MARK --set-xmark 0xa/0xffffffff":                      "10: 10.0.0.1:53/udp 10.0.0.1:5000-5100/udp",
		`-A PREROUTING -d 10.0.0.1/32 -p tcp -m comment --comment "a -d 1.2.3.4 b" -m tcp --dport 80 -j MARK --set-xmark 0xa/0xffffffff`: "10: 10.0.0.1:80/tcp",
		"-A PREROUTING -d 10.0.0.0/24 -j MARK --set-xmark 0xa/0xffffffff":                                                                "10:\n10! a network of destinations",
		"-A PREROUTING ! -d 10.0.0.1/32 -j MARK --set-xmark 0xa/0xffffffff":                                                              "10:\n10! condition !",
		"-A OUTPUT -d 10.0.0.1/32 -j MARK --set-xmark 0xa/0xffffffff":                                                                    "",
		"-A PREROUTING -d 10.0.0.1/32 -j ACCEPT":                                                                                         "",
		"*mangle\n:PREROUTING ACCEPT [0:0]\nCOMMIT":                                                                                      "",
	} {
		if got := describeMarks(iptablesLegacy.parseMarks(text)); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", text, got, want)
		}
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add("-A PREROUTING -d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0xa/0xffffffff")
	f.Add(`-A PREROUTING -m comment --comment "`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range iptablesLegacy.parseMarks(text) {
			if m.Mark == 0 || len(m.Listeners) != len(m.Origins) {
				t.Errorf("%+v", m)
			}
			if slices.ContainsFunc(m.Listeners, func(l lb.Listener) bool { return l.Addr == netip.Addr{} || l.First > l.Last }) {
				t.Errorf("%+v", m.Listeners)
			}
		}
	})
}

func TestMarkRules(t *testing.T) {
	h := firewall(t)
	for name, c := range markRules {
		t.Run(name, func(t *testing.T) {
			for line := range strings.SplitSeq(c.commands, "\n") {
				tb.Run(t, h, "sh", "-c", quoted(line))
			}
			defer flushMarks(t, h)
			var got string
			tb.Do(t, h, func() error {
				marks, err := new(Reader).Marks()
				got = describeMarks(marks)
				return err
			})
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s\nof %s", got, c.want, tb.Run(t, h, "nft", "-a", "list", "ruleset"))
			}
		})
	}
}

func flushMarks(t *testing.T, h *testenv.Host) {
	t.Helper()
	flush(t, h)
	tb.Run(t, h, "iptables-legacy", "-t", "mangle", "-F")
	tb.Run(t, h, "ip6tables-legacy", "-t", "mangle", "-F")
}
