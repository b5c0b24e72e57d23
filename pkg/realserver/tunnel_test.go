package realserver_test

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/realserver"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// addTunnelDevice makes what counts of the kernel's IPIP device, which not every
// kernel has; the guest's has the real one (testenv/vm/fallback).
func addTunnelDevice(t *testing.T, r real) { addDevices(t, r, "tunl0") }

func addDevices(t *testing.T, r real, names ...string) {
	t.Helper()
	for _, name := range names {
		tb.Run(t, r.Host, "ip", "link", "add", name, "type", "bridge")
		tb.Run(t, r.Host, "ip", "link", "set", name, "arp", "off")
	}
}

var tunnelled = realserver.Options{VIPs: []netip.Addr{vip1}, Tunnel: realserver.IPIP}

func TestTunnelUpAndDown(t *testing.T) {
	r := newReal(t)
	addTunnelDevice(t, r)
	before := inspect(t, r.Host)
	filter := func() string {
		v, err := r.ReadSysctl("net.ipv4.conf.tunl0.rp_filter")
		if err != nil {
			t.Fatal(err)
		}
		return v + " " + tb.Run(t, r.Host, "ip", "-brief", "address", "show", "tunl0")
	}
	was := filter()
	report := r.do(t, realserver.Up, tunnelled)
	for _, line := range []string{"172.25.0.100: put on lo", "172.25.0.100: put on tunl0", "tunl0: up", "net.ipv4.conf.tunl0.rp_filter: 2, was 0", "172.25.0.100: MSS"} {
		if !strings.Contains(report, line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
	if got := filter(); !strings.HasPrefix(got, "2 ") || !strings.Contains(got, "172.25.0.100/32") || !strings.Contains(got, "UNKNOWN") && !strings.Contains(got, "UP") {
		t.Errorf("after up: %s", got)
	}
	r.up(t, vip1, vip2) // what is remembered stays, and nothing is added
	if got := r.do(t, realserver.Up, tunnelled); strings.Contains(got, "tunl0") {
		t.Errorf("second up:\n%s", got)
	}
	r.down(t, vip2)
	report = r.down(t)
	for _, line := range []string{"172.25.0.100: taken off lo", "172.25.0.100: taken off tunl0", "tunl0: down again", "net.ipv4.conf.tunl0.rp_filter: 0 again"} {
		if !strings.Contains(report, line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
	want(t, r.Host, "down", before)
	if got := tb.Run(t, r.Host, "nft", "list", "tables"); got != "" {
		t.Errorf("tables after down: %s", got)
	}
	if got := filter(); got != was {
		t.Errorf("after down: %s, before: %s", got, was)
	}
}

// A device that was up, with an address and a filter of its own, is so again.
func TestTunnelThatWasThere(t *testing.T) {
	r := newReal(t)
	addTunnelDevice(t, r)
	tb.Run(t, r.Host, "ip", "address", "add", "172.25.0.100/32", "dev", "tunl0")
	tb.Run(t, r.Host, "ip", "link", "set", "tunl0", "up")
	if err := r.Sysctl("net.ipv4.conf.tunl0.rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	r.up(t, vip1) // by direct routing at first
	r.do(t, realserver.Up, tunnelled)
	r.do(t, realserver.Up, tunnelled)
	report := r.down(t)
	if got := tb.Run(t, r.Host, "ip", "-brief", "address", "show", "tunl0"); !strings.Contains(got, "172.25.0.100/32") {
		t.Errorf("the address of tunl0 is gone: %s", got)
	}
	if !strings.Contains(report, "172.25.0.100: stays on tunl0, where it was before") {
		t.Errorf("report:\n%s", report)
	}
	if strings.Contains(report, "tunl0: down") || !strings.Contains(report, "net.ipv4.conf.tunl0.rp_filter: 1 again") {
		t.Errorf("report:\n%s", report)
	}
}

// What keeps a real behind a tunnel from serving, one thing at a time, until it is set
// up again.
func TestTunnelStatus(t *testing.T) {
	noRules := []string{"nft", "delete", "table", "ip", "lvx_real"}
	for name, c := range map[string]struct {
		plant [][]string
		want  string // part of a fault, or a faulty setting
	}{
		"ready":        {nil, ""},
		"device down":  {[][]string{{"ip", "link", "set", "tunl0", "down"}}, "no tunnel device is up"},
		"strict":       {[][]string{{"rp_filter", "tunl0", "1"}}, "rp_filter of tunl0 1"},
		"strict, all":  {[][]string{{"rp_filter", "tunl0", "0"}, {"rp_filter", "all", "1"}}, "rp_filter of tunl0 1"},
		"loose, all":   {[][]string{{"rp_filter", "all", "1"}}, ""},
		"no filter":    {[][]string{{"rp_filter", "tunl0", "0"}}, ""},
		"no address":   {[][]string{{"ip", "address", "flush", "dev", "tunl0"}}, "tunl0 has no address"},
		"long MSS":     {[][]string{noRules, {"ip", "route", "add", "10.9.0.0/16", "dev", "eth0"}}, "MSS of 172.25.0.100 1460"},
		"rules":        {[][]string{{"ip", "route", "add", "10.9.0.0/16", "dev", "eth0"}}, ""},
		"small way":    {[][]string{noRules, {"ip", "route", "add", "10.9.0.0/16", "dev", "eth0", "mtu", "1400"}}, ""},
		"other advmss": {[][]string{noRules, {"ip", "route", "add", "10.9.0.0/16", "dev", "eth0", "advmss", "1441"}}, "MSS of 172.25.0.100 1441"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReal(t)
			addTunnelDevice(t, r)
			r.do(t, realserver.Up, tunnelled)
			tb.Run(t, r.Host, "ip", "route", "change", "172.25.0.0/24", "dev", "eth0", "advmss", "1440")
			for _, argv := range c.plant {
				if argv[0] != "rp_filter" {
					tb.Run(t, r.Host, argv...)
				} else if err := r.Sysctl("net.ipv4.conf."+argv[1]+".rp_filter", argv[2]); err != nil {
					t.Fatal(err)
				}
			}
			got := troubles(r.status(t))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("status says %q, want %q", got, c.want)
			}
			r.do(t, realserver.Up, tunnelled) // the cure of all
			if got := troubles(r.status(t)); got != "" {
				t.Errorf("set up again, status says %q", got)
			}
		})
	}
}

// What only root can read is not judged, and is named.
func TestTunnelStatusWithoutRoot(t *testing.T) {
	r := newReal(t)
	addTunnelDevice(t, r)
	r.do(t, realserver.Up, tunnelled)
	tb.Run(t, r.Host, "nft", "delete", "table", "ip", "lvx_real")
	if got := troubles(r.status(t)); !strings.Contains(got, "MSS of 172.25.0.100 1460") {
		t.Errorf("root's status says %q", got)
	}
	var st realserver.Status
	tb.Do(t, r.Host, func() (err error) { // the thread is not used again
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		st, err = realserver.Inspect(realserver.Options{StateFile: r.file})
		return err
	})
	if got := troubles(st); got != "" {
		t.Errorf("status says %q", got)
	}
	for _, s := range st.Settings {
		isMSS := s.Name == "MSS of 172.25.0.100"
		if isMSS && s.UnreadTable != "table ip lvx_real" || !isMSS && s.UnreadTable != "" {
			t.Errorf("setting %+v", s)
		}
	}
}

// troubles are the faults and the faulty settings of a status.
func troubles(st realserver.Status) string {
	var all []string
	for _, v := range st.VIPs {
		all = append(all, v.Faults...)
	}
	for _, s := range st.Settings {
		if s.Faulty {
			all = append(all, s.Name+" "+strconv.Itoa(s.Value))
		}
	}
	return strings.Join(all, "; ")
}

// Where the kernel has no device, that is said, and nothing is changed. Where it
// has one, it is found.
func TestNoTunnelDevice(t *testing.T) {
	r := newReal(t)
	before := inspect(t, r.Host)
	o := tunnelled
	o.StateFile = r.file
	err := r.Do(func() error { _, err := realserver.Up(o); return err })
	if err == nil {
		r.down(t)
	} else if !strings.Contains(err.Error(), "VIP 172.25.0.100: this kernel has no IPIP device") {
		t.Error(err)
	}
	want(t, r.Host, "afterwards", before)
	o.Tunnel = "sit"
	if err := r.Do(func() error { _, err := realserver.Up(o); return err }); err == nil || !strings.Contains(err.Error(), `tunnel "sit": not one that lvx sets up`) {
		t.Error(err)
	}
}

// A rule that the kernel does not let go is not left without a word.
func TestSegmentRuleLeftBehind(t *testing.T) {
	r := newReal(t)
	addTunnelDevice(t, r)
	r.do(t, realserver.Up, tunnelled)
	tb.Run(t, r.Host, "nft", "delete", "table", "ip", "lvx_real")
	// The same by a program that nobody may take it from.
	tb.Start(t, r.Host, "sh", "-c", `{ echo 'table ip lvx_real { flags owner; chain output { ip saddr 172.25.0.100 tcp option maxseg size set 1440; }; }'; sleep 60; } | nft -i`)
	tb.Eventually(t, 10*time.Second, func() error {
		if out := tb.Run(t, r.Host, "nft", "list", "ruleset"); !strings.Contains(out, "maxseg") {
			return errors.New(out)
		}
		return nil
	})
	report := r.down(t)
	if want := "table ip lvx_real not removed (nf_tables: "; !strings.Contains(report, want) || !strings.Contains(report, "): nft delete table ip lvx_real") {
		t.Errorf("report lacks %q:\n%s", want, report)
	}
}
