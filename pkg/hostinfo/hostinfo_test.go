package hostinfo

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestRecent(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-56-cloud-amd64": true, "5.18.0": true, "5.18-rc1": true, "5.17.21": false, "4.19.0": false,
		"10.0": true, "6": false, "": false, "linux": false,
	} {
		if got := recent(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

func TestExamine(t *testing.T) {
	h := Examine([]string{"lo", "nosuch0"})
	if h.Kernel == "unknown" || h.BPFFS == "" {
		t.Errorf("%+v", h)
	}
	if lo := h.Interfaces[0]; lo.Err != nil || lo.MTU == 0 || lo.Native {
		t.Errorf("lo: %+v", lo)
	}
	if h.Interfaces[1].Err == nil || h.Interfaces[1].String() != "no such interface" {
		t.Errorf("nosuch0: %+v", h.Interfaces[1])
	}
	if got := bpffs("/proc"); !strings.HasPrefix(got, "not mounted on /proc") {
		t.Error(got)
	}
	if got := bpffs("/nosuch"); !strings.HasPrefix(got, "no /nosuch") {
		t.Error(got)
	}
}

// The oldest kernel is a fact of the packet path; whoever names it names the
// same one.
func TestOldestKernelIsTheSameEverywhere(t *testing.T) {
	for _, pattern := range []string{"../../loader/*.go", "../../docs/*.md", "../../README.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		named := 0
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`Linux (5\.[0-9]+)`).FindAllStringSubmatch(string(b), -1) {
				if named++; m[1] != OldestKernel {
					t.Errorf("%s: %s, want Linux %s", file, m[0], OldestKernel)
				}
			}
		}
		if named == 0 {
			t.Errorf("%s: nothing says that lvx needs Linux %s", pattern, OldestKernel)
		}
	}
}

func TestCountCPUs(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-127": 128, "0-3,8": 5, "": 0, "3-0": 0, "x": 0} {
		if got := countCPUs(list); got != want {
			t.Errorf("%q: %d, want %d", list, got, want)
		}
	}
	if n := Examine(nil).CPUs; n < 1 {
		t.Errorf("this host has %d CPUs", n)
	}
}
