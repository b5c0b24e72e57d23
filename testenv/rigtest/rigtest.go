// Package rigtest fits [rig] to tests, as package tb fits [testenv]: the lvx that
// is tested is built once for a test binary, a rig ends with its test, and what
// fails ends the test. It knows nothing of what is tested.
package rigtest

import (
	"context"
	"flag"
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

// Main builds lvx for the tests of a package, says where it is in lvx, and runs
// them. The result is for [os.Exit].
func Main(m *testing.M, lvx *string) int {
	dir, err := os.MkdirTemp("", "lvx-tested-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	*lvx = filepath.Join(dir, "lvx")
	if out, err := exec.Command("go", "build", "-o", *lvx, "github.com/lvx-lb/lvx/cmd/lvx").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build lvx: %v\n%s", err, out)
		return 1
	}
	if err := testenv.Sweep(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// PlaySideBySide has so many parallel tests of a package run at a time, unless
// the command line says otherwise, before [Main]: tests that wait for daemons
// and timers leave processors idle. It is not for tests that bound times.
func PlaySideBySide(tests int) {
	if err := flag.Set("test.parallel", strconv.Itoa(tests)); err != nil {
		panic(err) // no test runs this
	}
}

// New builds a cluster that runs an lvx and ends with the test.
func New(t *testing.T, lvx string, s testenv.Shape) *rig.Rig {
	t.Helper()
	r, err := rig.New(t.Context(), lvx, s)
	Must(t, err)
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

// Must ends the test with an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually polls f for as long as a slow machine may need.
func Eventually(t *testing.T, f func() error) {
	t.Helper()
	Must(t, rig.Await(t.Context(), f))
}

// Run runs a command on a host, for a minute at most, and gives its output.
func Run(t *testing.T, h *testenv.Host, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := h.Run(ctx, argv...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return out
}

// Service is the body of a configuration with one service on port 80, with a line
// of extra and with two reals unless others are named.
func Service(extra string, reals ...string) string {
	b := "services:\n  - name: web\n    listen: [\"" + rig.VIP + ":80/tcp\"]\n    scheduler: rr\n"
	if extra != "" {
		b += "    " + extra + "\n"
	}
	if len(reals) == 0 {
		reals = []string{"172.25.0.12", "172.25.0.13"}
	}
	return b + "    reals:\n      - {address: " + strings.Join(reals, "}\n      - {address: ") + "}\n"
}

// ReplaceIn changes a file, in which there must be what is replaced.
func ReplaceIn(t *testing.T, file, old, with string) {
	t.Helper()
	text, err := os.ReadFile(file)
	Must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", file, old)
	}
	Must(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, with, 1)), 0o600))
}

// Metric is the value of a series of d1, given as a regular expression.
func Metric(t *testing.T, r *rig.Rig, series string) int {
	t.Helper()
	out, err := r.LVX(t.Context(), "d1", "metrics")
	Must(t, err)
	found := regexp.MustCompile(`(?m)^` + series + ` ([0-9.e+]+)$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("lvx metrics has no %s", series)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	Must(t, err)
	return int(n)
}
