package main

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/realserver"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// lvxReal runs "lvx real ..." on a host.
func lvxReal(h *testenv.Host, args ...string) (string, error) {
	cmd := newRealCmd()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append(args, "--state", filepath.Join(h.Dir(), "real.json")))
	err := h.Do(cmd.Execute)
	return out.String(), err
}

func TestRealCommand(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	h := c.Host("r1")
	for _, step := range []struct {
		args string
		out  []string // parts of the output
		err  string   // part of the error; "" = none
	}{
		{"status", nil, "no VIP is up"},
		{"status --vip 172.25.0.100", []string{"172.25.0.100  -   -             eth0   on no interface that takes packets for it"}, "not ready to serve 172.25.0.100 (lvx real up --vip 172.25.0.100)"},
		{"up --vip 172.25.0.100/32 172.25.0.101", []string{"172.25.0.100: put on lo\n", "172.25.0.101: put on lo\n", "net.ipv4.conf.all.arp_announce: 2, was 0\n"}, ""},
		{"up --vip 172.25.0.100,172.25.0.101,172.25.0.100", []string{"172.25.0.100: was on lo already\n172.25.0.101: was on lo already\n"}, ""},
		{"status", []string{"172.25.0.100  lo  lvx           eth0   -", "arp_ignore of eth0    1   1", "ready to serve 172.25.0.100, 172.25.0.101\n"}, ""},
		{"down --vip 172.25.0.101", []string{"172.25.0.101: taken off lo\n"}, ""},
		{"status", []string{"ready to serve 172.25.0.100\n"}, ""},
		{"down", []string{"172.25.0.100: taken off lo\n", "net.ipv4.conf.lo.arp_ignore: 0 again\n"}, ""},
		{"down --vip 172.25.0.100", []string{"172.25.0.100: was not on lo\n"}, ""},
		{"", []string{"lvx real up --vip 172.25.0.100\n"}, ""}, // help
	} {
		out, err := lvxReal(h, strings.Fields(step.args)...)
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("lvx real %s: error %v, want %q", step.args, err, step.err)
		}
		for _, part := range step.out {
			if step.args == "" {
				part = strings.TrimPrefix(part, "lvx ") // there is no root command here
			}
			if !strings.Contains(out, part) {
				t.Errorf("lvx real %s: output lacks %q:\n%s", step.args, part, out)
			}
		}
	}
}

// A segment that a rule may lower, which only root can read.
func TestRealStatusUnread(t *testing.T) {
	var out bytes.Buffer
	err := printReal(&out, realserver.Status{
		VIPs:     []realserver.VIP{{Addr: testenv.VIP, On: "lo"}},
		Settings: []realserver.Setting{{Name: "MSS of 172.25.0.100", Value: 1460, Want: "1440", UnreadTable: "table ip lvx_real"}},
	})
	if want := "1440 (table ip lvx_real is not readable: run as root)\n"; err != nil || !strings.Contains(out.String(), want) {
		t.Errorf("%v, output lacks %q:\n%s", err, want, out.String())
	}
}

func TestRealUsage(t *testing.T) {
	for args, want := range map[string]string{
		"up":                                 "no VIP given",
		"up --vip 172.25.0":                  `VIP "172.25.0": not an address`,
		"up --vip 172.25.0.1/24":             `VIP "172.25.0.1/24": not an address`,
		"down x":                             `VIP "x": not an address`,
		"status --vip ,":                     `VIP "": not an address`,
		"up --vipp 1":                        "unknown flag",
		"up --vip 172.25.0.100 --tunnel=sit": `tunnel "sit": not one that lvx sets up (want ipip, gre, gue or gue:PORT;`,
		"up --vip 172.25.0.100 --tunnel sit": `VIP "sit": not an address`,
		"up --vip fd99::1 --tunnel=gre:5555": `tunnel "gre:5555": not one that lvx sets up`,
		"up --vip fd99::1 --tunnel=gue6:0":   `tunnel "gue6:0": not one that lvx sets up`,
		"up --vip fd99::1 --tunnel=gue66":    `tunnel "gue66": not one that lvx sets up`,
	} {
		cmd := newRealCmd()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lvx real %s: error %v, want %q", args, err, want)
		}
	}
}

func TestRealNeedsRoot(t *testing.T) {
	f := &realFlags{effective: func() int { return 1000 }}
	f.options.VIPs = []netip.Addr{testenv.VIP}
	cmd := f.up()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(nil)
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "are root's (try: sudo up)") {
		t.Errorf("error %v", err)
	}
}
