package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
			transfer6(t, r, startNginx6(t, r.Cluster.Host("r1")), tunnelBytes())
		})
	}
}

// startNginx6 runs an nginx on every IPv6 address of a host, and gives the
// directory whose files it serves and takes.
func startNginx6(t *testing.T, h *testenv.Host) (dir string) {
	t.Helper()
	dir = t.TempDir()
	conf := "daemon off; master_process off; pid " + dir + "/pid; error_log stderr; events {}\n" +
		"http { access_log off; client_max_body_size 0; client_body_temp_path " + dir + "/a; proxy_temp_path " + dir + "/b;" +
		" fastcgi_temp_path " + dir + "/c; uwsgi_temp_path " + dir + "/d; scgi_temp_path " + dir + "/e;" +
		" server { listen [::]:8080; root " + dir + "; dav_methods PUT; } }\n"
	file := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(file, []byte(conf), 0o600))
	_, err := h.Start("nginx", "-c", file, "-e", "stderr")
	must(t, err)
	return dir
}

// transfer6 has curl download so many bytes from an nginx and upload them again.
func transfer6(t *testing.T, r *rig.Rig, dir string, size int64) {
	t.Helper()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, size))
	eventually(t, func() error { // nginx has come up
		_, err := r.Client.Run(t.Context(), "curl", "-sSfg", "-I", "-m", "5", folder6+"file")
		return err
	})
	curl := func(want string, args ...string) {
		t.Helper()
		out, err := r.Client.Run(t.Context(), append([]string{"curl", "-sSg", "-m", "150", "-o", "/dev/null"}, args...)...)
		if err != nil || out != want {
			t.Fatalf("curl %s: %q, %v; want %q", strings.Join(args, " "), out, err, want)
		}
	}
	curl(fmt.Sprintf("200 %d", size), "-w", "%{http_code} %{size_download}", folder6+"file")
	curl(fmt.Sprintf("201 %d", size), "-w", "%{http_code} %{size_upload}", "-T", file, folder6+"back")
	info, err := os.Stat(filepath.Join(dir, "back"))
	must(t, err)
	if info.Size() != size {
		t.Fatalf("nginx has %d bytes of %d", info.Size(), size)
	}
	must(t, os.Remove(filepath.Join(dir, "back")))
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
	dir := startNginx6(t, r1)

	run(t, d1, "ip", "-6", "route", "replace", "fd25::12/128", "dev", "eth0", "mtu", "1280")
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\n"+files6))
	transfer6(t, r, dir, tunnelBytes()/4)
	wantCounted(t, r, "answered_too_big")
	run(t, client, "ip", "-6", "route", "flush", "cache") // it knows the 1,280 bytes, and would say so in its MSS
	run(t, router, "ip", "-6", "route", "replace", "fd25::/64", "dev", "eth0", "metric", "1", "mtu", "1280")
	run(t, router, "ip", "-6", "route", "replace", "fd26::/64", "dev", "eth1", "metric", "1", "mtu", "1280")
	transfer6(t, r, dir, tunnelBytes()/4)
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
