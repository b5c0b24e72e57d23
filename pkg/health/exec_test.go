package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/health"
)

// script writes an executable that everybody can run and only root change.
func script(t *testing.T, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "health") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "check")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// What hangs for one real, and keeps a program from being begun for the others, says
// nothing about those.
func TestProgramsAndFilesBehindAHangingDisk(t *testing.T) {
	const name = "/mnt/hanging"
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 16 {
			go guard.Bounded(ctx, name, func() (int, error) { <-release; return 0, nil })
		}
		time.Sleep(time.Minute)
		for _, s := range []health.Spec{
			{Type: health.Exec, Argv: name + "\n-x"}, {Type: health.File, File: name}, {Type: health.HTTPS, CA: name},
		} {
			if err := try(t, s, 80); !errors.Is(err, health.ErrNotAsked) {
				t.Errorf("%s: %v", s.Type, err)
			}
		}
		close(release)
	})
}

func TestExec(t *testing.T) {
	for _, tc := range []struct {
		text, args, env string
		timeout         time.Duration
		want            string // after "exec NAME"
	}{
		{text: "exit 0", want: ""},
		{text: "exit 2", want: ": exit status 2"},
		{text: `echo "$1|$2"; exit 1`, args: "\n$(id)\na b", want: ": exit status 1: $(id)|a b"},
		{text: "printf 'bad\\033[31m\\nthings' >&2; exit 1", want: ": exit status 1: bad?[31m things"},
		{text: "head -c 100000 /dev/zero | tr '\\0' x; exit 1", want: ": exit status 1: " + strings.Repeat("x", 197) + "…"},
		{text: "echo $A $B $LVX_REAL $LVX_PORT $LVX_VIP ${HOME-none}; exit 1", env: "A=1\nB=two words", want: ": exit status 1: 1 two words 127.0.0.1 80 none"},
		{text: "[ $(id -u) != 0 ] && [ $(id -g) != 0 ]", want: ""},
		{text: "kill -KILL $$", want: ": killed by signal 9 (killed)"},
		{text: "echo started; sleep 1000", timeout: 3 * time.Second, want: ": timeout after 3s: started"},
		{text: "trap '' TERM INT; (trap '' TERM; sleep 1000) & wait", timeout: 200 * time.Millisecond, want: ": timeout after 200ms"},
	} {
		name := script(t, tc.text)
		tgt := health.Target{
			Spec: health.Spec{Type: health.Exec, Argv: name + tc.args, Env: tc.env, Timeout: tc.timeout},
			Real: loopback, Port: 80,
		}
		if tc.want != "" {
			tc.want = "exec " + name + tc.want
		}
		expect(t, tc.text, tryAt(t, tgt), tc.want)
	}
}

func TestExecTrust(t *testing.T) {
	name := script(t, "exit 0")
	run := func() error { return tryAt(t, health.Target{Spec: health.Spec{Type: health.Exec, Argv: name}}) }
	expect(t, "as written", run(), "")
	for _, tc := range []struct {
		prepare func() error
		want    string
	}{
		{func() error { return os.Chmod(name, 0o757) }, fmt.Sprintf("exec %s: %s is writable by others (chmod go-w %s)", name, name, name)},
		{func() error { return os.Chmod(name, 0o700) }, fmt.Sprintf("exec %s: start %s: permission denied", name, name)},
		{func() error { return os.Chmod(name, 0o600) }, fmt.Sprintf("exec %s: %s is not an executable file", name, name)},
		{func() error { return os.Remove(name) }, fmt.Sprintf("exec %s: no such file or directory", name)},
	} {
		if err := tc.prepare(); err != nil {
			t.Fatal(err)
		}
		expect(t, "untrusted", run(), tc.want)
	}
	expect(t, "relative", tryAt(t, health.Target{Spec: health.Spec{Type: health.Exec, Argv: "true"}}), "exec true: true is not an absolute path")
}

func TestExecSeesTheVIP(t *testing.T) {
	tgt := health.Target{
		Spec: health.Spec{Type: health.Exec, Argv: script(t, "echo $LVX_VIP; exit 1"), Via: health.ViaReal},
		Real: loopback, VIP: netip.MustParseAddr("192.0.2.100"),
	}
	expect(t, "VIP", tryAt(t, tgt), "exec "+tgt.Spec.Argv+": exit status 1: 192.0.2.100")
}
