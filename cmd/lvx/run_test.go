package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/testenv/tb"
)

func TestRunNeedsRoot(t *testing.T) {
	if err := mustBeRoot("run", 1000); err == nil || !strings.Contains(err.Error(), "needs root") {
		t.Error(err)
	}
	if err := mustBeRoot("run", 0); err != nil {
		t.Error(err)
	}
}

// A second daemon says so in one line and touches nothing.
func TestRunTwice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: lvx run asks for it first")
	}
	pins := t.TempDir()
	lock, err := admin.Lock(admin.DefaultLockDir, pins)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	file := filepath.Join(t.TempDir(), "lvx.yaml")
	text := "interface: eth0\nservices: [{name: web, listen: [\"10.0.0.100:80/tcp\"], reals: [{address: 10.0.0.11}]}]\npin_dir: " + pins + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tb.InNamespace(t, func(t *testing.T, _ int) {
		code, out, stderr := lvx("run", "-c", file)
		if code != exitFailed || out != "" || !strings.HasPrefix(stderr, "lvx: another lvx runs with pin_dir "+pins) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%d %q %q", code, out, stderr)
		}
	})
}

// A binary whose packet path the kernel refuses is no successor where XDP serves; where
// it never did, the kernel's IPVS is backend auto's way.
func TestRehearsalOfARefusedPacketPath(t *testing.T) {
	refused := errors.New("packet path: permission denied")
	served := t.TempDir()
	if err := os.WriteFile(filepath.Join(served, "link_eth0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		backend config.Backend
		pins    string
		want    error
	}{
		{config.BackendXDP, t.TempDir(), refused},
		{config.BackendAuto, served, refused},
		{config.BackendAuto, t.TempDir(), nil},
		{config.BackendIPVS, served, nil},
	} {
		err := rehearseStart(io.Discard, &config.Config{Backend: c.backend, PinDir: c.pins}, func() error { return refused })
		if !errors.Is(err, c.want) {
			t.Errorf("%v, pins in use %v: %v, want %v", c.backend, c.pins == served, err, c.want)
		}
	}
}

func TestNewLogger(t *testing.T) {
	for format, want := range map[string]string{"text": "level=WARN msg=hello a=1", "json": `"level":"WARN","msg":"hello","a":1`} {
		var b bytes.Buffer
		log, err := newLogger(&b, format, "warn")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not this")
		log.Warn("hello", "a", 1)
		if !strings.Contains(b.String(), want) || strings.Count(b.String(), "\n") != 1 {
			t.Errorf("%s: %s", format, b.String())
		}
	}
}

func TestHangups(t *testing.T) {
	caught := make(chan os.Signal, 1) // or a hangup that comes too early would end the test
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	asked := hangups(t.Context())
	for again := true; again; {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-asked:
			again = false
		case <-time.After(10 * time.Millisecond):
		}
	}
}
