package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// tunnelBytes is the size of a transfer through a tunnel; LVX_LOAD makes it 200 MB.
func tunnelBytes() int64 {
	if os.Getenv("LVX_LOAD") != "" {
		return big
	}
	return big / 10
}

// tunnelService has r2 behind r1, which is a router to it, and by IPIP; r1
// by direct routing.
const tunnelService = `
services:
  - name: web
    listen: [172.25.0.100:80/tcp]
    scheduler: rr
    reals:
      - {address: 172.25.0.12}
      - {address: 172.25.0.13, forward: ipip}
    check: {type: tcp, interval: 1s}
  - name: files
    listen: [172.25.0.100:8080/tcp]
    reals: [{address: 172.25.0.13, forward: ipip}]
`

const tunnelFolder = "http://" + rig.VIP + ":8080/"

// A service whose reals are reached by direct routing and by IPIP, the latter
// behind a router. What the client sends is first too long for the tunnel: the
// director says so, and the client's path-MTU discovery does the rest.
func TestTunnel(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			r1, r2, d1 := r.Cluster.Host("r1"), r.Cluster.Host("r2"), r.Cluster.Host("d1")
			must(t, r1.Decapsulate("eth0"))
			must(t, r2.Decapsulate("eth0"))
			must(t, r1.Sysctl("net.ipv4.ip_forward", "1"))
			run(t, d1, "ip", "route", "replace", "172.25.0.13/32", "via", "172.25.0.12")
			must(t, r.Direct(t.Context(), "d1", "backend: xdp\nxdp_mode: "+mode+tunnelService))
			if got := r.Curl(4, "http://"+rig.VIP+"/"); got != "r2 r1 r2 r1" {
				t.Fatalf("curl saw %q, want r2 r1 r2 r1", got)
			}
			out, err := r.LVX(t.Context(), "d1", "list", "-n")
			must(t, err)
			if !strings.Contains(strings.Join(strings.Fields(out), " "), "-> 172.25.0.13:80 Tunnel 1") {
				t.Errorf("the list does not name the tunnel:\n%s", out)
			}
			out, err = r.LVX(t.Context(), "d1", "explain", "tcp", "172.25.0.50:3000", rig.VIP+":80")
			must(t, err)
			if !strings.Contains(out, "inside an IP packet from 172.25.0.11 to 172.25.0.13") {
				t.Errorf("explain does not name the tunnel:\n%s", out)
			}
			transferFiles(t, r.Client, tunnelFolder, startNginx(t, r2, "8080"), tunnelBytes())
			if mode == "native" {
				askTogether(t, r, rig.VIP+":80", 1000)
			}
		})
	}
}

// Hops that take less than the tunnel does: before the real the director itself says
// so, and on a reply's way to the client a router, whose error goes through the tunnel.
func TestTunnelPathMTU(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1, Routed: true})
	router, d1, r1 := r.Cluster.Host("router"), r.Cluster.Host("d1"), r.Cluster.Host("r1")
	must(t, r1.Decapsulate("eth0"))
	run(t, d1, "ip", "route", "replace", "172.25.0.12/32", "dev", "eth0", "mtu", "1300")
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\nservices:\n  - {name: files, listen: [\""+rig.VIP+":8080/tcp\"], forward: ipip, reals: [{address: 172.25.0.12}]}\n"))
	dir := startNginx(t, r1, "8080")
	transferFiles(t, r.Client, tunnelFolder, dir, tunnelBytes()/8)
	must(t, router.SetRoute(testenv.Route{To: netip.MustParsePrefix("10.25.0.0/24"), NIC: "eth1", MTU: 1200}))
	transferFiles(t, r.Client, tunnelFolder, dir, tunnelBytes()/8)
	metrics, err := r.LVX(t.Context(), "d1", "metrics")
	must(t, err)
	for _, verdict := range []string{"answered_too_big", "icmp_forwarded"} {
		if !regexp.MustCompile(`verdict="` + verdict + `"[^\n]*\} [1-9]`).MatchString(metrics) {
			t.Errorf("no packet was %s", verdict)
		}
	}
}

// A router between director and real whose way on is narrower than the tunnel's: what it
// tells the director of the outer packet reaches the client, with the size that is left.
func TestTunnelErrorsReachTheClient(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	r1, r2, d1 := r.Cluster.Host("r1"), r.Cluster.Host("r2"), r.Cluster.Host("d1")
	must(t, r2.Decapsulate("eth0"))
	must(t, r1.Sysctl("net.ipv4.ip_forward", "1"))
	run(t, d1, "ip", "route", "replace", "172.25.0.13/32", "via", "172.25.0.12")
	run(t, r1, "ip", "route", "replace", "172.25.0.13/32", "dev", "eth0", "mtu", "1300")
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\nservices:\n  - {name: files, listen: [\""+rig.VIP+":8080/tcp\"], forward: ipip, reals: [{address: 172.25.0.13}]}\n"))
	transferFiles(t, r.Client, tunnelFolder, startNginx(t, r2, "8080"), tunnelBytes()/8)
	if way := run(t, r.Client, "ip", "route", "get", rig.VIP); !strings.Contains(way, "mtu 1280") {
		t.Errorf("the client's way to the VIP is not 1280 bytes wide:\n%s", way)
	}
}

// The same of the other tunnels of IPv4.
func TestTunnelErrorsOfGUEAndGREReachTheClient(t *testing.T) {
	for _, forward := range []string{"gue", "gre"} {
		t.Run(forward, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			r1 := r.Cluster.Host("r1")
			must(t, r1.Sysctl("net.ipv4.ip_forward", "1"))
			run(t, r1, "ip", "route", "replace", "172.25.0.13/32", "dev", "eth0", "mtu", "1380")
			must(t, r.Direct(t.Context(), "d1", "backend: xdp\nservices:\n"+
				fmt.Sprintf(errorService, "four", rig.VIP+":8080/udp", forward, "172.25.0.13", r1.MAC("eth0"))))
			wantMTU(t, r.Client, rig.VIP, 1380-overheads[forward])
		})
	}
}

// errorService has a real behind r1, by its MAC.
const errorService = "  - {name: %s, listen: [\"%s\"], forward: %s, reals: [{address: \"%s\", mac: \"%s\", check: []}]}\n"

// The same of an outer header of IPv6, about which the router speaks ICMPv6, to clients
// of either family: each hears it in its own.
func TestTunnelErrorsOfIPv6ReachTheClient(t *testing.T) {
	for _, forward := range []string{"ipip", "gue", "gre"} {
		t.Run(forward, func(t *testing.T) {
			r := newRig6(t)
			r1 := r.Cluster.Host("r1")
			must(t, r1.Sysctl("net.ipv6.conf.all.forwarding", "1"))
			mac := r1.MAC("eth0").String() // by it to r2
			run(t, r1, "ip", "-6", "route", "replace", "fd25::13/128", "dev", "eth0", "mtu", "1380")
			must(t, r.Direct(t.Context(), "d1", "backend: xdp\nservices:\n"+
				fmt.Sprintf(errorService, "four", rig.VIP+":8080/udp", forward, "fd25::13", mac)+fmt.Sprintf(errorService, "six", "["+vip6+"]:8080/udp", forward, "fd25::13", mac)))
			left := 1380 - 20 - overheads[forward]
			for _, vip := range []string{rig.VIP, vip6} {
				wantMTU(t, r.Client, vip, left)
			}
		})
	}
}

// wantMTU sends long packets of UDP to a VIP until the client knows how wide its way is.
func wantMTU(t *testing.T, client *testenv.Host, vip string, want int) {
	t.Helper()
	tb.Eventually(t, 10*time.Second, func() error {
		conn, err := client.Dial(t.Context(), "udp", net.JoinHostPort(vip, "8080"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = conn.Write(make([]byte, 1340)) // refused by the client's own stack, once it knows
		if way := run(t, client, "ip", "route", "get", vip); !strings.Contains(way, fmt.Sprintf("mtu %d", want)) {
			return fmt.Errorf("the client's way to %s is not %d bytes wide:\n%s", vip, want, way)
		}
		return nil
	})
}
