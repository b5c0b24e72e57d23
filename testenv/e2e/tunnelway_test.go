package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// newRoutedRig6 is the routed standard network with IPv6: its segment as [newRig6] has
// it, and fd26:: behind the router.
func newRoutedRig6(t *testing.T) *rig.Rig {
	t.Helper()
	r := newRig(t, testenv.Shape{Directors: 1, Reals: 1, Routed: true})
	client, router := r.Client, r.Cluster.Host("router")
	enableIPv6(t, client, "eth0", "fd26::")
	enableIPv6(t, router, "eth0", "fd25::")
	enableIPv6(t, router, "eth1", "fd26::")
	must(t, router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	run(t, client, "ip", "-6", "route", "add", "default", "via", fmt.Sprintf("fd26::%d", router.Addr("eth1").As4()[3]))
	for _, name := range []string{"d1", "r1"} {
		h := r.Cluster.Host(name)
		enableIPv6(t, h, "eth0", "fd25::")
		run(t, h, "ip", "-6", "route", "add", "default", "via", fmt.Sprintf("fd25::%d", router.Addr("eth0").As4()[3]))
	}
	r1 := r.Cluster.Host("r1")
	run(t, r1, lvx, "real", "up", "--vip", vip6, "--state", filepath.Join(r1.Dir(), "real6.json"))
	return r
}

// Hops that take less than a tunnel does, for each tunnel: before the real the director
// says so, with the size that is left in the tunnel; on a reply's way to the client a
// router, whose error goes through the tunnel.
func TestTunnelsOfEveryKindPathMTU(t *testing.T) {
	t.Parallel()                      // it waits most of its time
	const before, behind = 1400, 1390 // what a real announces to clients, once it knows, is still too long for tunnels
	r := newRoutedRig6(t)
	router, d1, r1 := r.Cluster.Host("router"), r.Cluster.Host("d1"), r.Cluster.Host("r1")
	must(t, r1.Decapsulate("eth0"))
	for _, real := range []string{"172.25.0.12/32", "fd25::12/128"} {
		run(t, d1, "ip", "route", "replace", real, "dev", "eth0", "mtu", fmt.Sprint(before))
	}
	run(t, router, "ip", "route", "replace", "10.25.0.0/24", "dev", "eth1", "mtu", fmt.Sprint(behind))
	run(t, router, "ip", "route", "replace", "fd26::/64", "dev", "eth1", "metric", "256", "mtu", fmt.Sprint(behind))
	var config, listen strings.Builder
	for i, c := range crossings {
		fmt.Fprintf(&config, "  - {name: %s, listen: [\"%s/tcp\"], forward: %s, reals: [{address: \"%s\"}]}\n", c.name, c.at(i), c.forward, c.real)
		fmt.Fprintf(&listen, "[::]:%d ipv6only=off; listen ", c.at(i).Port())
	}
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\nservices:\n"+config.String()))
	dir := startNginx(t, r1, listen.String()+"127.0.0.1:7999")
	for i, c := range crossings {
		for _, h := range []*testenv.Host{r.Client, r1} { // what they have learned of the last one
			run(t, h, "ip", "route", "flush", "cache")
			run(t, h, "ip", "-6", "route", "flush", "cache")
		}
		transferFiles(t, r.Client, "http://"+c.at(i).String()+"/", dir, tunnelBytes()/80)
		left := before - overheads[c.forward]
		client := r.Client.Addr("eth0").String()
		if netip.MustParseAddr(c.real).Is6() {
			left -= 20
		}
		if c.vip == vip6 {
			client = fmt.Sprintf("fd26::%d", r.Client.Addr("eth0").As4()[3])
		}
		if way := run(t, r.Client, "ip", "route", "get", c.vip); !strings.Contains(way, fmt.Sprintf("mtu %d", left)) {
			t.Errorf("%s: the client's way to the VIP is not %d bytes wide:\n%s", c.name, left, way)
		}
		if way := run(t, r1, "ip", "route", "get", client, "from", c.vip); !strings.Contains(way, fmt.Sprintf("mtu %d", behind)) {
			t.Errorf("%s: the real's way to the client is not %d bytes wide:\n%s", c.name, behind, way)
		}
	}
	wantCounted(t, r, "answered_too_big")
	wantCounted(t, r, "icmp_forwarded")
}

// overheads is what a tunnel with an outer header of IPv4 adds.
var overheads = map[string]int{"ipip": 20, "gue": 32, "gre": 24}

// A real server behind a router of IPv6, and then behind another one: packets and checks
// follow the route.
func TestTunnelsBehindIPv6Routers(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig6Of(t, testenv.Shape{Directors: 1, Reals: 3})
	d1, r2 := r.Cluster.Host("d1"), r.Cluster.Host("r2")
	must(t, r2.Decapsulate("eth0"))
	var routers []*testenv.Host
	for _, name := range []string{"r1", "r3"} {
		h := r.Cluster.Host(name)
		must(t, h.Sysctl("net.ipv6.conf.all.forwarding", "1"))
		routers = append(routers, h)
	}
	lead := func(by *testenv.Host) {
		run(t, d1, "ip", "-6", "route", "replace", "fd25::13/128", "via", fmt.Sprintf("fd25::%d", by.Addr("eth0").As4()[3]))
	}
	lead(routers[0])
	var config strings.Builder
	var urls []string
	for i, forward := range []string{"ipip", "gue", "gre"} {
		for j, vip := range []string{rig.VIP, vip6} {
			at := netip.AddrPortFrom(netip.MustParseAddr(vip), uint16(8081+2*i+j))
			_, err := r2.ServeWeb(fmt.Sprintf(":%d", at.Port()))
			must(t, err)
			fmt.Fprintf(&config, "  - {name: %s%d, listen: [\"%s/tcp\"], forward: %s, check: {type: http, interval: 1s}, reals: [{address: \"fd25::13\"}]}\n", forward, j, at, forward)
			urls = append(urls, "http://"+at.String()+"/")
		}
	}
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\nservices:\n"+config.String()))
	served := func() error {
		for _, url := range urls {
			if got, err := r.Get(url, 5*time.Second); err != nil || strings.TrimSpace(got) != "r2" {
				return fmt.Errorf("%s: %q, %v", url, got, err)
			}
		}
		return nil
	}
	eventually(t, served)
	lead(routers[1])
	must(t, routers[0].Sysctl("net.ipv6.conf.all.forwarding", "0"))
	eventually(t, served)
	// Nobody forwards any more: the checks went by the router, too.
	must(t, routers[1].Sysctl("net.ipv6.conf.all.forwarding", "0"))
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", "list", "-n")
		if err == nil && strings.Contains(out, "Tunnel") {
			err = fmt.Errorf("a real server is up that no router leads to:\n%s", out)
		}
		return err
	})
}
