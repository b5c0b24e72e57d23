package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
	"github.com/lvx-lb/lvx/testenv/verbatim"
)

// typed is what is typed on a director whose ipvsadm is lvx, with what comes
// of it. It is a [verbatim.Player].
type typed struct {
	*seed
	dir string // of the links, and where files are written
}

// newTyped is a director whose file has no services and whose ipvsadm is lvx.
func newTyped(t *testing.T) typed {
	t.Helper()
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", "services: []\n"))
	dir := t.TempDir()
	for _, name := range []string{"lvx", "ipvsadm", "ipvsadm-save", "ipvsadm-restore"} {
		must(t, os.Symlink(lvx, filepath.Join(dir, name)))
	}
	return typed{&seed{T: t, Rig: r}, dir}
}

// Type implements [verbatim.Player].
func (s typed) Type(host, line string) (string, error) {
	if host == verbatim.Director {
		host = "d1"
	}
	return s.Cluster.Host(host).Run(s.Context(), "env", "-C", s.dir, "PATH="+s.dir+":"+os.Getenv("PATH"), "LVX_SOCKET="+s.Socket("d1"), "sh", "-c", line)
}

// Ask implements [verbatim.Player].
func (s typed) Ask(n int, ports ...int) string { return s.curl(n, ports...) }

// AwaitStatus implements [verbatim.Player].
func (s typed) AwaitStatus(text string) {
	s.Helper()
	eventually(s.T, func() error {
		if st := s.lvx("status"); !strings.Contains(st, text) {
			return fmt.Errorf("no %s in the status:\n%s", text, st)
		}
		return nil
	})
}

// mustType types a line on the director that has to succeed.
func (s typed) mustType(line string) string {
	s.Helper()
	out, err := s.Type(verbatim.Director, line)
	must(s.T, err)
	return out
}

// readSections reads a list of testdata, with the test network's addresses.
func readSections(t *testing.T, name string) []verbatim.Section {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	must(t, err)
	all, err := verbatim.Parse(articleAddrs.Replace(string(text)))
	must(t, err)
	return all
}

// TestVerbatim: the commands of the four articles work as they are typed.
func TestVerbatim(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := newTyped(t)
	equipSeeds(t, s.Rig)
	sections := readSections(t, "verbatim.txt")
	if len(sections) < 10 {
		t.Fatalf("%d sections only", len(sections))
	}
	for _, section := range sections {
		t.Run(section.Title, func(t *testing.T) {
			s := typed{&seed{T: t, Rig: s.Rig}, s.dir}
			s.mustType("iptables -t mangle -F")
			s.lvx("runtime", "clear")
			section.Play(t, s)
		})
	}
}

// script copies a script of an article to where the commands are typed.
func (s typed) script(name string) {
	s.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	must(s.T, err)
	_, name, _ = strings.Cut(name, "-")
	must(s.T, os.WriteFile(filepath.Join(s.dir, name), []byte(articleAddrs.Replace(string(text))), 0o700))
}

// TestVerbatimReals: what the articles' scripts set on the reals is what direct
// routing needs, and lvx real status says so.
func TestVerbatimReals(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := newTyped(t)
	s.script("002-setparam.sh")
	s.script("004-setka.sh")
	for _, host := range []string{"r1", "r2"} {
		h := s.Cluster.Host(host)
		run(t, h, lvx, "real", "down", "--state", filepath.Join(h.Dir(), "real.json"))
	}
	for _, section := range readSections(t, "verbatim-reals.txt") {
		t.Run(section.Title, func(t *testing.T) {
			s := typed{&seed{T: t, Rig: s.Rig}, s.dir}
			s.lvx("runtime", "clear")
			_, _ = s.Client.Run(t.Context(), "ip", "neigh", "flush", "dev", "eth0") // who answers now?
			section.Play(t, s)
		})
	}
}

// TestVerbatimScript: the loop of the first article, which asks the reals by
// curl and adds and deletes them by ipvsadm.
func TestVerbatimScript(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := newTyped(t)
	s.script("001-lvs.sh")
	s.mustType("ipvsadm -A -t " + rig.VIP + ":80 -s rr")
	d1 := s.Cluster.Host("d1")
	_, err := d1.Start("env", "-C", s.dir, "PATH="+s.dir+":"+os.Getenv("PATH"), "LVX_SOCKET="+s.Socket("d1"), "bash", "lvs.sh")
	must(t, err)
	listed := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if got := s.mustType("ipvsadm -Sn | grep -o 172.25.0.1[23] | tr '\\n' ' '"); got != want {
				return fmt.Errorf("listed: %s, want %s", got, want)
			}
			return nil
		})
	}
	listed("172.25.0.12 172.25.0.13 ")
	s.want("4 requests", s.curl(4, 80), twice)
	must(t, s.Webs["r1"].Close())
	listed("172.25.0.13 ")
	s.want("r1 is out", s.curl(2, 80), "r2 r2")
	_, err = s.Cluster.Host("r1").ServeWeb(":80")
	must(t, err)
	listed("172.25.0.12 172.25.0.13 ")
	eventually(t, func() error { // the script writes its log after it has added the real
		if log := s.mustType("cat checklvs.log"); strings.Count(log, "add 172.25.0.12 to ipvs") != 2 || !strings.Contains(log, "del 172.25.0.12 to ipvs") {
			return fmt.Errorf("checklvs.log:\n%s", log)
		}
		return nil
	})
}
