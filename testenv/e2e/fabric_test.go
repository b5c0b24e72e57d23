package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/pauses"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// fabric is three directors behind a router that runs BIRD and spreads flows
// by ports over all that announce the VIP; the client is behind the router.
type fabric struct {
	*rig.Rig
	t      *testing.T
	router *testenv.Host
}

var fabricDirectors = []string{"d1", "d2", "d3"}

// drainedLast is a router's import that prefers directors that do not drain.
const drainedLast = "filter { if (65535,0) ~ bgp_community then bgp_local_pref = 0; accept; }"

// newFabric is a fabric whose router runs BIRD.
func newFabric(t *testing.T) *fabric {
	t.Helper()
	f := newFabricOf(t)
	f.startBIRD()
	return f
}

// newFabricOf is a fabric whose router runs nothing yet.
func newFabricOf(t *testing.T) *fabric {
	t.Helper()
	r := newRig(t, testenv.Shape{Directors: 3, Routed: true})
	f := &fabric{Rig: r, t: t, router: r.Cluster.Host("router")}
	for key, value := range map[string]string{
		"net.ipv4.fib_multipath_hash_policy": "1", "net.ipv4.conf.all.rp_filter": "0",
		"net.ipv4.conf.eth0.rp_filter": "0", "net.ipv4.conf.eth1.rp_filter": "0",
	} {
		must(t, f.router.Sysctl(key, value))
	}
	return f
}

func (f *fabric) startBIRD() {
	f.t.Helper()
	must(f.t, f.StartBIRD(drainedLast, fabricDirectors...))
}

func (f *fabric) address(director string) string {
	return f.Cluster.Host(director).Addr("eth0").String()
}

// fabricBody is the configuration of every director.
func fabricBody(scheduler, extra string) string {
	return extra + `stop_grace: 0s
bgp:
  asn: 65010
  drain_time: 1s
  hold_up: 200ms
  peers: [{address: 172.25.0.1, asn: 65000, hold_time: 9s, bfd: {interval: 100ms, multiplier: 3}}]
services:
  - name: web
    listen: ["172.25.0.100:80/tcp"]
` + scheduler + `    check: {type: tcp, via: real, interval: 100ms, timeout: 500ms, fall: 1, rise: 1}
    reals: [{address: 172.25.0.12}, {address: 172.25.0.13}]
`
}

const hashed = "    scheduler: mh\n    flags: [mh-port]\n"

// direct starts a director and waits until the router knows it.
func (f *fabric) direct(names []string, body string) {
	f.t.Helper()
	for _, name := range names {
		_, err := f.Config(name, body)
		must(f.t, err)
		must(f.t, f.Start(f.t.Context(), name))
	}
	for _, name := range names {
		f.awaitPath(name, true)
	}
}

// routes is the router's route to the VIP.
func (f *fabric) routes() string {
	f.t.Helper()
	return run(f.t, f.router, "ip", "route", "show", rig.VIP)
}

// isPath reports whether the router sends to a director.
func (f *fabric) isPath(name string) bool {
	return slices.Contains(strings.Fields(f.routes()), f.address(name))
}

// awaitPath waits until the router sends to a director, or does not.
func (f *fabric) awaitPath(name string, want bool) {
	f.t.Helper()
	eventually(f.t, func() error {
		if f.isPath(name) != want {
			return fmt.Errorf("sends to %s: %t, want %t: %s", name, !want, want, f.routes())
		}
		return nil
	})
}

// measurePath waits until the router no longer sends to a director, and returns
// how long that took, and how long the machine's processors stood still meanwhile.
func (f *fabric) measurePath(name string) (took, paused time.Duration) {
	f.t.Helper()
	w := pauses.Start(f.t)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), rig.Patience)
	defer cancel()
	for f.isPath(name) {
		if ctx.Err() != nil {
			f.t.Fatalf("still sends to %s: %s", name, f.routes())
		}
	}
	end := time.Now()
	return end.Sub(begin), w.Within(f.t, begin, end)
}

// leavesHung stops a director's daemon without an end, and expects the router to
// leave it within a second. The daemon goes on afterwards.
func (f *fabric) leavesHung(name string) {
	f.t.Helper()
	must(f.t, f.Daemons[name].Signal(syscall.SIGSTOP))
	took, paused := f.measurePath(name)
	must(f.t, f.Daemons[name].Signal(syscall.SIGCONT))
	f.t.Logf("a hung daemon: the router has left it after %s", took)
	if most := time.Second + paused; took > most {
		f.t.Errorf("a hung daemon was left after %s, want %s at most", took, most)
	}
}

// leavesKilled kills a director's daemon, and waits until the router has left it.
func (f *fabric) leavesKilled(name string) {
	f.t.Helper()
	f.Daemons[name].Kill()
	took, _ := f.measurePath(name)
	f.t.Logf("kill -9: the router has left it after %s", took)
}

// sendErrors has the router send its own packets to the VIP, ICMP errors that is,
// to one director; clients' packets are spread as ever.
func (f *fabric) sendErrors(name string) {
	f.t.Helper()
	run(f.t, f.router, "ip", "route", "replace", rig.VIP+"/32", "via", f.address(name), "table", "100")
}

// fabricLoad is the load that must not notice that directors come and go: 2,000
// new connections a second beside 5,000 nearly idle ones with LVX_LOAD=1.
func fabricLoad() rig.Demand {
	return rig.Demand{PerSecond: share(2000), Long: share(5000), Most: 400_000, Every: 5 * time.Second}
}

// A director is drained, comes back, is drained across a restart, stops: under
// new connections and with idle ones nothing fails. Killed, it costs at most
// what was in flight; hung, BFD finds it within a second.
func TestDirectorsLeaveUnderLoad(t *testing.T) {
	f := newFabric(t)
	f.direct(fabricDirectors, fabricBody(hashed, "sloppy_tcp: true\n"))
	load, err := f.Load(fabricLoad())
	must(t, err)
	must(t, load.Await(t.Context(), 20))

	out, err := f.LVX(t.Context(), "d1", "drain", "--director", "--wait=20s")
	must(t, err)
	t.Logf("drained: %s", out)
	f.awaitPath("d1", false)
	must(t, load.Await(t.Context(), 20))
	must(t, f.Leave("d1"))
	must(t, f.Start(t.Context(), "d1"))
	must(t, load.Await(t.Context(), 20))
	if out, err := f.LVX(t.Context(), "d1", "status"); err != nil || f.isPath("d1") || !strings.Contains(out, "drained by an operator") {
		t.Errorf("drained and started anew: %v, %s\n%s", err, f.routes(), out)
	}
	_, err = f.LVX(t.Context(), "d1", "drain", "--director", "--undo")
	must(t, err)
	f.awaitPath("d1", true)
	must(t, load.Await(t.Context(), 20))
	must(t, f.Leave("d2"))
	f.awaitPath("d2", false)
	must(t, load.Await(t.Context(), 20))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err)

	out, err = f.LVX(t.Context(), "d1", "history", "--kind", "route")
	must(t, err)
	for _, want := range []string{"session up", "announced as a path to avoid", "withdrawn: drained by an operator"} {
		if !strings.Contains(out, want) {
			t.Errorf("history without %q:\n%s", want, out)
		}
	}
}

// A killed director costs at most what was in flight, a hung one is left
// within a second.
func TestKilledAndHungDirectors(t *testing.T) {
	f := newFabric(t)
	f.direct(fabricDirectors, fabricBody(hashed, "sloppy_tcp: true\n"))
	load, err := f.Load(fabricLoad())
	must(t, err)
	must(t, load.Await(t.Context(), 20))

	f.leavesKilled("d1")
	must(t, load.Await(t.Context(), 20))
	f.leavesHung("d2")
	f.awaitPath("d2", true) // it goes on, and its session with it
	must(t, load.Await(t.Context(), 20))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err) // the packet path of both goes on forwarding what still arrives
}

// Path-MTU discovery works whichever director the router's error reaches: with mh
// by the ring, of which no connection is made; with rr by connection sync.
func TestPathMTUByAnyDirector(t *testing.T) {
	for name, test := range map[string]struct {
		body  func(f *fabric) string
		knows int // how many directors know a connection
	}{
		"mh without sync": {func(*fabric) string { return fabricBody(hashed, "sloppy_tcp: true\n") }, 1},
		"rr with sync":    {func(f *fabric) string { return fabricBody("    scheduler: rr\n", f.syncBody()) }, len(fabricDirectors)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t)
			f.direct(fabricDirectors, test.body(f))
			must(t, f.Cluster.SetHopMTU(1280))
			run(t, f.router, "ip", "rule", "add", "iif", "lo", "to", rig.VIP, "lookup", "100")
			for _, name := range fabricDirectors {
				f.sendErrors(name)
				f.learnPathMTU(name, test.knows)
			}
		})
	}
}

// learnPathMTU has both reals learn the path's MTU from errors that reach a
// director; so many directors know the connections by then.
func (f *fabric) learnPathMTU(name string, knows int) {
	f.t.Helper()
	conns := map[string]net.Conn{}
	for _, real := range []string{"r1", "r2"} {
		run(f.t, f.Cluster.Host(real), "ip", "route", "flush", "cache") // it has to learn it again
		conn, err := f.Hold(real)
		must(f.t, err)
		defer conn.Close()
		conns[real] = conn
		eventually(f.t, func() error { return f.knowConnection(conn, knows) })
	}
	before := countedAt(f.t, f.Rig, name, bpf.ICMPForwarded)
	for real, conn := range conns {
		if n, err := readLong(conn); err != nil || n < 300000 {
			f.t.Errorf("%s, errors by %s: %d bytes, %v", real, name, n, err)
		}
		if err := f.knowConnection(conn, knows); err != nil {
			f.t.Errorf("%s, errors by %s: %v", real, name, err)
		}
	}
	if n := countedAt(f.t, f.Rig, name, bpf.ICMPForwarded) - before; n < 2 {
		f.t.Errorf("%s forwarded %d ICMP errors, want one to each real at least", name, n)
	}
}

// knowConnection is an error unless so many directors know a connection.
func (f *fabric) knowConnection(conn net.Conn, want int) error {
	n := 0
	for _, d := range fabricDirectors {
		out, err := f.LVX(f.t.Context(), d, "list", "--connections", "-n")
		if err != nil {
			return err
		}
		if strings.Contains(out, " "+conn.LocalAddr().String()+" ") {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("%d directors know the connection of %s, want %d", n, conn.LocalAddr(), want)
	}
	return nil
}

// readLong reads a long answer on an open connection.
func readLong(conn net.Conn) (int64, error) {
	if err := conn.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, "GET /bytes/300000 HTTP/1.1\r\nHost: rig\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	return io.Copy(io.Discard, conn)
}
