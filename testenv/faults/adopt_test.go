package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A change of xdp_mode keeps what is open, and whose client belongs to which real;
// clients that come meanwhile meet silence at most, and are not refused.
func TestFault22ChangeOfTheMode(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	body := service("persistence: {timeout: 300s}")
	must(t, r.Direct(t.Context(), "d1", "xdp_mode: native\n"+body))
	real := r.Curl(1, "http://"+rig.VIP)
	conn, err := r.Hold(real)
	must(t, err)
	defer conn.Close()
	stream := r.Stream("http://"+rig.VIP, 3*time.Millisecond, 700*time.Millisecond, 20_000)
	for n := range 4 {
		mode := []string{"generic", "native"}[n%2]
		must(t, r.Direct(t.Context(), "d1", "xdp_mode: "+mode+"\n"+body))
		says(t, r, "status", "xdp "+mode)
		if name, err := rig.Ask(conn); name != real || err != nil {
			t.Errorf("in mode %s the connection is answered by %q, %v, want %s", mode, name, err, real)
		}
		if got := r.Curl(2, "http://"+rig.VIP); got != real+" "+real {
			t.Errorf("in mode %s the client goes to %s, not to %s", mode, got, real)
		}
	}
	total, failed := stream.Stop()
	t.Logf("%d clients came meanwhile, %d were not served at once", total, len(failed))
	for _, why := range failed {
		if why != "timeout" {
			t.Errorf("a client: %s", why)
		}
	}
	if total == 0 || len(failed) == total {
		t.Errorf("%d of %d clients were not served", len(failed), total)
	}
}

// The sorry server may be one of the reals; templates are counted where the
// table is.
func TestFault17WhatIsCounted(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("persistence: {timeout: 300s}")))
	if got := r.Curl(3, "http://"+rig.VIP); got != "r1 r1 r1" && got != "r2 r2 r2" {
		t.Errorf("a persistent client: %s", got)
	}
	if got := metricOf(t, r, `lvx_table_entries\{table="templates"\}`); got != 1 {
		t.Errorf("%d templates are counted, want 1", got)
	}
	sorry := service("sorry_server: 172.25.0.13\n    check: {type: tcp, port: 81, interval: 200ms, timeout: 100ms, fall: 1, rise: 1}")
	must(t, r.Stop("d1"))
	must(t, r.Direct(t.Context(), "d1", sorry))
	says(t, r, "status", "web  sorry")
	realsUp(t, r, "r2")
}

// The race detector runs over every package but those with a named reason, and
// known vulnerabilities are asked for, as a part of what CI runs.
func TestFault30RaceIsPartOfCI(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("../..", name))
		must(t, err)
		return string(text)
	}
	for file, line := range map[string]string{
		".ci/run": `(?m)^make race \|\| fail`, "Makefile": `(?m)^\tscripts/race$`, "scripts/race": `(?m)^CGO_ENABLED=1 go test -race `,
		"scripts/lint": `govulncheck@v[0-9.]+ \./\.\.\.`,
	} {
		if !regexp.MustCompile(line).MatchString(read(file)) {
			t.Errorf("%s has no line %s", file, line)
		}
	}
	left := regexp.MustCompile(`grep -vE '/\((.*)\)'`).FindStringSubmatch(read("scripts/race"))
	if left == nil {
		t.Fatal("scripts/race leaves packages out in another way than this test knows")
	}
	for name := range strings.SplitSeq(left[1], "|") {
		if strings.HasPrefix(name, "pkg/") && name != "pkg/backend" {
			t.Errorf("%s is left out of the tests with the race detector", name)
		}
	}
}
