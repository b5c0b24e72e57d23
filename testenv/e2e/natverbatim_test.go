package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/verbatim"
)

// Article 002's first half as it is typed, on a director whose ipvsadm is lvx and
// whose kernel has no IPVS. Its file has no services.
func TestVerbatimNAT(t *testing.T) {
	near, far := newNATRig(t)
	for _, name := range []string{"d1", "r1", "r2"} {
		server, err := near.Cluster.Host(name).ServeWeb(":80")
		must(t, err)
		if near.Webs[name] == nil {
			near.Webs[name] = server // the others are closed with their hosts
		}
	}
	directNAT(t, near, "services: []\n")
	dir := t.TempDir()
	must(t, os.Symlink(lvx, filepath.Join(dir, "ipvsadm")))
	s := typed{&seed{T: t, Rig: near}, dir}
	listed := func(command string, want ...string) string {
		t.Helper()
		out, err := s.Type(verbatim.Director, command)
		must(t, err)
		out = regexp.MustCompile(`[ \t]+`).ReplaceAllString(out, " ")
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q in\n%s", command, w, out)
			}
		}
		return out
	}
	s.mustType("ipvsadm -A -t 172.16.0.7:80 -s rr")
	listed("ipvsadm -ln", "TCP 172.16.0.7:80 rr")
	s.mustType("ipvsadm -a -t 172.16.0.7:80 -r 192.168.79.27 -m")
	s.mustType("ipvsadm -a -t 172.16.0.7:80 -r 192.168.79.37 -m")
	listed("ipvsadm -ln", "-> 192.168.79.27:80 Masq 1 0 0", "-> 192.168.79.37:80 Masq 1 0 0")
	if got := near.Curl(10, natURL); got != "r2 r1 r2 r1 r2 r1 r2 r1 r2 r1" {
		t.Errorf("10 requests: %s", got)
	}
	s.mustType("ipvsadm -E -t 172.16.0.7:80 -s wrr")
	s.mustType("ipvsadm -e -t 172.16.0.7:80 -r 192.168.79.27 -w 1 -m")
	s.mustType("ipvsadm -e -t 172.16.0.7:80 -r 192.168.79.37 -w 2 -m")
	listed("ipvsadm -ln", "TCP 172.16.0.7:80 wrr", "-> 192.168.79.27:80 Masq 1 0 5", "-> 192.168.79.37:80 Masq 2 0 5")
	if got := far.Curl(9, natURL); strings.Count(got, "r1") != 3 || strings.Count(got, "r2") != 6 {
		t.Errorf("9 requests, weights 1 and 2: %s", got)
	}
	s.mustType("ipvsadm -e -t 172.16.0.7:80 -r 192.168.79.27 -w 0 -m")
	if got := near.Curl(3, natURL); got != "r2 r2 r2" {
		t.Errorf("3 requests, the first real has weight 0: %s", got)
	}
	s.mustType("ipvsadm -e -t 172.16.0.7:80 -r 192.168.79.37 -w 0 -m")
	if got := near.Curl(2, natURL); got != "connection refused connection refused" {
		t.Errorf("2 requests, both have: %s", got)
	}
	s.mustType("ipvsadm -a -t 172.16.0.7:80 -r 127.0.0.1 -w 1 -g")
	if got := near.Curl(2, natURL); got != "d1 d1" {
		t.Errorf("2 requests, the director has a page: %s", got)
	}
	stats := listed("ipvsadm -ln --stats --exact", "-> 192.168.79.27:80 8 ", "-> 192.168.79.37:80 14 ", "-> 127.0.0.1:80 2 ")
	if regexp.MustCompile(`(?m)^ -> 192.* 0( |$)`).MatchString(stats) {
		t.Errorf("a counter is 0:\n%s", stats)
	}
	listed("ipvsadm -ln --rate", "-> 192.168.79.27:80 ")
}
