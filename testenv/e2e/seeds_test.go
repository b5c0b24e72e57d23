package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

const examples = "../../docs/examples"

// articleAddrs maps the addresses of the articles, and those of the README,
// to the test network's.
var articleAddrs = strings.NewReplacer(
	"192.168.79.99", rig.VIP, "192.168.79.27", "172.25.0.12", "192.168.79.37", "172.25.0.13",
	"172.16.4.101", "172.25.0.12", "172.16.4.102", "172.25.0.13", "172.16.4.1", rig.VIP,
	"192.168.1.111", rig.VIP, "192.168.1.102", "172.25.0.12", "192.168.1.103", "172.25.0.13",
	"192.168.1.100", rig.VIP, "192.168.1.11", "172.25.0.12", "192.168.1.12", "172.25.0.13",
)

// example reads an example file and changes nothing but the addresses. The
// rig's head names the interface.
func example(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, name+".yaml"))
	must(t, err)
	if !strings.Contains(string(text), "interface: eth0\n") {
		t.Fatalf("%s: another interface than eth0", name)
	}
	return articleAddrs.Replace(strings.Replace(string(text), "interface: eth0\n", "", 1))
}

// seed is one example while it runs.
type seed struct {
	*testing.T
	*rig.Rig
	body string
}

// curl asks ports of the VIP, n times each in turn, and gives the names of
// those who answered.
func (s *seed) curl(n int, ports ...int) string {
	var names []string
	for range n {
		for _, p := range ports {
			scheme := "http"
			if p == 443 {
				scheme = "https"
			}
			names = append(names, s.Curl(1, fmt.Sprintf("%s://%s:%d", scheme, rig.VIP, p)))
		}
	}
	return strings.Join(names, " ")
}

func (s *seed) want(what, got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("%s: %s, want %s", what, got, want)
	}
}

// same wants one real for all requests.
func (s *seed) same(got string) {
	s.Helper()
	names := strings.Fields(got)
	for _, n := range names {
		if n != names[0] || n != "r1" && n != "r2" {
			s.Errorf("requests of one client: %s, want one real", got)
			return
		}
	}
}

// list runs lvx list -n and wants lines; blanks are taken as one.
func (s *seed) list(args []string, lines ...string) {
	s.Helper()
	out, err := s.LVX(s.Context(), "d1", append([]string{"list", "-n"}, args...)...)
	must(s.T, err)
	have := strings.Split(out, "\n")
	for i := range have {
		have[i] = strings.Join(strings.Fields(have[i]), " ")
	}
	for _, l := range lines {
		re := regexp.MustCompile("^" + l + "$")
		if !slices.ContainsFunc(have, re.MatchString) {
			s.Errorf("lvx list -n %s does not show %q:\n%s", strings.Join(args, " "), l, out)
		}
	}
}

func (s *seed) lvx(args ...string) string {
	s.Helper()
	out, err := s.LVX(s.Context(), "d1", args...)
	must(s.T, err)
	return out
}

// edit changes a word of the file and reloads.
func (s *seed) edit(old, new string) {
	s.Helper()
	if !strings.Contains(s.body, old) {
		s.Fatalf("no %q in the file:\n%s", old, s.body)
	}
	s.body = strings.Replace(s.body, old, new, 1)
	must(s.T, s.Direct(s.Context(), "d1", s.body))
}

func route(real int, port, weight int) string {
	return fmt.Sprintf(`-> 172\.25\.0\.%d:%d Route %d \d+ \d+`, real, port, weight)
}

const (
	vipRE = `172\.25\.0\.100`
	twice = "r2 r1 r2 r1"
)

// seeds says what one sees with every example (docs/seeds.md).
var seeds = map[string]func(*seed){
	"001-firewall": func(s *seed) {
		s.want("everybody is denied", s.timeout(), "timeout")
		s.list(nil, "TCP "+vipRE+":80 rr")
		s.edit("deny: [0.0.0.0/0]", "deny: [198.51.100.0/24]")
		s.want("others are denied", s.curl(4, 80), twice)
	},
	"001-script": seedScript,
	"002-dr": func(s *seed) {
		s.want("10 requests", s.curl(10, 80), "r2 r1 r2 r1 r2 r1 r2 r1 r2 r1")
		s.list(nil, "TCP "+vipRE+":80 rr", route(12, 80, 1), route(13, 80, 1))
		s.list([]string{"--stats"}, "TCP "+vipRE+`:80 10 [1-9]\d* 0 [1-9]\d* 0`, `-> 172\.25\.0\.12:80 5 \d+ 0 \d+ 0`)
		s.list([]string{"--rate"}, "TCP "+vipRE+`:80 \d+ \d+ 0 \d+ 0`)
		if out := run(s.T, s.Cluster.Host("d1"), "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, rig.VIP+"/32") {
			s.Errorf("the VIP is not on the director's eth0:\n%s", out)
		}
		if out := run(s.T, s.Cluster.Host("r1"), "ip", "addr", "show", "dev", "lo"); !strings.Contains(out, rig.VIP+"/32") {
			s.Errorf("the VIP is not on the real's lo:\n%s", out)
		}
		s.edit("scheduler: rr", "scheduler: wrr")
		s.edit("address: 172.25.0.13, weight: 1", "address: 172.25.0.13, weight: 2")
		got := s.curl(9, 80)
		s.want("weights 1 and 2 after -E and -e", fmt.Sprint(strings.Count(got, "r1"), strings.Count(got, "r2")), "3 6")
	},
	"002-every-port": func(s *seed) {
		s.same(s.curl(3, 80, 443, 22))
		s.list(nil, "TCP "+vipRE+":0 rr persistent 360", route(12, 0, 1), route(13, 0, 1))
	},
	"002-mark": func(s *seed) {
		s.same(s.curl(5, 80, 443))
		s.list(nil, "FWM 3 sh", route(12, 0, 1), route(13, 0, 1))
		s.edit("scheduler: sh", "scheduler: rr")
		s.list(nil, "FWM 3 rr")
		s.want("http and https in turn", s.curl(4, 80, 443), twice+" "+twice)
	},
	"002-sorry": seedSorry,
	"002-wrr": func(s *seed) {
		s.want("weights 1 and 2", s.curl(9, 80), "r2 r1 r2 r2 r1 r2 r2 r1 r2")
		s.list(nil, "TCP "+vipRE+":80 wrr", route(12, 80, 1), route(13, 80, 2))
		conn, err := s.Hold("r1")
		must(s.T, err)
		defer conn.Close()
		s.lvx("weight", "web", "172.25.0.12", "0")
		s.list(nil, route(12, 80, 0), route(13, 80, 2))
		s.want("weight 0", s.curl(4, 80), "r2 r2 r2 r2")
		name, err := rig.Ask(conn)
		must(s.T, err)
		s.want("the connection that was there", name, "r1")
	},
	"003-mark": func(s *seed) {
		s.want("by mark as by address", s.curl(4, 80), twice)
		s.list(nil, "FWM 10 rr", route(12, 0, 1), route(13, 0, 1))
		if out := run(s.T, s.Cluster.Host("d1"), "iptables", "-t", "mangle", "-S"); strings.Contains(out, "MARK") {
			s.Errorf("an iptables rule:\n%s", out)
		}
	},
	"003-persistent-client": func(s *seed) {
		s.same(s.curl(3, 80, 23))
		s.list(nil, "TCP "+vipRE+":0 rr persistent 360", route(12, 0, 1), route(13, 0, 1))
	},
	"003-persistent-mark": func(s *seed) {
		s.same(s.curl(3, 80, 443))
		s.list(nil, "FWM 10 rr persistent 360")
		s.edit("    persistence: {timeout: 360s}\n", "")
		s.list(nil, "FWM 10 rr")
		s.edit("    mark: 10\n", "")
		must(s.T, s.Direct(s.Context(), "d1", service("")))
		if out := s.lvx("list", "-n"); strings.Contains(out, "FWM") {
			s.Errorf("the service was taken out and is still listed:\n%s", out)
		}
	},
	"003-persistent-port": func(s *seed) {
		http, telnet := s.curl(3, 80), s.curl(3, 23)
		s.same(http)
		s.same(telnet)
		s.list(nil, "TCP "+vipRE+":80 rr persistent 360", "TCP "+vipRE+":23 rr persistent 360")
		template := func(port int) string {
			return fmt.Sprintf(`TCP \d\d:\d\d \w+ 172\.25\.0\.50:0 %s:%d 172\.25\.0\.1[23]:%d`, vipRE, port, port)
		}
		s.list([]string{"--connections"}, template(80), template(23))
	},
	"004-client": func(s *seed) {
		got := s.curl(3, 80, 443, 22)
		name := s.udp("53")
		s.same(got + " " + name)
		s.list(nil, `FWM \d+ rr persistent 360`)
	},
	"004-https": func(s *seed) {
		s.want("http", s.curl(4, 80), twice)
		s.want("https, scheduled apart", s.curl(3, 443), "r2 r1 r2")
		s.want("both in turn", s.curl(2, 80, 443), "r2 r1 r1 r2")
		s.list(nil, "TCP "+vipRE+":80 rr", "TCP "+vipRE+":443 rr", route(12, 80, 1), route(12, 443, 1))
	},
	"004-mark": func(s *seed) {
		s.want("web, ssh and https as one", s.curl(2, 80, 22, 443), "r2 r1 r2 r1 r2 r1")
		s.list(nil, "FWM 10 rr", route(12, 0, 1))
	},
	"004-web": func(s *seed) {
		s.want("pages", s.curl(4, 80), twice)
		s.list(nil, "TCP "+vipRE+":80 rr", route(12, 80, 1), route(13, 80, 1))
	},
	"quickstart": func(s *seed) { s.want("wrr", s.curl(6, 80), "r2 r1 r2 r2 r1 r2") },
}

// elsewhere are the examples that need more than a director in XDP.
var elsewhere = []string{
	"001-keepalived-master", "001-keepalived-backup", // TestSeedKeepalived
	"002-nat", // two networks: TestVerbatimNAT
}

// timeout asks with little patience.
func (s *seed) timeout() string {
	if name, err := s.Get("http://"+rig.VIP, 500*time.Millisecond); err == nil {
		return name
	} else {
		return rig.Brief(err)
	}
}

// udp sends one datagram to the VIP and gives the name that came back.
func (s *seed) udp(port string) string {
	s.Helper()
	conn, err := s.Client.Dial(s.Context(), "udp", rig.VIP+":"+port)
	must(s.T, err)
	defer conn.Close()
	must(s.T, conn.SetDeadline(time.Now().Add(rig.Patience)))
	_, err = conn.Write([]byte("who is there?"))
	must(s.T, err)
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	must(s.T, err)
	return strings.TrimSpace(string(buf[:n]))
}

// The first article: a web server of the director's own disturbs nobody, an
// INPUT rule does not matter, a real that stops leaves the list by itself.
func seedScript(s *seed) {
	d1 := s.Cluster.Host("d1")
	inTurn := []string{"r1 r2 r1 r2", twice} // health decides who is first
	if got := s.curl(4, 80); !slices.Contains(inTurn, got) {
		s.Errorf("4 requests: %s", got)
	}
	s.list(nil, "TCP "+vipRE+":80 rr", route(12, 80, 1), route(13, 80, 1))
	run(s.T, d1, "iptables", "-A", "INPUT", "-d", rig.VIP, "-j", "DROP")
	if got := s.curl(4, 80); !slices.Contains(inTurn, got) {
		s.Errorf("4 requests with an INPUT rule: %s", got)
	}
	const warning = "netfilter would drop packets to " + rig.VIP + ":80/tcp (table ip filter, chain INPUT, handle "
	eventually(s.T, func() error { // with the next drift pass
		if out := s.lvx("status"); !strings.Contains(out, "warning: firewall: "+warning) {
			return fmt.Errorf("no warning of the INPUT rule:\n%s", out)
		}
		return nil
	})
	if log := s.Daemons["d1"].Output(); strings.Count(log, warning) != 1 || !strings.Contains(log, "level=WARN msg=\""+warning) {
		s.Errorf("no warning in the log:\n%s", log)
	}
	run(s.T, d1, "iptables", "-F", "INPUT")
	must(s.T, s.Webs["r1"].Close())
	down(s.T, s.Rig, "172.25.0.12", "refused")
	s.want("r1 is out", s.curl(4, 80), "r2 r2 r2 r2")
	if out := s.lvx("list", "-n"); strings.Contains(out, "172.25.0.12") {
		s.Errorf("r1 is still listed:\n%s", out)
	}
	w, err := s.Cluster.Host("r1").ServeWeb(":80", ":443")
	must(s.T, err)
	s.Webs["r1"] = w
	realsUp(s.T, s.Rig, "r1", "r2")
}

// The second article: weight 0 for one, then for both; a page on the
// director.
func seedSorry(s *seed) {
	realsUp(s.T, s.Rig, "r1", "r2")
	s.lvx("weight", "web", "172.25.0.12", "0")
	s.want("r1 at weight 0", s.curl(3, 80), "r2 r2 r2")
	s.lvx("weight", "web", "172.25.0.13", "0")
	s.want("both at weight 0", s.curl(2, 80), "d1 d1")
	s.lvx("weight", "web", "172.25.0.13", "--clear")
	s.want("r2 is back", s.curl(2, 80), "r2 r2")
}

// Every example runs as it is, and shows what docs/seeds.md says.
func TestSeeds(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(examples + "/*.yaml")
	must(t, err)
	r := newRig(t, testenv.Shape{Directors: 1})
	equipSeeds(t, r)
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		if slices.Contains(elsewhere, name) {
			continue
		}
		play := seeds[name]
		if play == nil {
			t.Errorf("%s: no test says what one sees with it", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := &seed{T: t, Rig: r, body: example(t, name)}
			must(t, r.Direct(t.Context(), "d1", s.body))
			defer func() {
				if t.Failed() {
					t.Log(r.Logs())
				}
				must(t, r.Stop("d1"))
				nothingLeft(t, r, "d1")
				must(t, os.RemoveAll(filepath.Join(r.Cluster.Host("d1").Dir(), "overrides.json")))
			}()
			if strings.Contains(s.body, "check:") {
				realsUp(t, r, "r1", "r2")
			}
			play(s)
		})
	}
}

// equipSeeds adds what the articles' servers have beyond the rig's: telnet,
// ssh, a name server; a page on the director.
func equipSeeds(t *testing.T, r *rig.Rig) {
	t.Helper()
	for _, name := range []string{"r1", "r2"} {
		h := r.Cluster.Host(name)
		w, err := h.ServeWeb(":22", ":23")
		must(t, err)
		p, err := h.ListenPacket("udp", rig.VIP+":53")
		must(t, err)
		go w.ServeUDP(p)
	}
	_, err := r.Cluster.Host("d1").ServeWeb(":80")
	must(t, err)
}

// The second half of the first article: two directors with keepalived's
// configuration.
func TestSeedKeepalived(t *testing.T) {
	t.Parallel()
	r := newRig(t, testenv.Shape{})
	for director, name := range map[string]string{"d1": "001-keepalived-master", "d2": "001-keepalived-backup"} {
		must(t, r.Direct(t.Context(), director, example(t, name)))
	}
	owner := func(name string) {
		t.Helper()
		eventually(t, func() error {
			out, err := r.LVX(t.Context(), name, "status")
			if err != nil || !strings.Contains(out, "MASTER") {
				return fmt.Errorf("%s is not master: %v\n%s", name, err, out)
			}
			return nil
		})
		realsUp(t, r, "r1", "r2")
		mac := r.Cluster.Host(name).MAC("eth0").String()
		if out := run(t, r.Client, "ip", "neigh", "show", rig.VIP); !strings.Contains(out, mac) {
			t.Errorf("%s is master, the client's ARP table has %s, want %s", name, out, mac)
		}
	}
	owner("d1")
	must(t, r.Stop("d1"))
	owner("d2")
	must(t, r.Start(t.Context(), "d1"))
	owner("d1")
}
