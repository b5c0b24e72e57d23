package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

const hashFormat = `Format. A section begins with "== title" and ends at the next one. "$ command" lines build the table in order (rsN is 10.0.0.(10+N)
or 2001:db8::(10+N); the service is 10.0.0.100, [2001:db8::100] or firewall mark 1). Then come rows of 64 digits, one SYN per digit,
in the order sent: N = rsN got it, "-" = nobody. The label in front says what varies from digit to digit, counted from the number in it:
  .N   the client's address is 172.16.0.N (IPv6: 2001:db8:1:: plus N); port 1024
  :N   the client's port is N; address 172.16.0.5
  >N   the destination is 198.51.100.N, port 80 (IPv6: 2001:db8:2:: plus N); client 172.16.0.5 port 1024 (2001:db8:1::5)
Connections stay: every SYN of a section is a connection of its own, all in SYN_RECV. "$" lines after rows are edits; the rows after them use
client ports from 2048 on (each further edit 1024 more), or the next clients where the label is ":".
`

// A sweep is what varies over the SYNs of a section.
type sweep int

const (
	byClient sweep = iota
	byPort
	byTarget
	byClient6
	byTarget6
)

// A hashCase is one section: a service, its reals, and edits in between.
type hashCase struct {
	title   string
	service string // what follows "ipvsadm -A"
	reals   []string
	sweep   sweep
	edits   [][]string
}

// weights lists reals rs1, rs2, … with weights for a service.
func weights(service string, ws ...int) []string {
	var reals []string
	for i, w := range ws {
		reals = append(reals, real(service, i+1, w))
	}
	return reals
}

// real is what follows "ipvsadm -a" for rs n.
func real(service string, n, weight int) string {
	words := strings.Fields(service)
	host := onearm.Real(n).String()
	switch {
	case strings.Contains(service, "["):
		host = "[" + onearm.Real6(n).String() + "]:80"
	case strings.HasSuffix(service, " -6"):
		host = "[" + onearm.Real6(n).String() + "]:0"
	}
	id := strings.Join(words[:2], " ")
	if words[len(words)-1] == "-6" {
		id += " -6"
	}
	return fmt.Sprintf("%s -r %s -g -w %d", id, host, weight)
}

const (
	tcp    = "-t 10.0.0.100:80"
	tcp6   = "-t [2001:db8::100]:80"
	marked = "-f 1"
)

func recordHashes(t *transcript) error {
	t.printf("%s", hashFormat)
	var cases []hashCase
	cases = append(cases, dhCases()...)
	cases = append(cases, mhCases()...)
	cases = append(cases, mhFlagCases()...)
	cases = append(cases, shCases()...)
	for _, c := range cases {
		if !t.only.MatchString(c.title) {
			continue
		}
		if err := c.record(t); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
	}
	return nil
}

func simple(sched string, sw sweep, service string, ws ...int) hashCase {
	return hashCase{
		title:   fmt.Sprintf("%s weights %s", sched, strings.Trim(strings.ReplaceAll(fmt.Sprint(ws), " ", ","), "[]")),
		service: service + " -s " + sched, sweep: sw, reals: weights(service, ws...),
	}
}

func dhCases() []hashCase {
	cases := []hashCase{
		simple("dh", byTarget, marked, 1, 1),
		simple("dh", byTarget, marked, 1, 1, 1),
		simple("dh", byTarget, marked, 1, 2),
		simple("dh", byTarget, marked, 1, 0, 1),
		simple("dh", byTarget, marked, 1, 1, 1, 1, 1, 1, 1),
	}
	one := simple("dh", byClient, tcp, 1, 1, 1)
	one.title += " one destination"
	order := simple("dh", byTarget, marked, 1, 1)
	order.title, order.reals = "dh added 2, 1", []string{real(marked, 2, 1), real(marked, 1, 1)}
	readd := simple("dh", byTarget, marked, 1, 1, 1)
	readd.title += ", rs2 deleted, added again"
	readd.edits = [][]string{{"-d -f 1 -r 10.0.0.12"}, {"-a " + real(marked, 2, 1)}}
	six := simple("dh", byTarget6, marked+" -6", 1, 1, 1)
	six.title = "dh IPv6 weights 1,1,1"
	six.service = "-f 1 -s dh -6"
	return append(cases, one, order, readd, six)
}

func mhCases() []hashCase {
	var cases []hashCase
	for _, ws := range [][]int{
		{1}, {1, 1}, {1, 1, 1}, {1, 2}, {3, 1, 2}, {2, 4, 6}, {5, 5, 5}, {100, 1, 1}, {255, 128, 3}, {65535, 1}, {300, 200, 100},
		{1, 1, 1, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9}, {64, 63, 65}, {1, 0, 1}, {0, 0},
	} {
		cases = append(cases, simple("mh", byClient, tcp, ws...))
	}
	order := simple("mh", byClient, tcp, 1, 1, 1)
	order.title, order.reals = "mh added 3, 1, 2", []string{real(tcp, 3, 1), real(tcp, 1, 1), real(tcp, 2, 1)}
	mark := simple("mh", byClient, marked, 1, 1, 1)
	mark.title = "mh firewall mark (reals have port 0) weights 1,1,1"
	readd := simple("mh", byClient, tcp, 1, 1, 1)
	readd.title += ", rs2 deleted, added again"
	readd.edits = [][]string{{"-d " + tcp + " -r 10.0.0.12"}, {"-a " + real(tcp, 2, 1)}}
	edit := simple("mh", byClient, tcp, 1, 1, 1)
	edit.title += ", then rs1 weight 5, then 0, then 1"
	edit.edits = [][]string{{"-e " + real(tcp, 1, 5)}, {"-e " + real(tcp, 1, 0)}, {"-e " + real(tcp, 1, 1)}}
	six := simple("mh", byClient6, tcp6, 1, 1, 1)
	six.title = "mh IPv6 weights 1,1,1"
	ports := simple("mh", byPort, tcp, 1, 1, 1)
	ports.title += " by port"
	return append(cases, order, mark, readd, edit, six, ports)
}

func mhFlagCases() []hashCase {
	flagged := func(flags string, sw sweep, service string, ws ...int) hashCase {
		c := simple("mh", sw, service, ws...)
		c.title = strings.Replace(c.title, "mh", "mh "+flags, 1)
		c.service += " -b " + flags
		return c
	}
	over := flagged("mh-fallback", byClient, tcp, 1, 1, 1)
	over.title += ", rs2 with -x 10"
	over.reals[1] += " -x 10"
	overPlain := simple("mh", byClient, tcp, 1, 1, 1)
	overPlain.title += ", rs2 with -x 10"
	overPlain.reals[1] += " -x 10"
	clients := flagged("mh-port", byClient, tcp, 1, 1, 1)
	clients.title += " by client"
	six := flagged("mh-fallback,mh-port", byClient6, tcp6, 1, 0, 2, 1)
	six.title += " IPv6"
	return []hashCase{
		flagged("mh-port", byPort, tcp, 1, 1, 1),
		clients,
		flagged("mh-port", byPort, tcp, 3, 1, 2),
		flagged("mh-port", byPort, marked, 1, 2),
		flagged("mh-fallback", byClient, tcp, 1, 0, 1),
		flagged("mh-fallback", byClient, tcp, 0, 0, 1),
		flagged("mh-fallback", byClient, tcp, 0, 0),
		flagged("mh-fallback", byClient, tcp, 2, 1, 0, 3),
		flagged("mh-fallback,mh-port", byPort, tcp, 1, 0, 1),
		flagged("mh-fallback,mh-port", byPort, tcp, 2, 0, 0, 1),
		over, overPlain, six,
	}
}

func shCases() []hashCase {
	flagged := func(flags string, sw sweep, service string, ws ...int) hashCase {
		c := simple("sh", sw, service, ws...)
		c.title = strings.Replace(c.title, "sh", "sh "+flags, 1)
		c.service += " -b " + flags
		return c
	}
	over := flagged("sh-fallback", byClient, tcp, 1, 1, 1)
	over.title += ", rs2 with -x 10"
	over.reals[1] += " -x 10"
	overPlain := simple("sh", byClient, tcp, 1, 1, 1)
	overPlain.title += ", rs2 with -x 10"
	overPlain.reals[1] += " -x 10"
	edit := simple("sh", byClient, tcp, 1, 1, 1)
	edit.title += ", then rs2 weight 3, then rs1 deleted, then added again"
	edit.edits = [][]string{{"-e " + real(tcp, 2, 3)}, {"-d " + tcp + " -r 10.0.0.11"}, {"-a " + real(tcp, 1, 1)}}
	six := simple("sh", byClient6, tcp6, 1, 2, 1)
	six.title = "sh IPv6 weights 1,2,1"
	mark := flagged("sh-port", byPort, marked, 1, 1, 1)
	mark.title += " firewall mark"
	return []hashCase{
		flagged("sh-port", byPort, tcp, 1, 1, 1),
		flagged("sh-port", byPort, tcp, 3, 1, 2),
		flagged("sh-fallback,sh-port", byPort, tcp, 1, 0, 1),
		flagged("sh-fallback,sh-port", byPort, tcp, 0, 1, 0, 2),
		flagged("sh-fallback", byClient, tcp, 2, 1, 0, 3),
		flagged("sh-fallback", byClient, tcp, 0, 0),
		over, overPlain, edit, six, mark,
	}
}

// record plays one section in a network of its own, because connections
// outlive the table they came from.
func (c hashCase) record(t *transcript) (err error) {
	n, err := onearm.New(vip, vip6)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := n.Close(); err == nil {
			err = cerr
		}
	}()
	if err := route(strings.HasPrefix(c.service, marked)); err != nil {
		return err
	}
	t.printf("\n== %s\n", c.title)
	if err := t.command("ipvsadm -A " + c.service); err != nil {
		return err
	}
	for _, r := range c.reals {
		if err := t.command("ipvsadm -a " + r); err != nil {
			return err
		}
	}
	for round := 0; ; round++ {
		if err := c.rows(t, n, round); err != nil {
			return err
		}
		if round == len(c.edits) {
			return nil
		}
		for _, e := range c.edits[round] {
			if err := t.command("ipvsadm " + e); err != nil {
				return err
			}
		}
	}
}

// route makes the target networks local, and marks what goes to the VIPs and
// to them if the service is a mark's.
func route(mark bool) error {
	lines := []string{
		"ip route add local 198.51.100.0/24 dev lo",
		"ip -6 route add local 2001:db8:2::/112 dev lo",
	}
	if mark {
		lines = append(lines,
			"nft add table inet m",
			"nft add chain inet m c { type filter hook prerouting priority -150 ; policy accept ; }",
			"nft add rule inet m c meta l4proto tcp meta mark set 1")
	}
	for _, l := range lines {
		if err := quietly(l); err != nil {
			return err
		}
	}
	return nil
}

// rows sends 256 SYNs and writes down who got each.
func (c hashCase) rows(t *transcript, n *onearm.Net, round int) error {
	label := [...]string{byClient: ".", byClient6: ".", byPort: ":", byTarget: ">", byTarget6: ">"}[c.sweep]
	for row := range 4 {
		first := row * 64
		var digits strings.Builder
		for i := first; i < first+64; i++ {
			d, err := choose(n, c.packet(i, round))
			if err != nil {
				return err
			}
			digits.WriteString(d)
		}
		if c.sweep == byPort {
			first += 20000 + 256*round
		}
		t.printf("  %-7s%s\n", fmt.Sprint(label, first), digits.String())
	}
	return nil
}

// packet is SYN i of a section.
func (c hashCase) packet(i, round int) onearm.Packet {
	port := uint16(1024 * (round + 1))
	p := onearm.Packet{Flags: "S"}
	switch c.sweep {
	case byClient:
		p.Src, p.Dst = netip.AddrPortFrom(offset(client, i), port), netip.AddrPortFrom(vip, 80)
	case byPort:
		p.Src, p.Dst = netip.AddrPortFrom(offset(client, 5), uint16(20000+256*round+i)), netip.AddrPortFrom(vip, 80)
	case byTarget:
		p.Src, p.Dst = netip.AddrPortFrom(offset(client, 5), port), netip.AddrPortFrom(offset(netip.MustParseAddr("198.51.100.0"), i), 80)
	case byClient6:
		p.Src, p.Dst = netip.AddrPortFrom(offset(netip.MustParseAddr("2001:db8:1::"), i), port), netip.AddrPortFrom(vip6, 80)
	case byTarget6:
		p.Src, p.Dst = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1::5"), port), netip.AddrPortFrom(offset(netip.MustParseAddr("2001:db8:2::"), i), 80)
	}
	return p
}
