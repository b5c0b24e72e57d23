package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// kill -9 loses no connection: the packet path runs on, and the next daemon
// takes it over.
func TestKillAndRestart(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	conn, err := r.Hold("r1")
	must(t, err)
	defer conn.Close()
	still := func(when string) {
		t.Helper()
		if name, err := rig.Ask(conn); name != "r1" || err != nil {
			t.Fatalf("%s the connection is answered by %q, %v", when, name, err)
		}
	}
	still("at first")
	r.Kill("d1")
	still("with the daemon dead")
	if got := r.Curl(4, "http://"+rig.VIP); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
		t.Errorf("new connections with the daemon dead: %s", got)
	}
	stream := r.Stream("http://"+rig.VIP, 10*time.Millisecond, rig.Patience, 3000)
	must(t, r.Start(t.Context(), "d1"))
	still("after the restart")
	for range 5 {
		r.Kill("d1")
		must(t, r.Start(t.Context(), "d1"))
	}
	still("after more of them")
	if total, failed := stream.Stop(); total < 20 || len(failed) > 0 {
		t.Errorf("new connections while the daemon was killed and started: %d of %d failed: %v", len(failed), total, failed)
	}
	out, err := r.LVX(t.Context(), "d1", "list", "-n", "-c")
	must(t, err)
	if !strings.Contains(out, "ESTABLISHED") {
		t.Errorf("the connection is not listed after the restart:\n%s", out)
	}
	must(t, r.Stop("d1"))
	nothingLeft(t, r, "d1")
}

func nothingLeft(t *testing.T, r *rig.Rig, name string) {
	t.Helper()
	h := r.Cluster.Host(name)
	if out := run(t, h, "ip", "-details", "link", "show", "dev", "eth0"); strings.Contains(out, "xdp") {
		t.Errorf("an XDP program is left:\n%s", out)
	}
	if out := run(t, h, "ip", "addr", "show"); strings.Contains(out, rig.VIP+"/") {
		t.Errorf("the VIP is left:\n%s", out)
	}
	if _, err := os.Stat(h.PinDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
}

// A VIP that was there before lvx stays.
func TestForeignVIPStays(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	must(t, d1.AddAddr("eth0", netip.MustParsePrefix(rig.VIP+"/32")))
	must(t, r.Direct(t.Context(), "d1", service("")))
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("requests: %s", got)
	}
	must(t, r.Stop("d1"))
	if out := run(t, d1, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, rig.VIP+"/32") {
		t.Errorf("a VIP that lvx had not put there was taken away:\n%s", out)
	}
}

// Real servers are found again after their MAC changed, and after the
// director's interface was down.
func TestLayer2Changes(t *testing.T) {
	t.Parallel()
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("", "172.25.0.12")))
	r1, d1 := r.Cluster.Host("r1"), r.Cluster.Host("d1")
	answers := func() error {
		if got := r.Curl(1, "http://"+rig.VIP); got != "r1" {
			return fmt.Errorf("answered: %s", got)
		}
		return nil
	}
	must(t, answers())
	run(t, r1, "ip", "link", "set", "dev", "eth0", "address", "02:aa:bb:cc:dd:ee")
	eventually(t, answers)
	must(t, d1.SetLink("eth0", false))
	must(t, d1.SetLink("eth0", true))
	eventually(t, answers)
	must(t, r1.SetLink("eth0", false))
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", "status")
		if err != nil || !strings.Contains(out, "does not answer ARP") {
			return fmt.Errorf("status does not say why: %v\n%s", err, out)
		}
		return nil
	})
	must(t, r1.SetLink("eth0", true))
	eventually(t, answers)
}

// What goes wrong at the start is one line that says what to do.
func TestStartErrors(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	other := filepath.Join(d1.Dir(), "other.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(other, []byte(strings.Replace(string(text), "eth0", "eth7", 1)), 0o600))

	for name, c := range map[string]struct {
		file, want string
		uid        uint32
	}{
		"a second lvx":      {file, "", 0},
		"no such interface": {other, "eth7", 0},
		"not root":          {file, "root", 65534},
		"no such file":      {"/nonexistent.yaml", "/nonexistent.yaml", 0},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.Chmod(d1.Dir(), 0o755))
			must(t, os.Chmod(file, 0o644))
			cmd := exec.Command(lvx, "run", "-c", c.file)
			must(t, os.Chmod(filepath.Dir(lvx), 0o755))
			if c.uid != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
			}
			p, err := d1.StartCmd(cmd)
			must(t, err)
			err = p.Wait()
			out := strings.TrimSpace(p.Output())
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("exit: %v, want code 1\n%s", err, out)
			}
			lines := strings.Split(out, "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "lvx: ") || !strings.Contains(last, c.want) || len(lines) != 1 {
				t.Errorf("said:\n%s", out)
			}
		})
	}
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("the running daemon was disturbed: %s", got)
	}
}

// Every pinned map prints named fields.
func TestPinnedMapsAreReadable(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", "tables: {flows: 1000, templates: 1000}\n"+service("deny: [192.0.2.0/24]")))
	r.Curl(2, "http://"+rig.VIP)
	d1 := r.Cluster.Host("d1")
	pins, err := os.ReadDir(d1.PinDir())
	must(t, err)
	fields := map[string]string{
		"flows": `"client"`, "templates": `"client"`, "vips": `"addr"`, "ports": `"service"`, "services": `"ring"`,
		"reals": `"mac"`, "addresses": `"word"`, "counters": `"packets"`, "settings": `"half"`, "verdicts": `"count"`, "filters": `"prefix"`,
		"interfaces": `"mac"`, "labels": `"name"`, "loads": `"upper"`, "shares": `"active"`, "turns": `"next"`, "cursors": `"picks"`, "ranges": `"first"`,
		"rings": `"real"`, "tunnels": `"destination"`, "evictions": `"count"`, "answers": `"second"`, "fragments": "[]",
		"flows6": `"client"`, "templates6": `"client"`, "fragments6": "[]", "families": "[]",
		"leases": `"value"`, "takeover": `"value"`, "locks": `"value"`, "flow_pieces": "Found 0", "flow_pieces6": "Found 0", // there are none in a small table
		"absorptions": `"outcome"`, "flow_news": `"of_set"`, "template_news": `"of_set"`, "flow_news6": `"of_set"`, "template_news6": `"of_set"`,
		"losses": `"netns"`, "replies": `"vip_port"`, "reply_counters": `"packets"`, "routes": `"network"`, "ways": "[]",
	}
	seen := 0
	for _, p := range pins {
		if strings.HasPrefix(p.Name(), "link_") || p.Name() == "held" { // a link; a ring buffer has no entries
			continue
		}
		out := run(t, d1, "sh", "-c", "bpftool map dump pinned "+d1.PinDir()+"/"+p.Name()+" | head -c 200000")
		want, ok := fields[p.Name()]
		if !ok || !strings.Contains(out, want) {
			t.Errorf("%s: no %s in\n%.300s", p.Name(), want, out)
		}
		seen++
	}
	if seen != len(fields) {
		t.Errorf("%d maps are pinned, want %d", seen, len(fields))
	}
}

// The history says when daemons began and ended, and whether one went on with
// what another had left.
func TestHistoryOfDaemons(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	must(t, r.Leave("d1"))
	must(t, r.Start(t.Context(), "d1"))
	r.Kill("d1")
	must(t, r.Start(t.Context(), "d1"))
	out, err := r.LVX(t.Context(), "d1", "history", "--kind", "daemon")
	must(t, err)
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		for _, word := range []string{"goes on with what an earlier daemon left", "serves", "stops"} {
			if strings.Contains(line, word) {
				got = append(got, word)
				break
			}
		}
	}
	adopted := "goes on with what an earlier daemon left"
	if want := []string{"serves", "stops", adopted, adopted}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q:\n%s", got, want, out)
	}
}

// A purge takes what the daemon ran with, wherever its file is.
func TestStopAndPurgeWithoutFile(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	out, err := r.LVX(t.Context(), "d1", "stop", "--purge")
	if err != nil || !strings.Contains(out, "nothing of lvx is left") {
		t.Errorf("stop --purge: %v\n%s", err, out)
	}
	delete(r.Daemons, "d1")
	nothingLeft(t, r, "d1")
}
