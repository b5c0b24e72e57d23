package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/testenv/vm"
)

// sections cuts a recording at its titles. What is before the first one is
// under "".
func sections(text string) map[string]string {
	found := map[string]string{}
	title := ""
	for line := range strings.Lines(text) {
		if t, ok := strings.CutPrefix(line, "== "); ok {
			title = strings.TrimSpace(t)
		}
		found[title] += line
	}
	for t, s := range found {
		found[t] = strings.TrimSpace(s)
	}
	return found
}

// TestRecordingsRepeat: recording some sections again gives the bytes that
// are in the repository.
func TestRecordingsRepeat(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "record")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	const only = `^(dh weights 1,0,1|mh mh-fallback,mh-port weights 2,0,0,1|sh IPv6.*|nq weights 3,1,2: random life 1|lc weights 1,1: rs2 with.*)$`
	res, err := vm.Run(t.Context(), vm.Options{
		Argv: []string{"./record", only}, Files: map[string]string{"record": binary},
		Tools: []string{"ipvsadm", "ip", "nft"}, Modules: []string{"ip_vs"}, Icount: true,
	})
	if err != nil || res.Code != 0 {
		t.Fatalf("guest: %v, exit code %d\n%s", err, res.Code, res.Output)
	}
	n := 0
	for _, name := range []string{"17-hash-more.txt", "18-leastconn.txt"} {
		committed, err := os.ReadFile(filepath.Join("../../../pkg/sched/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		want := sections(string(committed))
		for title, got := range sections(string(res.Files[name])) {
			if title == "" {
				// The kernel's version is allowed to move on.
				_, got, _ = strings.Cut(got, "\n")
				_, want[title], _ = strings.Cut(want[title], "\n")
			} else {
				n++
			}
			if diff := cmp.Diff(want[title], got); diff != "" {
				t.Errorf("%s: %s (-committed +now):\n%s", name, title, diff)
			}
		}
	}
	if n != 5 {
		t.Errorf("%d sections recorded, want 5", n)
	}
}

// TestTitlesDiffer: a title names one section.
func TestTitlesDiffer(t *testing.T) {
	seen := map[string]bool{}
	add := func(title string) {
		if seen[title] {
			t.Errorf("title %q twice", title)
		}
		seen[title] = true
	}
	for _, all := range [][]hashCase{dhCases(), mhCases(), mhFlagCases(), shCases()} {
		for _, c := range all {
			add(c.title)
		}
	}
	for _, s := range []string{"lc", "wlc"} {
		for _, c := range countCases(s) {
			add(c.title)
		}
	}
}

func TestReal(t *testing.T) {
	for _, c := range []struct{ service, want string }{
		{tcp, "-t 10.0.0.100:80 -r 10.0.0.12 -g -w 3"},
		{tcp6, "-t [2001:db8::100]:80 -r [2001:db8::12]:80 -g -w 3"},
		{marked, "-f 1 -r 10.0.0.12 -g -w 3"},
		{marked + " -6", "-f 1 -6 -r [2001:db8::12]:0 -g -w 3"},
	} {
		if got := real(c.service, 2, 3); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestOffset(t *testing.T) {
	for _, c := range []struct {
		from string
		i    int
		want string
	}{{"172.16.0.0", 5, "172.16.0.5"}, {"172.16.0.255", 1, "172.16.1.0"}, {"172.16.0.200", 456, "172.16.2.144"}, {"2001:db8::", 256, "2001:db8::100"}} {
		if got := offset(netip.MustParseAddr(c.from), c.i).String(); got != c.want {
			t.Errorf("%s + %d: got %s, want %s", c.from, c.i, got, c.want)
		}
	}
}
