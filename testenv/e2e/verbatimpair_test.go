package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A host of its own has what an article has to itself: the directories in which
// lvx keeps its things by default.
const ownDirectories = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mount -t bpf bpf /sys/fs/bpf && exec "

// pairTyped are the two directors of the first article, each with the
// keepalived.conf that it shows and nothing else.
type pairTyped struct {
	*seed
	daemons map[string]*testenv.Process
	files   map[string]string
}

// start starts lvx with the file, as the article starts keepalived.
func (p *pairTyped) start(name string) {
	p.Helper()
	d, err := p.Cluster.Host(name).Start("unshare", "-m", "sh", "-c", ownDirectories+lvx+" run -c "+p.files[name])
	must(p.T, err)
	p.daemons[name] = d
	p.Cleanup(func() {
		if p.Failed() {
			p.Logf("%s:\n%s", name, d.Output())
		}
	})
}

// ask runs a command of lvx's on a director.
func (p *pairTyped) ask(name string, args ...string) (string, error) {
	socket := fmt.Sprintf("/proc/%d/root/run/lvx/lvx.sock", p.daemons[name].Pid())
	return p.Cluster.Host(name).Run(p.Context(), append(append([]string{lvx}, args...), "--socket", socket)...)
}

// shows waits until a command's output has a text, or has it no more.
func (p *pairTyped) shows(name, text string, isThere bool, args ...string) {
	p.Helper()
	eventually(p.T, func() error {
		out, err := p.ask(name, args...)
		if err != nil || strings.Contains(out, text) != isThere {
			return fmt.Errorf("%s: lvx %s: %v, want %q to be there: %t\n%s", name, strings.Join(args, " "), err, text, isThere, out)
		}
		return nil
	})
}

// master waits until a director has the VIP: both reals answer, and the client
// has its MAC.
func (p *pairTyped) master(name string) {
	p.Helper()
	p.shows(name, "MASTER", true, "status")
	for _, real := range []string{"172.25.0.12:80", "172.25.0.13:80"} {
		p.shows(name, real, true, "list", "-n")
	}
	if got := p.curl(4, 80); got != twice && got != "r1 r2 r1 r2" {
		p.Errorf("4 requests through %s: %s", name, got)
	}
	mac := p.Cluster.Host(name).MAC("eth0").String()
	if out := run(p.T, p.Client, "ip", "neigh", "show", rig.VIP); !strings.Contains(out, mac) {
		p.Errorf("%s is master, the client's ARP table has %s, want %s", name, out, mac)
	}
}

// TestVerbatimKeepalived: the keepalived.conf of the first article, word for
// word, runs two directors: "on server14 only the state and the priority are
// others".
func TestVerbatimKeepalived(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/001-keepalived.conf")
	must(t, err)
	p := &pairTyped{&seed{T: t, Rig: newRig(t, testenv.Shape{})}, map[string]*testenv.Process{}, map[string]string{}}
	backup := strings.NewReplacer("state MASTER", "state BACKUP", "priority 100", "priority 50").Replace(string(text))
	for name, conf := range map[string]string{"d1": string(text), "d2": backup} {
		p.files[name] = filepath.Join(p.Cluster.Host(name).Dir(), "keepalived.conf")
		must(t, os.WriteFile(p.files[name], []byte(conf), 0o600))
		p.start(name)
	}
	p.master("d1")
	list, err := p.ask("d1", "list", "-n")
	must(t, err)
	for _, line := range []string{"TCP 172.25.0.100:80 rr", "-> 172.25.0.12:80 Route 1", "-> 172.25.0.13:80 Route 1"} {
		if !strings.Contains(strings.Join(strings.Fields(list), " "), line) {
			t.Errorf("lvx list -n does not show %q:\n%s", line, list)
		}
	}
	must(t, p.Webs["r1"].Close())
	p.shows("d1", "172.25.0.12:80", false, "list", "-n")
	p.want("r1 is out", p.curl(2, 80), "r2 r2")
	_, err = p.Cluster.Host("r1").ServeWeb(":80")
	must(t, err)
	p.shows("d1", "172.25.0.12:80", true, "list", "-n")

	must(t, p.daemons["d1"].Stop())
	p.master("d2")
	p.start("d1")
	p.master("d1")
	p.shows("d2", "BACKUP", true, "status")
}
