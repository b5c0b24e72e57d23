package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// What native mode has shown is warned of where native mode serves; where
// generic mode serves instead, nothing is left to be done.
func TestProofsAreNoted(t *testing.T) {
	for name, test := range map[string]struct {
		attached loader.Attachment
		want     string // in the warning, "" for none
	}{
		"proven":                 {loader.Attachment{Mode: loader.Native, Proof: loader.Proven}, ""},
		"nobody answers":         {loader.Attachment{Mode: loader.Native, Proof: loader.NotProven}, "not proven"},
		"native is a must":       {loader.Attachment{Mode: loader.Native, Proof: loader.Disproven}, loader.ErrLost.Error()},
		"fell back to generic":   {loader.Attachment{Mode: loader.Generic, Why: loader.ErrLost.Error()}, ""},
		"nobody is asked for it": {loader.Attachment{Mode: loader.Native}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			all := warnings.New(slog.New(slog.DiscardHandler))
			noteProofs([]loader.Attachment{test.attached}, all)
			list := all.List()
			if test.want == "" && len(list) > 0 || test.want != "" && (len(list) != 1 || !strings.Contains(list[0].Text, test.want)) {
				t.Errorf("%+v, want %q", list, test.want)
			}
		})
	}
}

// A director that falls back to the kernel's IPVS takes off what an XDP of before left
// on the interface: it is in front of IPVS, and falls silent once its lease is over.
func TestFallbackRetiresXDP(t *testing.T) {
	modprobe := filepath.Join(t.TempDir(), "modprobe")
	if err := os.WriteFile(modprobe, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(modprobe)+":"+os.Getenv("PATH")) // the kernel's IPVS could be loaded
	cfg := &config.Config{
		Backend: config.BackendAuto, Interfaces: []string{"lo"}, PinDir: "/sys/fs/bpf/lvx-test-fallback", StateDir: t.TempDir(),
		Tables: config.Tables{Flows: 1024, Templates: 1024},
	}
	log := slog.New(slog.DiscardHandler)
	open := func() datapath {
		path, err := openBackend(t.Context(), cfg, loader.Auto, nil, warnings.New(log), log)
		if err != nil || path.xdp != nil || path.retire == nil {
			t.Fatalf("XDP on lo %v, what takes XDP off %p: %v", path.xdp, path.retire, err)
		}
		return path
	}
	open() // mounts a bpffs where there is none
	if err := os.Mkdir(cfg.PinDir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loader.Purge(cfg.PinDir) })
	if err := os.Symlink("nowhere", filepath.Join(cfg.PinDir, "link_eth0")); err != nil { // as far as a fallback sees, a link
		t.Fatal(err)
	}
	path := open()
	if !loader.IsPinned(cfg.PinDir, "eth0") {
		t.Error("what was there has gone before IPVS serves")
	}
	if err := path.retire(t.Context()); err != nil || loader.IsPinned(cfg.PinDir, "eth0") {
		t.Errorf("it is still there: %v", err)
	}
}
