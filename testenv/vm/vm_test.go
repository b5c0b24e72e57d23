package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRun boots a guest: the one test here that does.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var streamed bytes.Buffer
	res, err := Run(t.Context(), Options{
		Script: `
			cat /t/in/data; cat /proc/sys/kernel/osrelease; lsmod | grep -c '^ip_vs '
			ip -V | grep -c iproute2 # the host's, not busybox's
			cat /proc/mounts | grep -c -E '^(bpf|cgroup2) '
			mkdir -p /out/sub; printf 'a\000b\r\n' > /out/sub/file; ln -s file /out/sub/link
			echo to stderr >&2; printf 'raw \r\n'; sleep 3600
			exit 7`,
		Files: map[string]string{"in": dir}, Tools: []string{"ip"}, Modules: []string{"ip_vs"}, Icount: true, Stdout: &streamed,
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(res.Output), "\n")
	if len(lines) < 7 || !strings.Contains(lines[1], "cloud-amd64") {
		t.Fatalf("output %q", res.Output)
	}
	lines[1] = "release"
	want := []string{"from the host", "release", "1", "1", "2", "to stderr", "raw \r", ""}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if streamed.String() != string(res.Output) {
		t.Errorf("streamed %q, output %q", streamed.String(), res.Output)
	}
	if res.Code != 7 {
		t.Errorf("exit code %d, want 7", res.Code)
	}
	if diff := cmp.Diff(map[string][]byte{"sub/file": []byte("a\x00b\r\n")}, res.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestRunErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		want error
	}{
		{"time", Options{Argv: []string{"sleep", "1000"}, Timeout: 4 * time.Second}, ErrTimeout},
		{"panic", Options{Script: "echo c > /proc/sysrq-trigger; sleep 10"}, ErrDied},
	} {
		res, err := Run(t.Context(), c.o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
		if c.name == "panic" && !strings.Contains(res.Console, "sysrq triggered crash") {
			t.Errorf("console %q", res.Console)
		}
	}
	for name, o := range map[string]Options{
		"nothing to run":   {},
		"is not in the":    {Argv: []string{"true"}, Modules: []string{"nosuch"}},
		"no such file":     {Argv: []string{"true"}, Files: map[string]string{"x": "/nowhere"}},
		"not on this host": {Argv: []string{"true"}, Tools: []string{"nosuchtool"}},
	} {
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestScript(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Script: "a; b"}, "a; b"},
		{Options{Argv: []string{"./x", "-a=b c", "it's", "$HOME"}}, `exec './x' '-a=b c' 'it'\''s' '$HOME'` + "\n"},
	} {
		if got := c.o.script(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestDefaults(t *testing.T) {
	o := Options{}.withDefaults()
	if o.Timeout != DefaultTimeout || o.Memory != DefaultMemory || o.CPUs != 2 || o.Stdout == nil || o.Log == nil {
		t.Errorf("defaults %+v", o)
	}
	// A clock that counts instructions needs them to be in one order.
	if o := (Options{Icount: true, CPUs: 4}).withDefaults(); o.CPUs != 1 {
		t.Errorf("icount with %d processors", o.CPUs)
	}
}

func TestResult(t *testing.T) {
	buf := bytes.NewBufferString
	res, err := result(buf("\x1bc[?7l\x00warning\r\n"), buf("out"), buf("3\n"), buf(""))
	if err != nil || res.Code != 3 || string(res.Output) != "out" || res.Console != "c[?7lwarning\n" {
		t.Errorf("%+v, %v", res, err)
	}
	for _, code := range []string{"", "\n", "x"} {
		if _, err := result(buf(""), buf("out"), buf(code), buf("")); !errors.Is(err, ErrDied) {
			t.Errorf("code %q: error %v", code, err)
		}
	}
	if _, err := result(buf(""), buf(""), buf("0"), buf("not a tar archive, though as long as one block of it, or longer"+strings.Repeat("x", 600))); err == nil {
		t.Error("broken archive accepted")
	}
	if got := tail("0123456789", 4); got != "…6789" {
		t.Errorf("tail %q", got)
	}
}
