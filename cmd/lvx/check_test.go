package main

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/daemon"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestPrintCheck(t *testing.T) {
	noIPVS := errors.New("module ip_vs missing")
	eth0 := hostinfo.Interface{Name: "eth0", Driver: "igb", MTU: 1500, Up: true, Native: true, Frags: true}
	unsupported := hostinfo.Interface{Name: "eth0", Driver: "r8169", MTU: 1500, Up: true}
	for _, c := range []struct {
		name    string
		backend config.Backend
		mode    config.XDPMode
		host    hostinfo.Host
		want    []string
		err     string
	}{
		{"native", config.BackendAuto, config.XDPAuto, hostinfo.Host{Kernel: "6.1", Recent: true, Interfaces: []hostinfo.Interface{eth0}},
			[]string{"eth0           driver igb, MTU 1500, native XDP possible, frames of any size", "IPVS           yes", "backend        xdp, native on eth0"}, ""},
		{"generic", config.BackendAuto, config.XDPAuto, hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{unsupported}, IPVS: noIPVS},
			[]string{"generic XDP only", "IPVS           no: module ip_vs missing", "xdp, generic on eth0"}, ""},
		{"asked for generic", config.BackendXDP, config.XDPGeneric, hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{eth0}},
			[]string{"xdp, generic on eth0"}, ""},
		{"asked for native", config.BackendXDP, config.XDPNative, hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{unsupported}},
			[]string{"xdp, native on eth0", "warning        xdp_mode native, but driver r8169 of eth0"}, ""},
		{"old kernel", config.BackendAuto, config.XDPAuto, hostinfo.Host{Kernel: "4.19", Interfaces: []hostinfo.Interface{eth0}},
			[]string{"ipvs, because XDP cannot run here: kernel 4.19 is older than 5.18"}, ""},
		{"old kernel, no IPVS", config.BackendAuto, config.XDPAuto, hostinfo.Host{Kernel: "4.19", Interfaces: []hostinfo.Interface{eth0}, IPVS: noIPVS},
			nil, "no data path: XDP: kernel 4.19 is older than 5.18; IPVS: module ip_vs missing"},
		{"old kernel, XDP wanted", config.BackendXDP, config.XDPAuto, hostinfo.Host{Kernel: "4.19", Interfaces: []hostinfo.Interface{eth0}},
			nil, "kernel 4.19 is older than 5.18"},
		{"IPVS", config.BackendIPVS, config.XDPAuto, hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{eth0}}, []string{"backend        ipvs"}, ""},
		{"IPVS missing", config.BackendIPVS, config.XDPAuto, hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{eth0}, IPVS: noIPVS}, nil, "module ip_vs missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &config.Config{Interfaces: []string{"eth0"}, Backend: c.backend, XDPMode: c.mode, Warnings: []string{"careful"}}
			var b bytes.Buffer
			err := printCheck(&b, "lvx.yaml", cfg, c.host, daemon.Preflight(cfg, c.host))
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

// TestPrintCheckMemory: what the kernel's memory has to have, by the CPUs.
func TestPrintCheckMemory(t *testing.T) {
	cfg := &config.Config{Interfaces: []string{"eth0"}, Tables: config.Tables{Flows: config.DefaultFlows, Templates: config.DefaultTemplates}}
	for cpus, want := range map[int]string{
		2:   "memory         99 MiB of the kernel's for the packet path: 98.0 MiB, and 0.16 MiB for each of 2 possible CPUs",
		128: "memory         119 MiB of the kernel's for the packet path: 98.0 MiB, and 0.16 MiB for each of 128 possible CPUs",
	} {
		h := hostinfo.Host{Recent: true, CPUs: cpus, Interfaces: []hostinfo.Interface{{Name: "eth0", Native: true}}}
		var b bytes.Buffer
		if err := printCheck(&b, "lvx.yaml", cfg, h, nil); err != nil || !strings.Contains(b.String(), want+"\n") {
			t.Errorf("error %v, no %q in\n%s", err, want, b.String())
		}
	}
}

// TestPrintCheckServices: what runs where, and what cannot run at all.
func TestPrintCheckServices(t *testing.T) {
	real := lb.Real{Addr: netip.MustParseAddr("10.0.0.11"), Weight: 1}
	nat := real
	nat.Forward = lb.NAT
	ftp := lb.Listener{Addr: netip.MustParseAddr("10.0.0.100"), Proto: lb.TCP, First: 21, Last: 21}
	cfg := &config.Config{Interfaces: []string{"eth0"}, Services: []config.Service{
		{Service: lb.Service{Name: "web", Scheduler: lb.RR, Reals: []lb.Real{real}}}, {Service: lb.Service{Name: "old", Listeners: []lb.Listener{ftp}, Scheduler: lb.RR, Reals: []lb.Real{real, nat}}},
	}}
	good := hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{{Name: "eth0", Native: true}}}
	bare, ancient := good, good
	bare.IPVS, ancient.Recent, ancient.Kernel = errors.New("no module"), false, "4.19"
	for _, c := range []struct {
		backend config.Backend
		host    hostinfo.Host
		want    string
		err     string
	}{
		{config.BackendAuto, good, "web: xdp, old: ipvs: FTP by NAT: its data connections need the kernel's helper", ""},
		{config.BackendAuto, bare, "web: xdp, old: ipvs: FTP by NAT: its data connections need the kernel's helper", "the kernel's IPVS is needed for old (FTP by NAT: its data connections need the kernel's helper): no module"},
		{config.BackendAuto, ancient, "web: ipvs: kernel 4.19 is older than 5.18, old: ipvs: kernel 4.19 is older than 5.18", ""},
		{config.BackendIPVS, good, "web: ipvs, old: ipvs", ""},
		{config.BackendXDP, good, "web: xdp, old: xdp", "service old: FTP by NAT: its data connections need the kernel's helper: not possible with XDP (use `backend: ipvs` or `auto`)"},
	} {
		cfg.Backend = c.backend
		var b bytes.Buffer
		err := printCheck(&b, "lvx.yaml", cfg, c.host, daemon.Preflight(cfg, c.host))
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
