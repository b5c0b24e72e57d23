package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lvx-lb/lvx/testenv/vm"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args []string
		want vm.Options
		out  string
	}{
		{
			[]string{"--", "ipvsadm", "-L", "-n"},
			vm.Options{Argv: []string{"ipvsadm", "-L", "-n"}, Memory: vm.DefaultMemory, CPUs: 2, Timeout: vm.DefaultTimeout}, "",
		},
		{
			[]string{"-icount", "-mem", "256", "-cpus", "1", "-timeout", "1m", "-out", "d", "-tool", "ip", "-tool", "nft", "-module", "ip_vs", "-file", "/etc/x=./y", "./a/b.test", "-test.v"},
			vm.Options{
				Argv: []string{"./b.test", "-test.v"}, Icount: true, Memory: 256, CPUs: 1, Timeout: time.Minute,
				Tools: []string{"ip", "nft"}, Modules: []string{"ip_vs"}, Files: map[string]string{"/etc/x": "./y", "b.test": "./a/b.test"},
			}, "d",
		},
	} {
		o, out, err := parse(c.args)
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		o.Stdout, o.Log = nil, nil
		if diff := cmp.Diff(c.want, o, cmpopts.EquateEmpty()); diff != "" || out != c.out {
			t.Errorf("%q: out %q (-want +got):\n%s", c.args, out, diff)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-nosuch"}, {"-file", "x", "--", "true"}, {"-timeout", "soon", "--", "true"}} {
		if code := run(args); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
	if code := run([]string{"-h"}); code != 0 {
		t.Errorf("-h: exit code %d", code)
	}
	if code := run([]string{"-file", "x=/nowhere", "--", "true"}); code != 125 {
		t.Errorf("file that does not exist: exit code %d, want 125", code)
	}
}

func TestSave(t *testing.T) {
	dir := t.TempDir()
	if err := save(dir, map[string][]byte{"a/b": []byte("text")}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a/b")); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if err := save("", map[string][]byte{"x": nil}); err != nil {
		t.Errorf("no directory: %v", err)
	}
	if err := save(dir, map[string][]byte{"../x": nil}); err == nil {
		t.Error("a file outside of the directory was written")
	}
}
