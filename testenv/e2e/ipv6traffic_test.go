package e2e

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

const (
	files6  = "services:\n  - name: files\n    listen: [\"[" + vip6 + "]:8080/tcp\"]\n    reals: [{address: \"fd25::12\"}]\n"
	folder6 = "http://[" + vip6 + "]:8080/"
)

// What nginx sends by curl, and curl to nginx, through an IPv6 VIP.
func TestIPv6Transfers(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig6(t)
			must(t, r.Direct(t.Context(), "d1", "backend: xdp\nxdp_mode: "+mode+"\n"+files6))
			wantListed(t, r, []string{"status"}, mode)
			transferFiles(t, r.Client, folder6, startNginx(t, r.Cluster.Host("r1"), "[::]:8080"), tunnelBytes())
		})
	}
}

// A hop of 1,280 bytes says so, whichever way the data go: between the director
// and the real the director itself, between the real and the client a router,
// which quotes a packet of the VIP's.
func TestIPv6PathMTU(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1, Routed: true})
	client, router, d1, r1 := r.Client, r.Cluster.Host("router"), r.Cluster.Host("d1"), r.Cluster.Host("r1")
	enableIPv6(t, client, "eth0", "fd26::")
	enableIPv6(t, router, "eth1", "fd26::")
	for _, h := range []*testenv.Host{router, d1, r1} {
		enableIPv6(t, h, "eth0", "fd25::")
	}
	must(t, router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	for h, gateway := range map[*testenv.Host]string{client: "fd26::1", d1: "fd25::1", r1: "fd25::1"} {
		must(t, h.SetRoute(testenv.Route{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr(gateway)}))
	}
	run(t, r1, lvx, "real", "up", "--vip", vip6, "--state", filepath.Join(r1.Dir(), "real6.json"))
	dir := startNginx(t, r1, "[::]:8080")

	run(t, d1, "ip", "-6", "route", "replace", "fd25::12/128", "dev", "eth0", "mtu", "1280")
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\n"+files6))
	transferFiles(t, client, folder6, dir, tunnelBytes()/4)
	wantCounted(t, r, "answered_too_big")
	run(t, client, "ip", "-6", "route", "flush", "cache") // it knows the 1,280 bytes, and would say so in its MSS
	run(t, router, "ip", "-6", "route", "replace", "fd25::/64", "dev", "eth0", "metric", "1", "mtu", "1280")
	run(t, router, "ip", "-6", "route", "replace", "fd26::/64", "dev", "eth1", "metric", "1", "mtu", "1280")
	transferFiles(t, client, folder6, dir, tunnelBytes()/4)
	wantCounted(t, r, "icmp_forwarded")
}

// wantCounted looks for packets with a verdict in the director's metrics.
func wantCounted(t *testing.T, r *rig.Rig, verdict string) {
	t.Helper()
	metrics := run6(t, r, "metrics")
	if !regexp.MustCompile(`verdict="` + verdict + `"[^\n]*\} [1-9]`).MatchString(metrics) {
		t.Errorf("no packet was %s", verdict)
	}
}
