package netfilter

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

var vip = netip.MustParseAddr("172.25.0.100")

func listen(proto lb.Protocol, ports ...uint16) lb.Listener {
	l := lb.Listener{Addr: vip, Proto: proto}
	if len(ports) > 0 {
		l.First, l.Last = ports[0], ports[len(ports)-1]
	}
	return l
}

var (
	web  = listen(lb.TCP, 80)
	web6 = lb.Listener{Addr: netip.MustParseAddr("2001:db8::100"), Proto: lb.TCP, First: 80, Last: 80}
)

// rules are commands, one a line, and what is said about them: "handle N" or
// "policy drop", with a "~" before it if only some packets are meant.
var rules = map[string]struct {
	commands string
	served   lb.Listener
	want     string
}{
	// iptables, on nf_tables
	"the article's rule":         {"iptables -A INPUT -d 172.25.0.100 -j DROP", web, "INPUT, handle 2"},
	"another address":            {"iptables -A INPUT -d 172.25.0.101 -j DROP", web, ""},
	"not the address":            {"iptables -A INPUT ! -d 172.25.0.100 -j DROP", web, ""},
	"not another address":        {"iptables -A INPUT ! -d 172.25.0.101 -j DROP", web, "INPUT, handle 2"},
	"a network":                  {"iptables -A INPUT -d 172.25.0.0/24 -j DROP", web, "INPUT, handle 2"},
	"an odd network":             {"iptables -A INPUT -d 172.16.0.0/12 -j DROP", web, "INPUT, handle 2"},
	"another network":            {"iptables -A INPUT -d 172.25.1.0/25 -j DROP", web, ""},
	"a port":                     {"iptables -A INPUT -p tcp --dport 80 -j DROP", web, "INPUT, handle 2"},
	"another port":               {"iptables -A INPUT -p tcp --dport 22 -j DROP", web, ""},
	"a port of UDP":              {"iptables -A INPUT -p udp --dport 80 -j DROP", web, ""},
	"ports":                      {"iptables -A INPUT -p tcp --dport 1:1023 -j REJECT", web, "INPUT, handle 2"},
	"ports elsewhere":            {"iptables -A INPUT -p tcp --dport 1024: -j REJECT", web, ""},
	"several ports":              {"iptables -A INPUT -p tcp -m multiport --dports 22,80,443 -j REJECT --reject-with tcp-reset", web, "INPUT, handle 2"},
	"several ranges":             {"iptables -A INPUT -p tcp -m multiport --dports 22,70:90,443 -j DROP", web, "INPUT, handle 2"},
	"several others":             {"iptables -A INPUT -p tcp -m multiport --dports 22,443:444 -j DROP", web, ""},
	"all but several":            {"iptables -A INPUT -p tcp -m multiport ! --dports 22,443 -j DROP", web, "INPUT, handle 2"},
	"several source ports":       {"iptables -A INPUT -p tcp -m multiport --sports 80 -j DROP", web, ""},
	"a comment":                  {`iptables -A INPUT -d 172.25.0.100 -m comment --comment "closed for today" -j DROP`, web, "INPUT, handle 2"},
	"a source":                   {"iptables -A INPUT -s 198.51.100.0/24 -j DROP", web, "~INPUT, handle 2"},
	"a source and the VIP":       {"iptables -A INPUT -s 198.51.100.7 -d 172.25.0.100 -j DROP", web, "~INPUT, handle 2"},
	"a source and another":       {"iptables -A INPUT -s 198.51.100.7 -d 172.25.0.101 -j DROP", web, ""},
	"a rate":                     {"iptables -A INPUT -p tcp --dport 80 -m limit --limit 5/s -j DROP", web, "~INPUT, handle 2"},
	"states say nothing":         {"iptables -A INPUT -m conntrack --ctstate INVALID -j DROP", web, ""},
	"odd packets say nothing":    {"iptables -A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP", web, ""},
	"accepted before":            {"iptables -A INPUT -p tcp --dport 80 -j ACCEPT\niptables -A INPUT -d 172.25.0.100 -j DROP", web, ""},
	"accepted for some":          {"iptables -A INPUT -s 10.0.0.0/8 -p tcp --dport 80 -j ACCEPT\niptables -A INPUT -d 172.25.0.100 -j DROP", web, "INPUT, handle 3"},
	"other interface":            {"iptables -A INPUT -i lo -d 172.25.0.100 -j DROP", web, ""},
	"this interface":             {"iptables -A INPUT -i eth0 -j DROP", web, "INPUT, handle 2"},
	"interfaces like this":       {"iptables -A INPUT -i eth+ -j DROP", web, "INPUT, handle 2"},
	"only marks":                 {"iptables -t mangle -A PREROUTING -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10", web, ""},
	"a log":                      {"iptables -A INPUT -d 172.25.0.100 -j LOG", web, ""},
	"raw table":                  {"iptables -t raw -A PREROUTING -d 172.25.0.100 -j DROP", web, "PREROUTING, handle 2"},
	"forward and output":         {"iptables -A FORWARD -d 172.25.0.100 -j DROP\niptables -A OUTPUT -d 172.25.0.100 -j DROP", web, ""},
	"iptables of IPv6":           {"ip6tables -A INPUT -p tcp --dport 80 -j DROP", web, ""},
	"policy":                     {"iptables -P INPUT DROP", web, "INPUT, policy drop"},
	"policy, states and ssh":     {"iptables -P INPUT DROP\niptables -A INPUT -i lo -j ACCEPT\niptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\niptables -A INPUT -p tcp --dport 22 -j ACCEPT\niptables -A INPUT -p icmp -j ACCEPT", web, "INPUT, policy drop"},
	"policy and an accept":       {"iptables -P INPUT DROP\niptables -A INPUT -p tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT", web, ""},
	"policy, accept for some":    {"iptables -P INPUT DROP\niptables -A INPUT -s 10.0.0.0/8 -p tcp --dport 80 -j ACCEPT", web, "~INPUT, policy drop"},
	"policy, everything is fine": {"iptables -P INPUT DROP\niptables -A INPUT -j ACCEPT", web, ""},
	"last rule drops":            {"iptables -A INPUT -p tcp --dport 22 -j ACCEPT\niptables -A INPUT -j REJECT", web, "INPUT, handle 3"},
	"a jump":                     {"iptables -N web\niptables -A web -p tcp --dport 80 -j DROP\niptables -A INPUT -d 172.25.0.100 -j web", web, "web, handle 2"},
	"a jump elsewhere":           {"iptables -N web\niptables -A web -p tcp --dport 80 -j DROP\niptables -A INPUT -d 172.25.0.101 -j web", web, ""},
	"a jump that returns":        {"iptables -N web\niptables -A web -p tcp --dport 80 -j RETURN\niptables -A web -j DROP\niptables -A INPUT -j web", web, ""},
	"goto":                       {"iptables -N web\niptables -A web -p tcp --dport 22 -j DROP\niptables -A INPUT -g web\niptables -A INPUT -d 172.25.0.100 -j DROP", web, ""},
	"every port":                 {"iptables -A INPUT -p tcp --dport 22 -j DROP", listen(lb.TCP), "~INPUT, handle 2"},
	"range, within":              {"iptables -A INPUT -p tcp --dport 8000:9000 -j DROP", listen(lb.TCP, 8100, 8200), "INPUT, handle 2"},
	"range, partly":              {"iptables -A INPUT -p tcp --dport 8150:9000 -j DROP", listen(lb.TCP, 8100, 8200), "~INPUT, handle 2"},
	"range, beside":              {"iptables -A INPUT -p tcp --dport 8201:9000 -j DROP", listen(lb.TCP, 8100, 8200), ""},
	"UDP":                        {"iptables -A INPUT -p udp -j DROP", listen(lb.UDP, 53), "INPUT, handle 2"},

	// nft
	"nft, inet":               {nft("ip daddr 172.25.0.100 drop"), web, "in, handle 2"},
	"nft, family of IPv6":     {"nft add table ip6 t\nnft add chain ip6 t in { type filter hook input priority 0 ; }\nnft add rule ip6 t in tcp dport 80 drop", web, ""},
	"nft, set of ports":       {nft("tcp dport { 22, 80, 443 } drop"), web, "in, handle 3"},
	"nft, not in a set":       {nft("tcp dport != { 22, 443 } drop"), web, "in, handle 3"},
	"nft, set of ranges":      {nft("ip daddr { 10.0.0.0/8, 172.25.0.64-172.25.0.127 } drop"), web, "in, handle 3"},
	"nft, set beside":         {nft("ip daddr { 10.0.0.0/8, 172.25.0.101-172.25.0.127, 192.168.0.0/16 } drop"), web, ""},
	"nft, named set":          {"nft add table inet t\nnft add set inet t vips { type ipv4_addr ; elements = { 172.25.0.100 } ; }\nnft add chain inet t in { type filter hook input priority 0 ; }\nnft add rule inet t in ip daddr @vips counter drop", web, "in, handle 3"},
	"nft, concatenation":      {nft("ip daddr . tcp dport { 172.25.0.100 . 80, 172.25.0.100 . 443 } drop"), web, "in, handle 3"},
	"nft, concatenated range": {nft("ip daddr . tcp dport { 172.25.0.0/24 . 1-100 } drop"), web, "in, handle 3"},
	"nft, other concatenated": {nft("ip daddr . tcp dport { 172.25.0.100 . 443, 172.25.0.101 . 80 } drop"), web, ""},
	"nft, verdict map":        {nft("tcp dport vmap { 22 : accept, 80 : drop }"), web, "in, handle 3"},
	"nft, map that accepts":   {nft("tcp dport vmap { 80 : accept }", "drop"), web, ""},
	"nft, map of states":      {nft("ct state vmap { established : accept, invalid : drop }"), web, ""},
	"nft, map of jumps":       {"nft add table inet t\nnft add chain inet t web\nnft add rule inet t web ip daddr 172.25.0.100 drop\nnft add chain inet t in { type filter hook input priority 0 ; }\nnft add rule inet t in tcp dport vmap { 80 : jump web }", web, "web, handle 2"},
	"nft, source and VIP":     {nft("ip saddr 198.51.100.0/24 ip daddr 172.25.0.100 tcp dport 80 reject"), web, "~in, handle 2"},
	"nft, source and another": {nft("ip saddr 198.51.100.7 ip daddr 172.25.0.101 drop"), web, ""},
	"nft, both ports":         {nft("tcp sport 1024-65535 tcp dport 80 drop"), web, "~in, handle 2"},
	"nft, list of sources":    {nft("ip saddr { 198.51.100.7, 203.0.113.0/24 } drop"), web, "~in, handle 3"},
	"nft, mark":               {nft("meta mark 7 ip daddr 172.25.0.100 drop"), web, "~in, handle 2"},
	"nft, protocol":           {nft("meta l4proto udp drop"), web, ""},
	"nft, family in a rule":   {nft("meta nfproto ipv6 drop"), web, ""},
	"nft, broadcast":          {nft("meta pkttype broadcast drop"), web, ""},
	"nft, fib":                {nft("fib saddr . iif oif missing drop"), web, ""},
	"nft, rate":               {nft("tcp dport 80 limit rate over 100/second drop"), web, "~in, handle 2"},
	"nft, less than":          {nft("tcp dport < 1024 drop"), web, "in, handle 2"},
	"nft, more than":          {nft("tcp dport > 1023 drop"), web, ""},
	"nft, dormant":            {"nft add table inet t { flags dormant \\; }\nnft add chain inet t in { type filter hook input priority 0 ; }\nnft add rule inet t in ip daddr 172.25.0.100 drop", web, ""},
	"nft, policy":             {"nft add table inet t\nnft add chain inet t in { type filter hook input priority 0 ; policy drop ; }", web, "in, policy drop"},
	"nft, prerouting":         {"nft add table ip t\nnft add chain ip t pre { type filter hook prerouting priority -300 ; }\nnft add rule ip t pre ip daddr 172.25.0.100 tcp dport 80 drop", web, "pre, handle 2"},

	// iptables-legacy
	"legacy, no rules": {"iptables-legacy -S", web, ""},
	"legacy":           {"iptables-legacy -A INPUT -d 172.25.0.100 -j DROP", web, "iptables-legacy"},
	"legacy, raw":      {"iptables-legacy -t raw -A PREROUTING -d 172.25.0.100 -j DROP", web, "iptables-legacy"},
	"legacy, output":   {"iptables-legacy -A OUTPUT -d 172.25.0.100 -j DROP", web, ""},
	"legacy, IPv6":     {"ip6tables-legacy -A INPUT -j DROP", web, ""},
	"legacy 6":         {"ip6tables-legacy -A INPUT -d 2001:db8::100 -j DROP", web6, "ip6tables-legacy has rules in table filter"},
	"legacy 6, IPv4":   {"iptables-legacy -A INPUT -j DROP", web6, ""},
	"legacy, marks":    {"iptables-legacy -t mangle -A PREROUTING -d 172.25.0.100 -j MARK --set-mark 3", web, ""},
}

// nft is a chain on the input hook with these rules.
func nft(rules ...string) string {
	s := "nft add table inet t\nnft add chain inet t in { type filter hook input priority 0 ; }"
	for _, r := range rules {
		s += "\nnft add rule inet t in " + r
	}
	return s
}

// firewall is a host with an interface and no rules.
func firewall(t *testing.T) *testenv.Host {
	t.Helper()
	return tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{{
		Name: "fw", NICs: []testenv.NIC{{Addrs: []netip.Prefix{netip.MustParsePrefix("172.25.0.11/24")}}},
	}}}).Host("fw")
}

func TestRealRules(t *testing.T) {
	h := firewall(t)
	for name, r := range rules {
		t.Run(name, func(t *testing.T) {
			for line := range strings.SplitSeq(r.commands, "\n") {
				tb.Run(t, h, "sh", "-c", quoted(line))
			}
			defer func() {
				if t.Failed() {
					t.Log(tb.Run(t, h, "nft", "-a", "list", "ruleset"))
				}
				flush(t, h)
			}()
			got := ask(t, h, r.served)
			if r.want == "" {
				if len(got) != 0 {
					t.Errorf("said %q of a rule that does not matter", got)
				}
				return
			}
			want, partly := strings.CutPrefix(r.want, "~")
			if len(got) != 1 || !strings.Contains(got[0], want) || partly != strings.Contains(got[0], "some packets") {
				t.Errorf("said %q, want %q", got, r.want)
			}
		})
	}
}

// One answer names each rule once, and not too many of them.
func TestManyRules(t *testing.T) {
	h := firewall(t)
	served := []lb.Listener{web, listen(lb.TCP, 443), listen(lb.TCP, 8080), listen(lb.UDP, 53)}
	tb.Run(t, h, "sh", "-c", `iptables -A INPUT -d 172.25.0.100 -p tcp --dport 443 -j DROP; iptables -A INPUT -d 172.25.0.100 -j DROP`)
	got := ask(t, h, served...)
	if len(got) != 2 || !strings.Contains(got[0], "172.25.0.100:80/tcp, 172.25.0.100:8080/tcp, 172.25.0.100:53/udp (") ||
		!strings.Contains(got[1], "drop packets to 172.25.0.100:443/tcp (") {
		t.Errorf("said %q", got)
	}
	tb.Run(t, h, "sh", "-c", `for i in $(seq 50); do iptables -I INPUT -s 198.51.100.$i -j DROP; done`)
	got = ask(t, h, served...)
	if len(got) != maxRules+1 || !strings.Contains(got[0], "172.25.0.100:443/tcp and 2 more (") || !strings.Contains(got[maxRules], "42 more rules") {
		t.Errorf("said %d: %q", len(got), got)
	}
}

// The rules are read again when they, or what is asked, have changed.
func TestReaderRemembers(t *testing.T) {
	h := firewall(t)
	var r Reader
	says := func(want int, served ...lb.Listener) {
		t.Helper()
		tb.Do(t, h, func() error {
			got, err := r.Dropped(served, []string{"eth0", "gone0"})
			if len(got) != want {
				t.Errorf("said %q, want %d", got, want)
			}
			return err
		})
	}
	says(0, web)
	tb.Run(t, h, "iptables", "-A", "INPUT", "-d", "172.25.0.100", "-j", "DROP")
	says(1, web)
	r.answer = []string{"a", "b", "c"} // what is remembered
	says(3, web)
	says(1, web, listen(lb.UDP, 53))
	tb.Run(t, h, "iptables", "-F")
	says(0, web, listen(lb.UDP, 53))
}

func TestIPv6(t *testing.T) {
	h := firewall(t)
	six := lb.Listener{Addr: netip.MustParseAddr("2001:db8::100"), Proto: lb.TCP, First: 80, Last: 80}
	tb.Run(t, h, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP")
	if got := ask(t, h, six); len(got) != 0 {
		t.Errorf("IPv4 rules for IPv6: %q", got)
	}
	tb.Run(t, h, "ip6tables", "-A", "INPUT", "-d", "2001:db8::/64", "-p", "tcp", "--dport", "80", "-j", "DROP")
	if got := ask(t, h, six); len(got) != 1 || !strings.Contains(got[0], "[2001:db8::100]:80/tcp (table ip6 filter, chain INPUT, handle 2)") {
		t.Errorf("said %q", got)
	}
}

// quoted protects the braces and semicolons of nft from the shell.
func quoted(line string) string {
	if rest, ok := strings.CutPrefix(line, "nft "); ok {
		return "nft '" + strings.ReplaceAll(rest, `\;`, ";") + "'"
	}
	return line
}

func ask(t *testing.T, h *testenv.Host, served ...lb.Listener) []string {
	t.Helper()
	var got []string
	tb.Do(t, h, func() (err error) {
		got, err = new(Reader).Dropped(served, []string{"eth0"})
		return err
	})
	return got
}

func flush(t *testing.T, h *testenv.Host) {
	t.Helper()
	tb.Run(t, h, "sh", "-c", `nft flush ruleset
		for table in filter raw mangle nat; do iptables-legacy -t $table -F; ip6tables-legacy -t $table -F; done`)
}
