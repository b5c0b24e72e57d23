//go:build ipvsvm

package keepalived_test

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/keepalived"
)

// alpha is why rules of a fixture differ that has the word.
const alpha = "keepalived takes no real server in before it has been checked, and here none answers"

// different are the fixtures whose rules differ, with the reason.
var different = map[string]string{
	"07-extra-words.conf":    alpha,
	"24-bfd.conf":            alpha,
	"20-later-versions.conf": "keepalived 2.2.7 has faults that lvx and later versions have not",
}

// TestKernelKeepalived: from every fixture of which nothing is lost, keepalived
// and lvx give the kernel's IPVS the same rules.
func TestKernelKeepalived(t *testing.T) {
	compared := 0
	for _, name := range fixtures(t) {
		res, err := keepalived.Import(testFiles{}, name, keepalived.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if different[filepath.Base(name)] != "" || res.Report.Count(keepalived.Lost) > 0 || len(res.Config.Services) == 0 {
			continue
		}
		compared++
		t.Run(filepath.Base(name), func(t *testing.T) {
			want := rulesOfLvx(t, res)
			if want == "" {
				t.Fatal("lvx leaves the table empty")
			}
			if diff := cmp.Diff(want, rulesOfKeepalived(t, name, want)); diff != "" {
				t.Errorf("rules (-lvx +keepalived):\n%s", diff)
			}
		})
	}
	if compared < 6 {
		t.Errorf("%d fixtures compared (want at least 6)", compared)
	}
}

// rules are what ipvsadm saves.
func rules(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ipvsadm", "-S", "-n").CombinedOutput()
	if err != nil {
		t.Fatalf("ipvsadm: %v: %s", err, out)
	}
	return string(out)
}

func flush(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ipvsadm", "-C").CombinedOutput(); err != nil {
		t.Fatalf("ipvsadm: %v: %s", err, out)
	}
}

// rulesOfLvx are the rules with every real server up.
func rulesOfLvx(t *testing.T, res *keepalived.Result) string {
	t.Helper()
	up := map[health.Target]health.Status{}
	for _, target := range director.Targets(res.Config, false) {
		up[target] = health.Status{Known: true, Up: true}
	}
	active := map[string]bool{}
	for _, inst := range res.Config.VRRP {
		active[inst.Name] = true
	}
	b, err := ipvs.Open(t.Context(), ipvs.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(false)
	if err := b.Apply(t.Context(), director.Plan(director.Input{Config: res.Config, Health: up, Active: active}).State); err != nil {
		t.Fatal(err)
	}
	return rules(t)
}

// rulesOfKeepalived runs keepalived's checker process until the rules are
// those that are wanted. It starts with every real server up, and takes out
// those whose checks fail, all of them here, some time later.
func rulesOfKeepalived(t *testing.T, name, want string) string {
	t.Helper()
	flush(t)
	defer flush(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, "keepalived", "-C", "-n", "-l", "-f", name,
		"-p", filepath.Join(dir, "parent.pid"), "-c", filepath.Join(dir, "checkers.pid"))
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	var got string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		now := rules(t)
		if now == want {
			return now
		}
		if len(now) > len(got) {
			got = now
		}
	}
	return got
}
