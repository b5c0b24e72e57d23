//go:build ipvsvm

package fallback

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// A crossing is a VIP whose packets reach its real in a tunnel.
type crossing struct {
	name, vip, real    string
	forward, tunnel    string // in the director's file, and for lvx real up
	device, mss, fault string // fault is what lvx real status says without the device
}

// crossings are the tunnels whose outer or inner header is one of IPv6, and GRE.
var crossings = []crossing{
	{"4in6", "192.168.79.101", "fd79::27", "ipip", "ipip6", "lvx-ip6tnl", "1420", "IPv4 in IPv6"},
	{"6in4", "fd79::102", "192.168.79.27", "ipip", "ipip", "sit0", "1420", "IPv6 in IPv4"},
	{"6in6", "fd79::103", "fd79::27", "ipip", "ipip6", "lvx-ip6tnl", "1400", "IPv6 in IPv6"},
	{"gue4in6", "192.168.79.104", "fd79::27", "gue", "gue6", "lvx-ip6tnl", "1408", "IPv4 in IPv6"},
	{"gue6in4", "fd79::105", "192.168.79.27", "gue", "gue", "sit0", "1408", "IPv6 in IPv4"},
	{"gue6in6", "fd79::106", "fd79::27", "gue", "gue6", "lvx-ip6tnl", "1388", "IPv6 in IPv6"},
	{"gre4in4", "192.168.79.107", "192.168.79.27", "gre", "gre", "gre0", "1436", "IPv4 in GRE over IPv4"},
	{"gre4in6", "192.168.79.108", "fd79::27", "gre", "gre6", "ip6gre0", "1416", "IPv4 in GRE over IPv6"},
	{"gre6in4", "fd79::109", "192.168.79.27", "gre", "gre", "gre0", "1416", "IPv6 in GRE over IPv4"},
	{"gre6in6", "fd79::110", "fd79::27", "gre", "gre6", "ip6gre0", "1396", "IPv6 in GRE over IPv6"},
}

// dualLab is a segment of both families, with one real.
func dualLab(t *testing.T) *lab {
	both := func(host string) []testenv.NIC {
		n := nic("lan", "192.168.79."+host+"/24")
		n.Addrs = append(n.Addrs, netip.MustParsePrefix("fd79::"+host+"/64"))
		return []testenv.NIC{n}
	}
	return newLab(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "client", NICs: both("50")},
		{Name: "director", NICs: both("7")},
		{Name: "rs1", NICs: both("27")},
		{Name: "rs2", NICs: both("37")},
	}})
}

// TestKernelTakesFamilies has the packets of each tunnel, which the director's XDP
// has made, and its checks, taken out of it by the real's kernel as lvx real up has set
// it up; the director and lvx real status name a device that is missing, and down leaves
// nothing.
func TestKernelTakesFamilies(t *testing.T) {
	l := dualLab(t)
	rs1 := l.hosts.Host("rs1")
	real := func(args ...string) (string, error) {
		return rs1.Run(t.Context(), append([]string{lvxBinary, "real"}, append(args, "--state", filepath.Join(rs1.Dir(), "real.json"))...)...)
	}
	links := func() string { return tb.Run(t, rs1, "ip", "-brief", "link") }
	config := "interface: eth0\nbackend: xdp\nservices:\n"
	for _, c := range crossings {
		out, err := real("up", "--vip", c.vip, "--tunnel", c.tunnel)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, out)
		}
		l.contains(out, c.vip+": MSS at most "+c.mss)
		config += fmt.Sprintf("  - {name: %s, listen: [\"%s/tcp\"], forward: %s, check: {type: tcp, interval: 1s}, reals: [{address: \"%s\"}]}\n",
			c.name, netip.AddrPortFrom(netip.MustParseAddr(c.vip), 80), c.forward, c.real)
	}
	out, err := real("status")
	if err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	for _, c := range crossings {
		l.contains(out, "MSS of "+c.vip+" "+c.mss+" "+c.mss)
	}
	l.run(config)
	tb.Eventually(t, patience, func() error {
		if out := l.lvx("list", "-n"); strings.Count(out, "Tunnel") != len(crossings) {
			return fmt.Errorf("not every real has passed its check:\n%s\n%s", out, l.lvx("status"))
		}
		return nil
	})
	tb.Run(t, l.client, "bash", "-c", "head -c 300000 /dev/zero >/tmp/zeros")
	for _, c := range crossings {
		to := "http://" + netip.AddrPortFrom(netip.MustParseAddr(c.vip), 80).String() + "/"
		received := func() uint64 {
			device, err := rs1.Netlink.LinkByName(c.device)
			if err != nil {
				t.Fatal(err)
			}
			return device.Attrs().Statistics.RxPackets
		}
		before := received()
		l.want(c.name, l.curl(2, to), "rs1 rs1")
		// Full segments, which fit by the MSS alone.
		got, err := l.client.Run(t.Context(), "curl", "-s", "-S", "-m", "60", "--data-binary", "@/tmp/zeros", to)
		if strings.TrimSpace(got) != "300000" {
			t.Errorf("%s: an upload: %q, %v", c.name, got, err)
		}
		if received() == before {
			t.Errorf("%s: nothing came out of %s\n%s", c.name, c.device, tb.Run(t, rs1, "ip", "-s", "link"))
		}
	}
	for _, c := range crossings {
		if err := rs1.SetLink(c.device, false); err != nil {
			t.Fatal(err)
		}
		out, err := real("status", "--vip", c.vip)
		if want := "--vip " + c.vip + " --tunnel"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: without %s, status %v, want %q", c.name, c.device, err, want)
		}
		l.contains(out, "no tunnel device is up that takes "+c.fault+" (as "+c.device+" does)")
	}
	tb.Eventually(t, patience, func() error {
		status := l.lvx("status")
		for _, c := range crossings {
			want := fmt.Sprintf("connects on %s but not through VIP %s in a tunnel: does the real decapsulate (lvx real status)?", c.real, c.vip)
			if !strings.Contains(status, want) {
				return fmt.Errorf("no %q in:\n%s", want, status)
			}
		}
		return nil
	})
	for _, c := range crossings {
		if out, err := real("up", "--vip", c.vip); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, out)
		}
	}
	if out, err := real("status"); err != nil {
		t.Errorf("set up again, status: %v\n%s", err, out)
	}
	if out, err = real("down"); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	l.contains(out, "lvx-ip6tnl: removed", "sit0: down again", "gre0: down again", "ip6gre0: down again", "udp 6080: closed again")
	for line := range strings.Lines(links()) {
		if f := strings.Fields(line); f[1] != "DOWN" && f[0] != "lo" && !strings.HasPrefix(f[0], "eth0") {
			t.Errorf("after down: %s", line)
		}
	}
	if left := strings.TrimSpace(tb.Run(t, rs1, "ip", "fou", "show")); left != "" {
		t.Errorf("ports of GUE left: %s", left)
	}
}
