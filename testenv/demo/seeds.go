package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// acts are all scenes. Each act has a cluster of its own.
var acts = []act{
	{set: oneDirector, scenes: []scene{
		{"rr", "round robin: requests alternate, by IPv4 and by IPv6", roundRobin},
		{"direct", "direct routing: replies come straight from the reals", straightReplies},
		{"tunnel", "tunnels: packets reach the reals inside others, replies come straight from them", tunnelled},
		{"wrr", "wrr 1:2, changed while it runs", weighted},
		{"quiesce", "weight 0: old connections stay, new ones go elsewhere", quiesced},
		{"sh", "sh: a client keeps its real", sourceHash},
		{"ppc", "persistence of one port (PPC)", persistentPort},
		{"pfwm", "persistence of a group (PFWM): http and https reach one real", persistentMark},
		{"pcc", "persistence of a client (PCC): every port reaches one real", persistentClient},
		{"sorry", "no real left: the sorry server answers", sorryPage},
		{"deny", "iptables -A INPUT -j DROP, the lvx way", denied},
		{"health", "health checks: reals leave and return by themselves", healthChecks},
		{"vip", "a real without the VIP is down, and lvx says why", missingVIP},
		{"generic", "generic mode, where a driver takes no XDP program: both families", genericMode},
		{"exit", "a clean end: nothing is left on the director", cleanExit},
	}},
	{set: behindDirector, scenes: []scene{
		{"nat", "NAT: both ways through the director, another port on the reals", translated},
	}},
	{set: twoDirectors, scenes: []scene{
		{"kill", "the master is killed: the backup takes over", killedMaster},
		{"return", "it returns and preempts", returningMaster},
		{"stop", "it is stopped: make before break", stoppedMaster},
	}},
	{set: threeDirectors, needs: "bird", scenes: []scene{
		{"bgp", "more than two: every director announces the VIP, and one is killed under load", killedOfThree},
	}},
}

func oneDirector(ctx context.Context, s *stage) error {
	fmt.Fprintln(s.o.Out, "A client, a director and two real servers on one switch; the VIPs are "+vip+" and "+vip6+".")
	if err := s.build(ctx, testenv.Shape{Directors: 1}); err != nil {
		return err
	}
	s.say("reals r1, r2: VIPs on lo, arp_ignore=1, arp_announce=2; IPv6 needs no setting")
	return s.enableIPv6(ctx)
}

// twoReals is a service on some listeners with two reals.
func twoReals(name, listen, scheduler, rest string, weights ...int) string {
	return fmt.Sprintf(`services:
  - name: %s
    listen: [%s]
    scheduler: %s
    %s
    reals:
      - {address: 172.25.0.12, weight: %d}
      - {address: 172.25.0.13, weight: %d}
`, name, listen, scheduler, rest, weights[0], weights[1])
}

const http80 = `"` + vip + `:80/tcp"`

func roundRobin(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", bothFamilies()); err != nil {
		return err
	}
	s.say("lvx runs on d1, without an interface of its own and without IPVS")
	got := s.Curl(10, "http://"+vip)
	s.check("10 requests", got, "r2 r1 r2 r1 r2 r1 r2 r1 r2 r1")
	client, err := s.Get("http://"+vip+"/client", rig.Patience)
	if err != nil {
		return err
	}
	s.check("address that a real's log shows", client, "172.25.0.50")
	if err := viaIPv6(s); err != nil {
		return err
	}
	return s.list(ctx, "d1")
}

// straightReplies downloads ten megabytes and looks at the director's counters.
func straightReplies(_ context.Context, s *stage) error {
	const size = 10 << 20
	d1 := s.Cluster.Host("d1")
	before, err := d1.Counters("eth0")
	if err != nil {
		return err
	}
	body, err := s.Get(fmt.Sprintf("http://%s/bytes/%d", vip, size), 20*time.Second)
	if err != nil {
		return err
	}
	after, err := d1.Counters("eth0")
	if err != nil {
		return err
	}
	c := after.Sub(before)
	s.check("bytes downloaded", fmt.Sprint(len(body)), fmt.Sprint(size))
	s.verify("bytes through the director", fmt.Sprintf("%d in, %d out", c.RxBytes, c.TxBytes),
		"less than a tenth of the download", c.RxBytes < size/10 && c.TxBytes < size/10)
	return nil
}

func weighted(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "wrr", "", 1, 2)); err != nil {
		return err
	}
	s.say("the file says wrr 1:2 now; lvx reload")
	got := s.Curl(9, "http://"+vip)
	s.check("9 requests: r1, r2", fmt.Sprintf("%d, %d", strings.Count(got, "r1"), strings.Count(got, "r2")), "3, 6")
	return s.list(ctx, "d1")
}

// quiesced holds a connection to r2 open while r2 is drained.
func quiesced(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "", 1, 1)); err != nil {
		return err
	}
	conn, err := s.Hold("r2")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := s.LVX(ctx, "d1", "drain", "web", "172.25.0.13"); err != nil {
		return err
	}
	s.say("lvx drain web 172.25.0.13")
	s.check("new connections", s.Curl(4, "http://"+vip), "r1 r1 r1 r1")
	name, err := rig.Ask(conn)
	if err != nil {
		name = rig.Brief(err)
	}
	s.check("the old connection", name, "r2")
	if _, err := s.LVX(ctx, "d1", "drain", "web", "172.25.0.13", "--undo"); err != nil {
		return err
	}
	got := s.Curl(4, "http://"+vip)
	s.verify("after --undo", got, "r1 and r2 alternate", got == "r1 r2 r1 r2" || got == "r2 r1 r2 r1")
	return nil
}

// one reports whether all of the names are the same.
func one(names string) bool {
	f := strings.Fields(names)
	for _, n := range f {
		if n != f[0] {
			return false
		}
	}
	return len(f) > 0 && strings.HasPrefix(f[0], "r")
}

func sourceHash(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "sh", "", 1, 1)); err != nil {
		return err
	}
	got := s.Curl(6, "http://"+vip)
	s.verify("6 requests of one client", got, "one real", one(got))
	return nil
}

func persistentPort(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "persistence: {timeout: 360s}", 1, 1)); err != nil {
		return err
	}
	got := s.Curl(6, "http://"+vip)
	s.verify("6 requests of one client, rr -p", got, "one real", one(got))
	return s.list(ctx, "d1")
}

func persistentMark(ctx context.Context, s *stage) error {
	body := twoReals("shop", http80+`, "`+vip+`:443/tcp"`, "rr", "mark: 10\n    persistence: {timeout: 360s}", 1, 1)
	if err := s.Direct(ctx, "d1", body); err != nil {
		return err
	}
	got := s.Curl(3, "http://"+vip) + " " + s.Curl(3, "https://"+vip)
	s.verify("http and https of one client", got, "one real", one(got))
	out, err := s.LVX(ctx, "d1", "list", "-n", "-c")
	if err != nil {
		return err
	}
	s.check("templates of the client for mark 10", fmt.Sprint(strings.Count(out, " 0.0.0.10:0 ")), "1")
	return s.list(ctx, "d1")
}

func persistentClient(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", twoReals("all", `"`+vip+`"`, "rr", "persistence: {timeout: 360s}", 1, 1)); err != nil {
		return err
	}
	got := s.Curl(2, "http://"+vip) + " " + s.Curl(2, "https://"+vip) + " " + s.Curl(2, "http://"+vip+":2222")
	s.verify("ports 80, 443, 2222 of one client", got, "one real", one(got))
	return nil
}

func sorryPage(ctx context.Context, s *stage) error {
	if err := s.sorryServer(); err != nil {
		return err
	}
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "sorry_server: 127.0.0.1", 0, 0)); err != nil {
		return err
	}
	s.check("both reals at weight 0", s.Curl(2, "http://"+vip), "d1 d1")
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "sorry_server: 127.0.0.1", 1, 1)); err != nil {
		return err
	}
	got := s.Curl(4, "http://"+vip)
	s.verify("the reals are back", got, "r1 and r2 alternate", got == "r1 r2 r1 r2" || got == "r2 r1 r2 r1")
	return nil
}

func denied(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "deny: [172.25.0.50/32]", 1, 1)); err != nil {
		return err
	}
	got, err := s.Get("http://"+vip, time.Second)
	if err != nil {
		got = rig.Brief(err)
	}
	s.check("the client is on the deny list", got, "timeout")
	out, err := s.LVX(ctx, "d1", "explain", "tcp", "172.25.0.50:40000", vip+":80")
	if err != nil {
		return err
	}
	s.verify("lvx explain says why", lastLine(out), "denied", strings.Contains(out, "den"))
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "", 1, 1)); err != nil {
		return err
	}
	got = s.Curl(2, "http://"+vip)
	s.verify("the list is gone", got, "both reals", got == "r1 r2" || got == "r2 r1")
	return nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// cleanExit ends the daemon and looks for leftovers.
func cleanExit(ctx context.Context, s *stage) error {
	d1 := s.Cluster.Host("d1")
	if err := s.Direct(ctx, "d1", inGenericMode+bothFamilies()); err != nil {
		return err
	}
	if err := s.Stop("d1"); err != nil {
		return fmt.Errorf("lvx run after SIGTERM: %w", err)
	}
	left, err := leftovers(ctx, d1)
	if err != nil {
		return err
	}
	s.check("left on the director", left, "nothing")
	return nil
}
