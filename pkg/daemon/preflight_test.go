package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// TestUntrustedPrograms: programs that others could exchange are named before they
// are needed, each once.
func TestUntrustedPrograms(t *testing.T) {
	loose := filepath.Join(t.TempDir(), "loose")
	if err := os.WriteFile(loose, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o777); err != nil {
		t.Fatal(err)
	}
	ask := func(program string) []health.Spec {
		return []health.Spec{{Type: health.TCP}, {Type: health.Exec, Argv: program + "\n-x"}}
	}
	cfg := &config.Config{Services: []config.Service{{
		Service: lb.Service{Name: "web"},
		Checks:  [][]health.Spec{ask("/bin/true"), ask("/nosuch/program"), ask("/nosuch/program")},
	}}}
	cfg.Notify.Exec = []string{"/bin/true", loose + " some words"}
	want := []string{
		"notify program will not be run: " + loose + " is writable by others (chmod go-w " + loose + ")",
		"check of web will not be run: /nosuch/program: no such file or directory",
	}
	if got := untrustedPrograms(cfg); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestInterfaces(t *testing.T) {
	cfg := &config.Config{
		Interfaces: []string{"eth0", "eth1"},
		VRRP:       []vrrp.Instance{{Interface: "eth1"}, {Interface: "eth2"}},
	}
	if got := Interfaces(cfg); !slices.Equal(got, []string{"eth0", "eth1", "eth2"}) {
		t.Error(got)
	}
}
