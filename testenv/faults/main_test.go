package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// lvx is the binary under test.
var lvx string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lvx-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	lvx = filepath.Join(dir, "lvx")
	if out, err := exec.Command("go", "build", "-o", lvx, "github.com/lvx-lb/lvx/cmd/lvx").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build lvx: %v\n%s", err, out)
		return 1
	}
	if err := testenv.Sweep(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// newRig builds a cluster that ends with the test.
func newRig(t *testing.T, s testenv.Shape) *rig.Rig {
	t.Helper()
	r, err := rig.New(t.Context(), lvx, s)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.Logs())
		}
		if err := r.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls f for as long as a slow machine may need.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	must(t, rig.Await(t.Context(), f))
}

// run runs a command on a host and gives its output.
func run(t *testing.T, h *testenv.Host, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := h.Run(ctx, argv...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return out
}

// commands types lines on a host, one after the other.
func commands(t *testing.T, h *testenv.Host, lines ...string) {
	t.Helper()
	for _, line := range lines {
		run(t, h, strings.Fields(line)...)
	}
}

// service is the body of a configuration with one service on port 80.
func service(extra string, reals ...string) string {
	b := "services:\n  - name: web\n    listen: [\"" + rig.VIP + ":80/tcp\"]\n    scheduler: rr\n"
	if extra != "" {
		b += "    " + extra + "\n"
	}
	if len(reals) == 0 {
		reals = []string{"172.25.0.12", "172.25.0.13"}
	}
	return b + "    reals:\n      - {address: " + strings.Join(reals, "}\n      - {address: ") + "}\n"
}

// checked is a service with quick checks.
func checked(check string) string {
	return service("check: {" + check + ", interval: 500ms, timeout: 400ms, fall: 2, rise: 2}")
}

// replaceIn changes a file.
func replaceIn(t *testing.T, file, old, with string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", file, old)
	}
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, with, 1)), 0o600))
}

// realsUp waits until exactly these reals get requests.
func realsUp(t *testing.T, r *rig.Rig, want ...string) {
	t.Helper()
	eventually(t, func() error {
		got := r.Curl(2*len(want), "http://"+rig.VIP)
		for _, w := range want {
			if strings.Count(got, w) != 2 {
				return fmt.Errorf("requests were answered by %s, want %v", got, want)
			}
		}
		return nil
	})
}

// bothServe wants the next requests to be answered by both reals.
func bothServe(t *testing.T, r *rig.Rig, when string) {
	t.Helper()
	if got := r.Curl(4, "http://"+rig.VIP); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
		t.Errorf("%s requests are answered by %s", when, got)
	}
}

// says waits until a command on d1 prints all of this.
func says(t *testing.T, r *rig.Rig, command string, wanted ...string) {
	t.Helper()
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", strings.Fields(command)...)
		if err != nil {
			return err
		}
		for _, w := range wanted {
			if !strings.Contains(out, w) {
				return fmt.Errorf("lvx %s does not say %q:\n%s", command, w, out)
			}
		}
		return nil
	})
}

// metricOf is the value of a series of d1, given as a regular expression.
func metricOf(t *testing.T, r *rig.Rig, series string) int {
	t.Helper()
	out, err := r.LVX(t.Context(), "d1", "metrics")
	must(t, err)
	found := regexp.MustCompile(`(?m)^` + series + ` ([0-9.e+]+)$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("lvx metrics has no %s", series)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	must(t, err)
	return int(n)
}

// errText is an error's text, "" without one.
func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
