package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	dir, err := os.MkdirTemp("", "lvx-e2e-")
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

// service is the body of a configuration with one service on port 80.
func service(extra string, reals ...string) string {
	b := "services:\n  - name: web\n    listen: [\"" + rig.VIP + ":80/tcp\"]\n    scheduler: rr\n"
	if extra != "" {
		b += "    " + extra + "\n"
	}
	b += "    reals:\n"
	if len(reals) == 0 {
		reals = []string{"172.25.0.12", "172.25.0.13"}
	}
	for _, r := range reals {
		b += "      - {address: " + r + "}\n"
	}
	return b
}

// replaceIn changes a file.
func replaceIn(file, old, with string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), old) {
		return fmt.Errorf("%s has no %q", file, old)
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), old, with, 1)), 0o600)
}
