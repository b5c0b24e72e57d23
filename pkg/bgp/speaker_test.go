package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
)

// The router is client of the standard network, the directors are its d1 and
// d2.
const (
	routerASN   = 65000
	directorASN = 65010
)

// lab is a network with BIRD on the router.
type lab struct {
	*testenv.Cluster
	t    *testing.T
	dir  string
	bird *testenv.Process

	speakers []*director
}

// birdConf is a router that takes what directors announce and announces a
// default route and others to them.
const birdConf = `
router id 172.25.0.50;
log "%[1]s/bird.log" all;
protocol device {}
protocol kernel { merge paths on; ipv4 { export where source = RTS_BGP; }; }
protocol kernel { merge paths on; ipv6 { export where source = RTS_BGP; }; }
protocol static { ipv4; route 0.0.0.0/0 blackhole; route 198.51.100.0/24 blackhole; }
protocol bfd { interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
template bgp director {
  local 172.25.0.50 as 65000;
  hold time 9;
  direct;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import filter { if (65535,0) ~ bgp_community then bgp_local_pref = 0; accept; }; export all; };
}
protocol bgp d1 from director { neighbor 172.25.0.11 as %[2]d; %[3]s }
protocol bgp d2 from director { neighbor 172.25.0.14 as 65010; }
protocol bgp d1v6 { local fd00::50 as 65000; neighbor fd00::11 as 65010; hold time 9; direct; ipv6 { import all; export none; }; }
`

// newLab starts BIRD; asn and extra are what it expects of d1.
func newLab(t *testing.T, asn uint32, extra string) *lab {
	t.Helper()
	l := newNetwork(t, testenv.Shape{})
	l.addIPv6()
	l.startBIRD(fmt.Sprintf(birdConf, l.dir, asn, extra))
	return l
}

// newNetwork is one whose router runs nothing yet.
func newNetwork(t *testing.T, shape testenv.Shape) *lab {
	t.Helper()
	c, err := testenv.New(testenv.Standard(shape))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &lab{Cluster: c, t: t, dir: c.Host("client").Dir()}
}

// addIPv6 gives the router and d1 addresses of IPv6.
func (l *lab) addIPv6() {
	l.t.Helper()
	for host, addr := range map[string]string{"client": "fd00::50/64", "d1": "fd00::11/64"} {
		if err := l.Host(host).AddAddr("eth0", netip.MustParsePrefix(addr)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// startBIRD runs it on the router.
func (l *lab) startBIRD(conf string) {
	l.t.Helper()
	path := filepath.Join(l.dir, "bird.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		l.t.Fatal(err)
	}
	var err error
	if l.bird, err = l.Host("client").Start("bird", "-f", "-c", path, "-s", filepath.Join(l.dir, "bird.ctl"), "-P", filepath.Join(l.dir, "bird.pid")); err != nil {
		l.t.Fatal(err)
	}
}

// birdc asks the router.
func (l *lab) birdc(words ...string) string {
	out, _ := l.Host("client").Run(l.t.Context(), append([]string{"birdc", "-s", filepath.Join(l.dir, "bird.ctl")}, words...)...)
	return out
}

// director is a speaker in a process of its own: GoBGP opens its sockets on
// threads of its choosing, so a namespace has to be the whole process's.
type director struct {
	*testenv.Process
	t   *testing.T
	dir string
}

// orders are what a director is told, by a file.
type orders struct {
	Config Config
	Routes []Route
}

// speak starts a speaker on a host.
func (l *lab) speak(host, addr string, change func(*Config)) *director {
	l.t.Helper()
	c := Config{
		ASN: directorASN, RouterID: netip.MustParseAddr(addr),
		Peers: []Peer{{Address: netip.MustParseAddr("172.25.0.50"), ASN: routerASN, HoldTime: 9 * time.Second}},
	}
	if change != nil {
		change(&c)
	}
	d := &director{t: l.t, dir: l.Host(host).Dir()}
	d.order(orders{Config: c})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), speakerEnv+"="+d.dir)
	var err error
	if d.Process, err = l.Host(host).StartCmd(cmd); err != nil {
		l.t.Fatal(err)
	}
	l.speakers = append(l.speakers, d)
	return d
}

func (d *director) order(o orders) {
	d.t.Helper()
	if err := writeJSON(filepath.Join(d.dir, "orders"), o); err != nil {
		d.t.Fatal(err)
	}
}

// announce makes the director announce exactly these routes.
func (d *director) announce(routes ...Route) {
	d.t.Helper()
	var o orders
	if err := readJSON(filepath.Join(d.dir, "orders"), &o); err != nil {
		d.t.Fatal(err)
	}
	o.Routes = routes
	d.order(o)
}

// status is what the speaker says of its router.
func (d *director) status() PeerStatus {
	var st []PeerStatus
	if readJSON(filepath.Join(d.dir, "status"), &st) != nil || len(st) == 0 {
		return PeerStatus{}
	}
	return st[0]
}

const speakerEnv = "LVX_TEST_BGP_SPEAKER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(speakerEnv); dir != "" {
		if err := runSpeaker(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runSpeaker does what the orders in dir say until SIGTERM.
func runSpeaker(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var o orders
	if err := readJSON(filepath.Join(dir, "orders"), &o); err != nil {
		return err
	}
	s := NewSpeaker(o.Config, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	asking := context.WithoutCancel(ctx) // SIGTERM ends the loop, and fails nothing that is under way
	if err := s.Start(asking); err != nil {
		return err
	}
	defer s.Stop()
	for ctx.Err() == nil {
		var o orders // the speaker has the lists of the first ones
		if err := readJSON(filepath.Join(dir, "orders"), &o); err != nil {
			return err
		}
		if err := s.Set(o.Routes); err != nil {
			return err
		}
		st, err := s.Status(asking)
		if err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(dir, "status"), st.Peers); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func (l *lab) eventually(what string, is func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(l.dir, "bird.log"))
			for _, d := range l.speakers {
				l.t.Logf("speaker: %s", d.Output())
			}
			l.t.Fatalf("not within 30 s: %s\n%s\n%s%s", what, l.birdc("show", "protocols", "all"), l.bird.Output(), log)
		}
	}
}

// routes is the router's kernel table for an address.
func (l *lab) routes(addr netip.Addr) string {
	family := "-4"
	if addr.Is6() {
		family = "-6"
	}
	out, err := l.Host("client").Run(l.t.Context(), "ip", family, "route", "show", addr.String())
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestRouterSpreadsOverDirectorsThatAnnounce(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, "")
	d1 := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.Peers = append(c.Peers, Peer{Address: netip.MustParseAddr("fd00::50"), ASN: routerASN})
	})
	d2 := l.speak("d2", "172.25.0.14", nil)
	l.eventually("both sessions stand", func() bool { return d1.status().IsUp && d2.status().IsUp })
	if r := l.routes(vip); r != "" {
		t.Errorf("the router knows %q before anything was announced", r)
	}
	d1.announce(Route{Addr: vip}, Route{Addr: vip6})
	d2.announce(Route{Addr: vip})
	both := func() bool {
		r := l.routes(vip)
		return strings.Contains(r, "via 172.25.0.11") && strings.Contains(r, "via 172.25.0.14")
	}
	l.eventually("the router spreads over both", both)
	l.eventually("IPv6 is announced", func() bool { return strings.Contains(l.routes(vip6), "via fd00::11") })

	// Nothing of what the router announces gets anywhere.
	for _, host := range []string{"d1", "d2"} {
		out, err := l.Host(host).Run(t.Context(), "ip", "route", "show", "table", "all")
		if err != nil || strings.Contains(out, "198.51.100") || strings.Contains(out, "default") {
			t.Errorf("routes of %s: %v\n%s", host, err, out)
		}
	}

	d1.announce(Route{Addr: vip, IsDraining: true}, Route{Addr: vip6})
	l.eventually("draining, d1 is out of the multipath", func() bool {
		r := l.routes(vip)
		return !strings.Contains(r, "172.25.0.11") && strings.Contains(r, "via 172.25.0.14")
	})
	if all := l.birdc("show", "route", "for", vip.String(), "all"); !strings.Contains(all, "(65535,0)") || !strings.Contains(all, "65010 65010") {
		t.Errorf("a draining path without its marks:\n%s", all)
	}
	d1.announce(Route{Addr: vip}, Route{Addr: vip6})
	l.eventually("it is back", both)
	d2.announce()
	l.eventually("d2 has withdrawn", func() bool { return !strings.Contains(l.routes(vip), "172.25.0.14") })

	if err := d1.Stop(); err != nil {
		t.Error(err)
	}
	l.eventually("a stopped director's routes are gone", func() bool { return l.routes(vip) == "" })
}

func TestKilledAndHungDirectorsAreLeft(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, "bfd on;")
	bfd := func(c *Config) { c.Peers[0].BFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 3} }
	d1 := l.speak("d1", "172.25.0.11", bfd)
	d1.announce(Route{Addr: vip})
	l.eventually("announced, BFD up", func() bool { return l.routes(vip) != "" && d1.status().BFD == "up" })

	if err := d1.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	l.eventually("BFD finds the hung daemon", func() bool { return l.routes(vip) == "" })
	t.Logf("a hung daemon's route was gone after %s (hold time 9 s)", time.Since(begin))
	if err := d1.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.eventually("it goes on, and its session with it", func() bool { return l.routes(vip) != "" && d1.status().BFD == "up" })
	begin = time.Now()
	d1.Kill()
	l.eventually("the killed daemon's route is gone", func() bool { return l.routes(vip) == "" })
	t.Logf("a killed daemon's route was gone after %s", time.Since(begin))
}

func TestReasonsOfASessionThatIsDown(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, test := range []struct {
		name   string
		asn    uint32
		extra  string
		change func(*Config)
		want   string
	}{
		{"the router expects another AS", 65099, "", nil, "expects another AS"},
		{"the configuration gives the router another AS", directorASN, "", func(c *Config) { c.Peers[0].ASN = 65001 }, "another AS number"},
		{"another password", directorASN, `password "right";`, func(c *Config) { c.Peers[0].Password = "wrong" }, "another password"},
		{"unreachable", directorASN, "", func(c *Config) { c.Peers[0].Address = netip.MustParseAddr("172.25.0.99") }, "is unreachable"},
		{"no speaker listens there", directorASN, "", func(c *Config) { c.Peers[0].Address = netip.MustParseAddr("172.25.0.12") }, "no BGP speaker listens there"},
		{"no session for us is configured there", directorASN, "", func(c *Config) { c.Peers[0].Source = netip.MustParseAddr("172.25.0.111") }, "no session for us is configured there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, test.asn, test.extra)
			if err := l.Host("d1").AddAddr("eth0", netip.MustParsePrefix("172.25.0.111/24")); err != nil {
				t.Fatal(err)
			}
			d := l.speak("d1", "172.25.0.11", test.change)
			t.Cleanup(func() { t.Logf("%+v", d.status()) })
			l.eventually("the reason is named", func() bool {
				st := d.status()
				return !st.IsUp && strings.Contains(st.Reason, test.want)
			})
		})
	}
}

func TestPasswordsAreSpoken(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, `password "secret";`)
	d := l.speak("d1", "172.25.0.11", func(c *Config) { c.Peers[0].Password = "secret" })
	d.announce(Route{Addr: vip})
	l.eventually("announced", func() bool { return l.routes(vip) != "" })
}
