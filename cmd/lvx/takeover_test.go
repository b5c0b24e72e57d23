package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A binary that took over and does not come to serve lets the one before go
// on: with the same arguments, and with the reason.
func TestGoBack(t *testing.T) {
	self := filepath.Join(t.TempDir(), "lvx")
	if out, err := exec.Command("go", "build", "-o", self, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := os.Open("/usr/bin/env") // prints its environment, and fails for arguments that are no program
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	cmd := exec.Command(self, "run", "-c", "/nonexistent.yaml")
	cmd.ExtraFiles = []*os.File{before}
	cmd.Env = []string{envFallback + "=3"}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the old one goes on") || !strings.Contains(string(out), "/nonexistent.yaml") ||
		!strings.Contains(string(out), "env: ") && !strings.Contains(string(out), "run") {
		t.Errorf("%v: %s", err, out)
	}
	if strings.Contains(string(out), "lvx: configuration") {
		t.Errorf("the new binary went on itself:\n%s", out)
	}
}

func TestFailedUpgrade(t *testing.T) {
	if _, failed := failedUpgrade(); failed {
		t.Error("an upgrade failed that never was")
	}
	t.Setenv(envFailed, "no such interface")
	w, failed := failedUpgrade()
	if !failed || !strings.Contains(w.Text, "no such interface") {
		t.Errorf("%v %+v", failed, w)
	}
	if _, failed := failedUpgrade(); failed {
		t.Error("told of twice")
	}
}

func TestWithoutOurs(t *testing.T) {
	got := withoutOurs([]string{"A=1", envFallback + "=3", "LVX_FALLBACK_FD2=x", envFailed + "=why"})
	if !slices.Equal(got, []string{"A=1", "LVX_FALLBACK_FD2=x"}) {
		t.Errorf("%q", got)
	}
}
