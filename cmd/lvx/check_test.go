package main

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestPrintCheck(t *testing.T) {
	noIPVS := errors.New("module ip_vs missing")
	eth0 := ifaceReport{name: "eth0", driver: "igb", mtu: 1500, up: true, native: true, frags: true}
	unsupported := ifaceReport{name: "eth0", driver: "r8169", mtu: 1500, up: true}
	for _, c := range []struct {
		name    string
		backend config.Backend
		mode    config.XDPMode
		host    hostReport
		want    []string
		err     string
	}{
		{"native", config.BackendAuto, config.XDPAuto, hostReport{kernel: "6.1", recent: true, interfaces: []ifaceReport{eth0}},
			[]string{"eth0           driver igb, MTU 1500, native XDP, frames of any size", "IPVS           yes", "backend        xdp, native on eth0"}, ""},
		{"generic", config.BackendAuto, config.XDPAuto, hostReport{recent: true, interfaces: []ifaceReport{unsupported}, ipvs: noIPVS},
			[]string{"generic XDP only", "IPVS           no: module ip_vs missing", "xdp, generic on eth0"}, ""},
		{"asked for generic", config.BackendXDP, config.XDPGeneric, hostReport{recent: true, interfaces: []ifaceReport{eth0}},
			[]string{"xdp, generic on eth0"}, ""},
		{"asked for native", config.BackendXDP, config.XDPNative, hostReport{recent: true, interfaces: []ifaceReport{unsupported}},
			[]string{"xdp, native on eth0", "warning        xdp_mode native, but driver r8169 of eth0"}, ""},
		{"old kernel", config.BackendAuto, config.XDPAuto, hostReport{kernel: "4.19", interfaces: []ifaceReport{eth0}},
			[]string{"ipvs, because XDP cannot run here: kernel 4.19 is older than 5.15"}, ""},
		{"old kernel, no IPVS", config.BackendAuto, config.XDPAuto, hostReport{kernel: "4.19", interfaces: []ifaceReport{eth0}, ipvs: noIPVS},
			nil, "no data path: XDP: kernel 4.19 is older than 5.15; IPVS: module ip_vs missing"},
		{"old kernel, XDP wanted", config.BackendXDP, config.XDPAuto, hostReport{kernel: "4.19", interfaces: []ifaceReport{eth0}},
			nil, "kernel 4.19 is older than 5.15"},
		{"IPVS", config.BackendIPVS, config.XDPAuto, hostReport{recent: true, interfaces: []ifaceReport{eth0}}, []string{"backend        ipvs"}, ""},
		{"IPVS missing", config.BackendIPVS, config.XDPAuto, hostReport{recent: true, interfaces: []ifaceReport{eth0}, ipvs: noIPVS}, nil, "module ip_vs missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &config.Config{Interfaces: []string{"eth0"}, Backend: c.backend, XDPMode: c.mode, Warnings: []string{"careful"}}
			var b bytes.Buffer
			err := printCheck(&b, "lvx.yaml", cfg, c.host)
			got := ""
			if err != nil {
				got = oneLine(err.Error())
			}
			if got != c.err {
				t.Errorf("error %q, want %q", got, c.err)
			}
			for _, line := range append(c.want, "lvx.yaml: ok, 0 services", "warning        careful") {
				if !strings.Contains(b.String(), line) {
					t.Errorf("no %q in\n%s", line, b.String())
				}
			}
		})
	}
}

// TestPrintCheckServices: what runs where, and what cannot run at all.
func TestPrintCheckServices(t *testing.T) {
	real := lb.Real{Addr: netip.MustParseAddr("10.0.0.11"), Weight: 1}
	nat := real
	nat.Forward = lb.NAT
	cfg := &config.Config{Interfaces: []string{"eth0"}, Services: []config.Service{
		{Service: lb.Service{Name: "web", Reals: []lb.Real{real}}}, {Service: lb.Service{Name: "old", Reals: []lb.Real{real, nat}}},
	}}
	good := hostReport{recent: true, interfaces: []ifaceReport{{name: "eth0", native: true}}}
	bare, ancient := good, good
	bare.ipvs, ancient.recent, ancient.kernel = errors.New("no module"), false, "4.19"
	for _, c := range []struct {
		backend config.Backend
		host    hostReport
		want    string
		err     string
	}{
		{config.BackendAuto, good, "web: xdp, old: ipvs: forward nat", ""},
		{config.BackendAuto, bare, "web: xdp, old: ipvs: forward nat", "the kernel's IPVS is needed for old (forward nat): no module"},
		{config.BackendAuto, ancient, "web: ipvs: kernel 4.19 is older than 5.15, old: ipvs: kernel 4.19 is older than 5.15", ""},
		{config.BackendIPVS, good, "web: ipvs, old: ipvs", ""},
		{config.BackendXDP, good, "web: xdp, old: xdp", "service old: forward nat: not possible with XDP (use `backend: ipvs` or `auto`)"},
	} {
		cfg.Backend = c.backend
		var b bytes.Buffer
		err := printCheck(&b, "lvx.yaml", cfg, c.host)
		var got []string
		for line := range strings.Lines(b.String()) {
			if words, ok := strings.CutPrefix(line, "service "); ok {
				got = append(got, strings.TrimSpace(words))
			}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %q, want %q", c.backend, got, c.want)
		}
		if err == nil && c.err != "" || err != nil && err.Error() != c.err {
			t.Errorf("%s: error %v, want %q", c.backend, err, c.err)
		}
	}
}

// TestUntrusted: programs that others could exchange are named before they
// are needed, each once.
func TestUntrusted(t *testing.T) {
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
	if got := untrusted(cfg); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestRecent(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-56-cloud-amd64": true, "5.15.0": true, "5.15-rc1": true, "5.14.21": false, "4.19.0": false,
		"10.0": true, "6": false, "": false, "linux": false,
	} {
		if got := recent(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

func TestExamine(t *testing.T) {
	h := examine([]string{"lo", "nosuch0"})
	if h.kernel == "unknown" || h.bpffs == "" {
		t.Errorf("%+v", h)
	}
	if lo := h.interfaces[0]; lo.err != nil || lo.mtu == 0 || lo.native {
		t.Errorf("lo: %+v", lo)
	}
	if h.interfaces[1].err == nil || h.interfaces[1].String() != "no such interface" {
		t.Errorf("nosuch0: %+v", h.interfaces[1])
	}
	if got := bpffs("/proc"); !strings.HasPrefix(got, "not mounted on /proc") {
		t.Error(got)
	}
	if got := bpffs("/nosuch"); !strings.HasPrefix(got, "no /nosuch") {
		t.Error(got)
	}
}
