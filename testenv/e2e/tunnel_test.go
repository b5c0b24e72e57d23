package e2e

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
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
`

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
			for range 2 { // a download from each real
				transfer(t, r, tunnelBytes())
			}
		})
	}
}

// transfer sends so many bytes both ways, each on a connection of its own.
func transfer(t *testing.T, r *rig.Rig, n int64) {
	t.Helper()
	resp, err := r.HTTP(3 * time.Minute).Get(fmt.Sprintf("http://%s/bytes/%d", rig.VIP, n))
	must(t, err)
	got, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if got != n || err != nil {
		t.Fatalf("download: %d of %d bytes, %v", got, n, err)
	}
	for range 2 { // so that the next download goes to the other real
		resp, err = r.HTTP(3*time.Minute).Post("http://"+rig.VIP+"/", "application/octet-stream", zeros(n))
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || strings.TrimSpace(string(body)) != fmt.Sprint(n) {
			t.Fatalf("upload: the real counted %q, want %d (%v)", body, n, err)
		}
	}
}
