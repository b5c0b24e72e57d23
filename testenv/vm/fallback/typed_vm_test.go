//go:build ipvsvm

package fallback

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/tb"
	"github.com/lvx-lb/lvx/testenv/verbatim"
)

// typed is what is typed on a director whose ipvsadm is lvx. It is a
// [verbatim.Player].
type typed struct {
	*lab
	dir string // of the links
	url string
}

// Type implements [verbatim.Player].
func (y typed) Type(host, line string) (string, error) {
	h := y.director
	if host != verbatim.Director {
		h = y.hosts.Host(host)
	}
	return h.Run(y.Context(), "env", "PATH="+y.dir+":"+os.Getenv("PATH"), "LVX_SOCKET="+y.socket(), "sh", "-c", line)
}

// Ask implements [verbatim.Player].
func (y typed) Ask(n int, ports ...int) string {
	var names []string
	for range n {
		for _, port := range ports {
			names = append(names, y.curl(1, y.url+":"+strconv.Itoa(port)))
		}
	}
	return strings.Join(names, " ")
}

// AwaitStatus implements [verbatim.Player].
func (y typed) AwaitStatus(text string) {
	y.Helper()
	tb.Eventually(y.T, patience, func() error { return has(y.lvx("status"), text) })
}

// TestKernelTyped plays masquerading as the article types it.
func TestKernelTyped(t *testing.T) {
	text, err := os.ReadFile("testdata/verbatim.txt")
	if err != nil {
		t.Fatal(err)
	}
	sections, err := verbatim.Parse(string(text))
	if err != nil || len(sections) == 0 {
		t.Fatalf("%d sections, %v", len(sections), err)
	}
	l := natLab(t)
	l.run("interfaces: [eth0, eth1]\nbackend: ipvs\nservices: []\n")
	if _, err := l.director.ServeWeb(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(lvxBinary, filepath.Join(dir, "ipvsadm")); err != nil {
		t.Fatal(err)
	}
	for _, s := range sections {
		t.Run(s.Title, func(t *testing.T) {
			l := *l
			l.T = t
			s.Play(t, typed{&l, dir, "http://172.16.0.7"})
		})
	}
}
