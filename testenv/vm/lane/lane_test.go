package lane

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLane is the lane: every suite in its guest, as many at a time as there
// are CPUs: most guests use one.
func TestLane(t *testing.T) {
	for _, s := range Suites {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			var text bytes.Buffer
			out := io.Writer(&text)
			if testing.Verbose() {
				out = io.MultiWriter(out, os.Stdout)
			}
			if err := s.Test(t.Context(), out); err != nil {
				t.Fatalf("%v\n%s", err, failures(text.String()))
			}
		})
	}
}

// failures leaves out of a verbose test's output what went well.
func failures(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		word := strings.TrimSpace(line)
		if strings.HasPrefix(word, "=== RUN") || strings.HasPrefix(word, "--- PASS") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

func TestFailures(t *testing.T) {
	got := failures("=== RUN   TestA\n    a_test.go:1: why\n--- FAIL: TestA (0.00s)\n    --- PASS: TestA/b (0.00s)\nFAIL\n")
	if want := "    a_test.go:1: why\n--- FAIL: TestA (0.00s)\nFAIL\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestBrokenSuite: a suite that fails in its guest, or cannot be built, is an
// error. The suite is a package without IPVS in its guest.
func TestBrokenSuite(t *testing.T) {
	broken := Suite{Name: "broken", Package: "./pkg/backend/ipvs", Modules: []string{"dummy"}, Env: []string{"PATH=/nowhere"}}
	var out bytes.Buffer
	err := broken.Test(t.Context(), &out)
	if err == nil || !strings.Contains(err.Error(), "exit code 1") {
		t.Errorf("without ip_vs: error %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "this kernel cannot run these tests") {
		t.Errorf("no clear message:\n%s", out.String())
	}
	if err := (Suite{Package: "./nowhere"}).Test(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "build") {
		t.Errorf("package that does not exist: error %v", err)
	}
}

// TestSuitesExist: an entry of the lane that has no test would pass without
// testing anything.
func TestSuitesExist(t *testing.T) {
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Suites {
		files, err := filepath.Glob(filepath.Join(root, s.Package, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		tagged := 0
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if s.Host || bytes.HasPrefix(b, []byte("//go:build "+Tag)) {
				tagged++
			}
		}
		if tagged == 0 {
			t.Errorf("suite %s: %s has no test that would run (tag %s)", s.Name, s.Package, Tag)
		}
	}
}
