//go:build ipvsvm

package fallback

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// tunnelService is a service by IPIP; its checks go through the tunnel as well.
const tunnelService = `interface: eth0
backend: xdp
services:
  - name: web
    listen: ["192.168.79.99:80/tcp"]
    forward: ipip
    reals: [{address: 192.168.79.27}, {address: 192.168.79.37}]
    check: {type: tcp, interval: 1s, timeout: 5s, fall: 1, rise: 1}
`

// TestKernelDecapsulates has the director's outer headers taken off by the IPIP
// device of the reals' kernel, which lvx real up --tunnel has set up, and each
// thing that keeps a real from it named by lvx real status, and by the check.
func TestKernelDecapsulates(t *testing.T) {
	l := drLab(t)
	rs1, rs2 := l.hosts.Host("rs1"), l.hosts.Host("rs2")
	real := func(h *testenv.Host, args ...string) (string, error) {
		return h.Run(t.Context(), append([]string{lvxBinary, "real"}, append(args, "--state", filepath.Join(h.Dir(), "real.json"))...)...)
	}
	for _, h := range []*testenv.Host{rs1, rs2} {
		out, err := real(h, "up", "--vip", vip, "--tunnel")
		if err != nil {
			t.Fatal(err)
		}
		l.contains(out, vip+": put on tunl0", "tunl0: up", vip+": MSS at most 1440 (table ip lvx_real)")
		if out, err = real(h, "status"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		l.contains(out, "rp_filter of tunl0 2 2", "MSS of "+vip+" 1440 1440", "ready to serve "+vip)
	}
	l.run(tunnelService)
	l.want("6 requests", l.curl(6, url), "rs2 rs1 rs2 rs1 rs2 rs1")
	l.contains(l.lvx("list", "-n"), "-> 192.168.79.27:80 Tunnel 1", "-> 192.168.79.37:80 Tunnel 1")
	if device, err := rs1.Netlink.LinkByName("tunl0"); err != nil || device.Attrs().Statistics.RxPackets == 0 {
		t.Errorf("nothing came out of rs1's tunnel (%v)", err)
	}
	// Full segments, which fit by the MSS alone.
	tb.Run(t, l.client, "bash", "-c", "head -c 300000 /dev/zero >/tmp/zeros")
	got := strings.TrimSpace(tb.Run(t, l.client, "curl", "-s", "-S", "-m", "60", "--data-binary", "@/tmp/zeros", url))
	l.want("an upload", got, "300000")

	const noVIP = "not through VIP " + vip + " in a tunnel: does the real decapsulate"
	filter := func(value string) func() error {
		return func() error { return rs1.Sysctl("net.ipv4.conf.tunl0.rp_filter", value) }
	}
	device := func(up bool) func() error { return func() error { return rs1.SetLink("tunl0", up) } }
	for _, c := range []struct {
		name, trouble string
		plant, cure   func() error
	}{
		{"strict rp_filter", "rp_filter of tunl0 1 2", filter("1"), filter("2")},
		{"no device", "no tunnel device is up", device(false), device(true)},
	} {
		if err := c.plant(); err != nil {
			t.Fatal(err)
		}
		out, err := real(rs1, "status")
		if err == nil || !strings.Contains(err.Error(), "--tunnel)") {
			t.Errorf("%s: status %v", c.name, err)
		}
		l.contains(out, c.trouble)
		tb.Eventually(t, patience, func() error { return has(l.lvx("status"), noVIP) })
		l.want(c.name, l.curl(2, url), "rs2 rs2")
		if err := c.cure(); err != nil {
			t.Fatal(err)
		}
		tb.Eventually(t, patience, func() error {
			if s := l.lvx("status"); strings.Contains(s, noVIP) {
				return fmt.Errorf("%s: rs1 is still down:\n%s", c.name, s)
			}
			return nil
		})
	}
	out, err := real(rs1, "down")
	if err != nil {
		t.Fatal(err)
	}
	l.contains(out, vip+": taken off tunl0", "tunl0: down again")
}

// gueService is a service by GUE: one real at the usual port, one elsewhere.
const gueService = `interface: eth0
services:
  - name: web
    listen: ["192.168.79.99:80/tcp"]
    scheduler: rr
    forward: gue
    reals: [{address: 192.168.79.27}, {address: 192.168.79.37, tunnel: {port: 5555, checksum: %s}}]
`

// TestKernelTakesGUE has packets that the director has put into GUE, by XDP and where
// they have a checksum by its kernel's IPVS, taken out by the reals' kernel, which lvx
// real up --tunnel gue has set up.
func TestKernelTakesGUE(t *testing.T) {
	l := drLab(t)
	real := func(h *testenv.Host, args ...string) (string, error) {
		return h.Run(t.Context(), append([]string{lvxBinary, "real"}, append(args, "--state", filepath.Join(h.Dir(), "real.json"))...)...)
	}
	for name, kind := range map[string]string{"rs1": "gue", "rs2": "gue:5555"} {
		out, err := real(l.hosts.Host(name), "up", "--vip", vip, "--tunnel", kind)
		if err != nil {
			t.Fatal(err)
		}
		port := map[string]string{"gue": "6080", "gue:5555": "5555"}[kind]
		l.contains(out, vip+": put on tunl0", "udp "+port+": packets are taken out of GUE", vip+": MSS at most 1428 (table ip lvx_real)")
		if out, err = real(l.hosts.Host(name), "status"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		l.contains(out, "MSS of "+vip+" 1428 1428", "ready to serve "+vip)
	}
	tb.Run(t, l.client, "bash", "-c", "head -c 300000 /dev/zero >/tmp/zeros")
	for _, c := range []struct{ checksum, place string }{{"nocsum", "xdp"}, {"csum", "ipvs: forward gue with csum"}} {
		l.run(fmt.Sprintf(gueService, c.checksum))
		l.want("where it runs", l.places()["web"], c.place)
		l.want("6 requests", l.curl(6, url), "rs2 rs1 rs2 rs1 rs2 rs1")
		got := strings.TrimSpace(tb.Run(t, l.client, "curl", "-s", "-S", "-m", "60", "--data-binary", "@/tmp/zeros", url))
		l.want("an upload", got, "300000")
	}
	l.contains(tb.Run(t, l.director, "ipvsadm", "-Ln", "--tun-info"), "192.168.79.27:80 Tunnel gue:6080:-c", "192.168.79.37:80 Tunnel gue:5555:+c")

	tb.Run(t, l.hosts.Host("rs1"), "ip", "fou", "del", "port", "6080")
	out, err := real(l.hosts.Host("rs1"), "status")
	if err == nil || !strings.Contains(err.Error(), "--tunnel gue)") {
		t.Errorf("without the port: status %v", err)
	}
	l.contains(out, "nothing takes packets out of GUE at UDP port 6080")
	for _, name := range []string{"rs1", "rs2"} {
		if out, err := real(l.hosts.Host(name), "down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		if left := strings.TrimSpace(tb.Run(t, l.hosts.Host(name), "ip", "fou", "show")); left != "" {
			t.Errorf("%s: ports of GUE left: %s", name, left)
		}
	}
}
