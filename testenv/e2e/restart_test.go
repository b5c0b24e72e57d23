package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// share is how much of the full load a run has: LVX_LOAD=1 is 500 short
// connections a second and 300 long ones, 100 reloads, 50 restarts; CI runs a
// tenth of that.
func share(full int) int {
	part, err := strconv.ParseFloat(os.Getenv("LVX_LOAD"), 64)
	if err != nil {
		part = 0.1
	}
	return max(1, int(part*float64(full)))
}

// underLoad does something again and again beside a load that must not notice.
func underLoad(t *testing.T, r *rig.Rig, times int, do func(i int)) {
	t.Helper()
	repeatBesideLoad(t, r, rig.Demand{PerSecond: share(500), Long: share(300)}, times, func(i int, _ *rig.Load) { do(i) })
}

// repeatBesideLoad does something again and again beside a load, of which nothing may
// be lost.
func repeatBesideLoad(t *testing.T, r *rig.Rig, d rig.Demand, times int, do func(i int, load *rig.Load)) {
	t.Helper()
	d.Most = 200_000
	load, err := r.Load(d)
	must(t, err)
	for i := range times {
		do(i, load)
		must(t, load.Await(t.Context(), 12))
	}
	summary, err := load.Stop()
	t.Logf("%d times: %s", times, summary)
	if err != nil {
		t.Errorf("%v%s", err, r.Logs())
	}
}

func TestReloadsUnderLoad(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	underLoad(t, r, share(100), func(i int) {
		must(t, r.Direct(t.Context(), "d1", service([]string{"", "quorum: 1"}[i%2])))
	})
}

// SIGTERM and a start right after it: the packet path waits for the successor.
func TestRestartsUnderLoad(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	underLoad(t, r, share(50), func(int) {
		must(t, r.Leave("d1"))
		must(t, r.Start(t.Context(), "d1"))
	})
	must(t, r.Stop("d1"))
	nothingLeft(t, r, "d1")
}

func TestKillsUnderLoad(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	underLoad(t, r, share(50), func(int) {
		r.Kill("d1")
		must(t, r.Start(t.Context(), "d1"))
	})
}

// Without a successor the host falls silent by itself: it forwards nothing,
// and answers no ARP for the VIP. The next start serves again.
func TestStopWithoutSuccessor(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", "stop_grace: 2s\n"+service("")))
	conn, err := r.Hold("r1")
	must(t, err)
	defer conn.Close()
	must(t, r.Leave("d1"))
	if name, err := rig.Ask(conn); name != "r1" || err != nil {
		t.Errorf("right after the end the connection is answered by %q, %v", name, err)
	}
	asks := func() error {
		_, err := r.Client.Run(t.Context(), "arping", "-c", "1", "-w", "1", "-I", "eth0", rig.VIP)
		return err
	}
	eventually(t, func() error {
		if asks() == nil {
			return errors.New("ARP for the VIP is still answered")
		}
		return nil
	})
	run(t, r.Client, "ip", "neighbour", "replace", rig.VIP, "lladdr", r.Cluster.Host("d1").MAC("eth0").String(), "dev", "eth0")
	if name, err := r.Get("http://"+rig.VIP, time.Second); err == nil {
		t.Errorf("a host without a daemon still forwards: %s answered", name)
	} else if rig.Brief(err) != "timeout" {
		t.Errorf("the host's own stack answers for the VIP: %v", err)
	}
	must(t, r.Start(t.Context(), "d1"))
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("after the next start: %s", got)
	}
	must(t, r.Leave("d1"))
	out := run(t, r.Cluster.Host("d1"), lvx, "purge", "-c", filepath.Join(r.Cluster.Host("d1").Dir(), "lvx.yaml"))
	if !strings.Contains(out, "nothing of lvx is left") {
		t.Errorf("purge says %q", out)
	}
	nothingLeft(t, r, "d1")
}

// A start that fails, at whatever point, takes down nothing that a daemon
// before it left serving.
func TestFailedStarts(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	good, err := os.ReadFile(file)
	must(t, err)
	ways := map[string]func() (undo func()){
		"no file": func() func() {
			must(t, os.Rename(file, file+".away"))
			return func() { must(t, os.Rename(file+".away", file)) }
		},
		"broken file":       spoil(t, file, good, func(s string) string { return s + "\nnonsense" }),
		"no such interface": spoil(t, file, good, func(s string) string { return strings.Replace(s, "eth0", "eth7", 1) }),
		"needs IPVS": spoil(t, file, good, func(s string) string {
			return strings.Replace(s, "services:\n", "services:\n  - {name: lblc, scheduler: lblc, listen: [\"172.25.0.102:80/tcp\"], reals: [{address: 172.25.0.12}]}\n", 1)
		}),
		"directory at the socket": spoil(t, file, good, func(s string) string {
			must(t, os.MkdirAll(filepath.Join(d1.Dir(), "dir.sock", "x"), 0o700))
			return strings.Replace(s, "lvx.sock", "dir.sock", 1)
		}),
		"VIP's interface not Ethernet": spoil(t, file, good, func(s string) string { return strings.Replace(s, "eth0", "lo", 1) }),
		"notify program not there": spoil(t, file, good, func(s string) string {
			return s + "\nnotify: {smtp: {server: \"192.0.2.1:25\", from: a@b, to: [c@d]}}\nadmin_x: 1\n"
		}),
		"killed while it starts": nil,
	}
	r.Kill("d1")
	underLoad(t, r, max(1, share(10)), func(int) {
		for name, spoilIt := range ways {
			if spoilIt == nil {
				p, err := d1.Start(r.Self, "run", "-c", file)
				must(t, err)
				time.Sleep(50 * time.Millisecond)
				p.Kill()
				continue
			}
			undo := spoilIt()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that starts would run for ever
			out, err := d1.Run(ctx, r.Self, "run", "-c", file)
			started := ctx.Err() != nil
			cancel()
			undo()
			if err == nil || started {
				t.Errorf("%s: it started: %s", name, out)
			}
		}
	})
	must(t, r.Start(t.Context(), "d1"))
	must(t, r.Stop("d1"))
	nothingLeft(t, r, "d1")
}

// spoil makes a step that writes another file, and undoes it.
func spoil(t *testing.T, file string, good []byte, change func(string) string) func() func() {
	return func() func() {
		must(t, os.WriteFile(file, []byte(change(string(good))), 0o600))
		return func() { must(t, os.WriteFile(file, good, 0o600)) }
	}
}

// What is not needed to serve is no reason not to: notes that a power cut
// left broken, a state directory that takes nothing, a taken port for metrics.
func TestStartWithoutLuxuries(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, c := range map[string]struct {
		spoil func(t *testing.T, d1 *testenv.Host) (extra string)
		says  string
	}{
		"empty notes": {func(t *testing.T, d1 *testenv.Host) string {
			for _, name := range []string{"vips.json", "routers.json", "overrides.json", "memory.json", "silent.json"} {
				must(t, os.WriteFile(filepath.Join(d1.Dir(), name), nil, 0o600))
			}
			return ""
		}, "empty file"},
		"zeros": {func(t *testing.T, d1 *testenv.Host) string {
			for _, name := range []string{"vips.json", "routers.json", "overrides.json", "memory.json", "silent.json"} {
				must(t, os.WriteFile(filepath.Join(d1.Dir(), name), make([]byte, 512), 0o600))
			}
			return ""
		}, "512 zero bytes"},
		"address of metrics not there": {func(*testing.T, *testenv.Host) string { return "admin: {listen: \"192.0.2.77:9100\"}\n" }, "192.0.2.77"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			d1 := r.Cluster.Host("d1")
			extra := c.spoil(t, d1)
			_, err := r.Config("d1", service(""))
			must(t, err)
			if extra != "" {
				file := filepath.Join(d1.Dir(), "lvx.yaml")
				text, err := os.ReadFile(file)
				must(t, err)
				must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "admin: {", strings.TrimSuffix(extra, "}\n")+", ", 1)), 0o600))
			}
			must(t, r.Start(t.Context(), "d1"))
			if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
				t.Errorf("requests: %s", got)
			}
			if log := r.Daemons["d1"].Output(); !strings.Contains(log, c.says) {
				t.Errorf("the log does not say %q:\n%s", c.says, log)
			}
		})
	}
}
