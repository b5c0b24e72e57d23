package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

var vip32 = netip.PrefixFrom(testenv.VIP, 32)

// network has the director d1 and the reals r1 and r2, which compute their
// checksums in full if full is set: a reply then reaches the director's
// program with a checksum that the stack verifies.
func network(t testing.TB, full bool) *testenv.Cluster {
	t.Helper()
	o := testenv.Standard(testenv.Shape{Directors: 1})
	for i := range o.Hosts {
		if strings.HasPrefix(o.Hosts[i].Name, "r") {
			o.Hosts[i].NICs[0].FullChecksum = full
		}
	}
	return tb.New(t, o)
}

// carry puts the VIP on a real's lo, as direct routing wants it.
func carry(t testing.TB, real *testenv.Host) {
	t.Helper()
	for key, value := range map[string]string{"arp_ignore": "1", "arp_announce": "2"} {
		if err := real.Sysctl("net.ipv4.conf.all."+key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := real.AddAddr("lo", vip32); err != nil {
		t.Fatal(err)
	}
}

func web(t testing.TB, real *testenv.Host, addrs ...string) {
	t.Helper()
	if _, err := real.ServeWeb(addrs...); err != nil {
		t.Fatal(err)
	}
}

// start runs a prober on the director.
func start(t testing.TB, director *testenv.Host, j job) (*testenv.Process, *bytes.Buffer) {
	t.Helper()
	if j.Interfaces == nil {
		j.Interfaces = []string{"eth0"}
	}
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), jobEnv+"="+string(text))
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := director.StartCmd(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return p, &out
}

// probe runs a job and returns the distinct answers per target.
func probe(t *testing.T, director *testenv.Host, j job) []map[string]int {
	t.Helper()
	p, out := start(t, director, j)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	var answers []map[string]int
	if err := json.Unmarshal(out.Bytes(), &answers); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return answers
}

// one is the answer to one check.
func one(t *testing.T, director *testenv.Host, tgt health.Target) string {
	t.Helper()
	for answer := range probe(t, director, job{Targets: []health.Target{tgt}})[0] {
		return answer
	}
	return ""
}

// through and straight ask the same of a real, by way of the VIP and not.
func through(real *testenv.Host, s health.Spec, port uint16) health.Target {
	s.Via = health.ViaVIP
	return health.Target{Spec: timed(s), Real: real.Addr("eth0"), Port: port, VIP: testenv.VIP}
}

func straight(real *testenv.Host, s health.Spec, port uint16) health.Target {
	s.Via = health.ViaReal
	return health.Target{Spec: timed(s), Real: real.Addr("eth0"), Port: port}
}

// timed leaves a loaded machine time to answer, unless the test waits for
// the timeout itself.
func timed(s health.Spec) health.Spec {
	if s.Timeout == 0 {
		s.Timeout = patience
	}
	return s
}

// short is the timeout of checks that are to reach it.
const short = 4 * time.Second

// trace is what is attached to the director's interface. The bpftool and tc
// of a distribution may be too old to show tcx.
func trace(t *testing.T, h *testenv.Host) string {
	t.Helper()
	all := tb.Run(t, h, "tc", "qdisc", "show", "dev", "eth0") +
		tb.Run(t, h, "tc", "filter", "show", "dev", "eth0", "ingress") +
		tb.Run(t, h, "tc", "filter", "show", "dev", "eth0", "egress")
	tb.Do(t, h, func() error {
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			r, err := link.QueryPrograms(link.QueryOptions{Target: iface.Index, Attach: at})
			if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, syscall.EINVAL) {
				continue // the kernel has no tcx
			}
			if err != nil {
				return err
			}
			all += fmt.Sprintln(at, len(r.Programs))
		}
		return nil
	})
	return all
}

func TestThroughVIP(t *testing.T) {
	for _, c := range []struct{ full, owned, clsact, xdp bool }{
		{},
		{xdp: true},
		{xdp: true, full: true, owned: true},
		{full: true, owned: true},
		{owned: true, clsact: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			cluster := network(t, c.full)
			d1, r1 := cluster.Host("d1"), cluster.Host("r1")
			carry(t, r1)
			web(t, r1, ":80", ":443")
			serveUDP(t, r1, testenv.VIP)
			if c.owned { // the VIP is the director's own address, too
				if err := d1.AddAddr("eth0", vip32); err != nil {
					t.Fatal(err)
				}
			}
			before := trace(t, d1)
			j := job{Clsact: c.clsact, XDP: c.xdp, Targets: []health.Target{
				through(r1, health.Spec{Type: health.TCP}, 80),
				through(r1, health.Spec{Type: health.HTTP}, 80),
				through(r1, health.Spec{Type: health.HTTPS, SkipVerify: true}, 443),
				through(r1, health.Spec{Type: health.UDP, Send: "ping", Expect: "ping"}, 53),
				through(r1, health.Spec{Type: health.ICMP}, 0),
				straight(r1, health.Spec{Type: health.HTTP}, 80),
			}}
			want := []map[string]int{{"pass": 1}, {"pass": 1}, {"pass": 1}, {"pass": 1}, {"pass": 1}, {"pass": 1}}
			if diff := cmp.Diff(want, probe(t, d1, j)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if after := trace(t, d1); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// serveUDP echoes datagrams on an address.
func serveUDP(t *testing.T, h *testenv.Host, addr netip.Addr) {
	t.Helper()
	p, err := h.ListenPacket("udp4", netip.AddrPortFrom(addr, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	go echo(p)
}

func echo(p net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = p.WriteTo(b[:n], from)
	}
}

func TestRealWithoutVIP(t *testing.T) {
	c := network(t, false)
	d1, r1 := c.Host("d1"), c.Host("r1")
	carry(t, r1)
	web(t, r1, ":80")
	if err := d1.AddAddr("eth0", vip32); err != nil {
		t.Fatal(err)
	}
	if got := one(t, d1, through(r1, health.Spec{Type: health.HTTP}, 80)); got != "pass" {
		t.Fatalf("with the VIP on lo: %s", got)
	}
	if err := r1.DelAddr("lo", vip32); err != nil {
		t.Fatal(err)
	}
	got := one(t, d1, through(r1, health.Spec{Type: health.HTTP, Timeout: short}, 80))
	if want := "connects on 172.25.0.12 but not through VIP 172.25.0.100: is the VIP on lo?"; got != want {
		t.Errorf("without the VIP: %q, want %q", got, want)
	}
	got = one(t, d1, through(r1, health.Spec{Type: health.ICMP, Timeout: short}, 0))
	if want := "answers on 172.25.0.12 but not through VIP 172.25.0.100: is the VIP on lo?"; got != want {
		t.Errorf("icmp without the VIP: %q, want %q", got, want)
	}
	if got := one(t, d1, straight(r1, health.Spec{Type: health.HTTP}, 80)); got != "pass" {
		t.Errorf("via: real: %s", got)
	}
}

func TestServiceOnOwnAddressOnly(t *testing.T) {
	c := network(t, true)
	d1, r1 := c.Host("d1"), c.Host("r1")
	carry(t, r1)
	web(t, r1, "172.25.0.12:80")
	serveUDP(t, r1, r1.Addr("eth0"))
	for _, tc := range []struct {
		spec health.Spec
		port uint16
		verb string
	}{
		{health.Spec{Type: health.HTTP}, 80, "connects"},
		// An ICMP error that quotes the VIP says so.
		{health.Spec{Type: health.UDP, Send: "x"}, 53, "answers"},
	} {
		want := tc.verb + " on 172.25.0.12 but refuses VIP 172.25.0.100: is the service bound to its own address only?"
		if got := one(t, d1, through(r1, tc.spec, tc.port)); got != want {
			t.Errorf("%s: %q, want %q", tc.spec.Type, got, want)
		}
		if got := one(t, d1, straight(r1, tc.spec, tc.port)); got != "pass" {
			t.Errorf("%s via: real: %q", tc.spec.Type, got)
		}
	}
	if got, want := one(t, d1, through(r1, health.Spec{Type: health.TCP}, 81)), "tcp connect: refused"; got != want {
		t.Errorf("nothing listens at all: %q, want %q", got, want)
	}
}

// Replies of all reals come from the same VIP and port; only the local port
// tells which one answered.
func TestManyAtOnceAreNotConfused(t *testing.T) {
	c := network(t, false)
	d1, r1, r2 := c.Host("d1"), c.Host("r1"), c.Host("r2")
	for _, r := range []*testenv.Host{r1, r2} {
		carry(t, r)
		web(t, r, ":80")
	}
	spec := func(name string) health.Spec { return health.Spec{Type: health.HTTP, Match: name} }
	const times = 200
	got := probe(t, d1, job{Times: times, Targets: []health.Target{
		through(r1, spec("r1"), 80),
		through(r2, spec("r2"), 80),
	}})
	if diff := cmp.Diff([]map[string]int{{"pass": times}, {"pass": times}}, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// A prober that is killed leaves nothing that changes packets: with tcx its
// programs end with it; with clsact, which is all that a kernel before 6.6 has,
// the next prober takes over what it left, and takes it off.
func TestKilledProberLeavesNothing(t *testing.T) {
	for _, clsact := range []bool{false, true} {
		t.Run(fmt.Sprintf("clsact=%t", clsact), func(t *testing.T) {
			c := network(t, false)
			d1, r1 := c.Host("d1"), c.Host("r1")
			carry(t, r1)
			web(t, r1, ":80")
			before := trace(t, d1)
			byFilters := clsact || !strings.Contains(before, ebpf.AttachTCXEgress.String())
			p, _ := start(t, d1, job{Hang: true, Clsact: clsact})
			tb.Eventually(t, patience, func() error {
				if trace(t, d1) == before || byFilters && !hasFilter(t, d1) {
					return fmt.Errorf("nothing is attached yet: %s", p.Output())
				}
				return nil
			})
			p.Kill()
			if byFilters {
				wantTakenOver(t, d1, r1, clsact)
				return
			}
			tb.Eventually(t, patience, func() error {
				if after := trace(t, d1); after != before {
					return fmt.Errorf("left behind:\n%s", after)
				}
				return nil
			})
		})
	}
}

// hasFilter reports whether a prober's filter of clsact is attached.
func hasFilter(t *testing.T, h *testenv.Host) bool {
	t.Helper()
	return strings.Contains(tb.Run(t, h, "tc", "filter", "show", "dev", "eth0", "egress"), "lvx_probe")
}

// wantTakenOver asks a real while a killed prober's filters are there: that works,
// and ends with none of them left.
func wantTakenOver(t *testing.T, d1, r1 *testenv.Host, clsact bool) {
	t.Helper()
	if !hasFilter(t, d1) {
		t.Error("the killed prober's filter is gone: there is nothing to take over")
	}
	got := probe(t, d1, job{Clsact: clsact, Targets: []health.Target{through(r1, health.Spec{Type: health.HTTP}, 80)}})
	if diff := cmp.Diff([]map[string]int{{"pass": 1}}, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	if hasFilter(t, d1) {
		t.Error("the killed prober's filter is left behind")
	}
}

func TestUnreachable(t *testing.T) {
	o := testenv.Standard(testenv.Shape{Directors: 1, Routed: true})
	c := tb.New(t, o)
	d1 := c.Host("d1")
	at := func(real string) health.Target {
		return health.Target{Spec: timed(health.Spec{Type: health.TCP, Via: health.ViaVIP}), Real: netip.MustParseAddr(real), Port: 80, VIP: testenv.VIP}
	}
	for real, want := range map[string]string{
		"10.25.0.50":  "path to VIP 172.25.0.100: not asked: real 10.25.0.50 is behind router 172.25.0.1 (direct routing needs it on the segment)",
		"2001:db8::1": "path to VIP 172.25.0.100: not asked: real 2001:db8::1, VIP 172.25.0.100: a probe through a VIP needs both of one family, or a tunnel (set via: real)",
		// The director itself: nothing to rewrite, and nothing listens.
		"172.25.0.11": "tcp connect: refused",
	} {
		if got := one(t, d1, at(real)); got != want {
			t.Errorf("%s: %q, want %q", real, got, want)
		}
	}
}

// What can be forwarded to can be checked: also a real behind an interface that
// is not configured, and one that is reached by a bridge.
func TestOtherInterfaces(t *testing.T) {
	c := network(t, false)
	d1, r1 := c.Host("d1"), c.Host("r1")
	carry(t, r1)
	web(t, r1, ":80")
	ask := func(what string, interfaces ...string) {
		t.Helper()
		got := probe(t, d1, job{Interfaces: interfaces, Targets: []health.Target{through(r1, health.Spec{Type: health.HTTP}, 80)}})
		if diff := cmp.Diff([]map[string]int{{"pass": 1}}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	ask("not configured", []string{}...)
	own := d1.Addr("eth0").String()
	for _, line := range []string{
		"link add br0 type bridge", "link set eth0 master br0", "address flush dev eth0",
		"address add " + own + "/24 dev br0", "link set br0 up",
	} {
		tb.Run(t, d1, strings.Fields("ip "+line)...)
	}
	ask("a port of a bridge", "eth0")
}

// BenchmarkThroughVIP is what 2,000 checks through a VIP cost at an interval
// of a second, as a share of one core.
func BenchmarkThroughVIP(b *testing.B) {
	c := network(b, false)
	d1, r1 := c.Host("d1"), c.Host("r1")
	carry(b, r1)
	web(b, r1, ":80")
	const checks = 2000
	target := through(r1, health.Spec{Type: health.TCP, Interval: time.Second}, 80)
	for b.Loop() {
		p, out := start(b, d1, job{Targets: []health.Target{target}, Times: checks, Watch: 10 * time.Second})
		if err := p.Wait(); err != nil {
			b.Fatalf("%v\n%s", err, p.Output())
		}
		var share float64
		var up int
		if _, err := fmt.Sscan(out.String(), &share, &up); err != nil || up != checks {
			b.Fatalf("%v: %q", err, out)
		}
		b.ReportMetric(share, "%core")
	}
}
