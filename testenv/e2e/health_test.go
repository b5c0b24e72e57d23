package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// nginx serves on a real instead of the rig's own server.
func nginx(t *testing.T, h *testenv.Host) *testenv.Process {
	t.Helper()
	dir := filepath.Join(h.Dir(), "nginx")
	must(t, os.MkdirAll(dir, 0o755))
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, []byte(fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events { worker_connections 1024; }
http {
  access_log %[1]s/access.log;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 80; location / { default_type text/plain; return 200 "%[2]s\n"; } }
}
`, dir, h.Name)), 0o644))
	p, err := h.Start("nginx", "-p", dir, "-c", conf, "-e", "stderr")
	must(t, err)
	return p
}

// checked is a configuration with quick checks.
const checkEvery, checkTimeout, checkFall = 500 * time.Millisecond, 400 * time.Millisecond, 2

func checked(check, extra string) string {
	return service(fmt.Sprintf("check: {%s, interval: %s, timeout: %s, fall: %d, rise: 2}\n    %s",
		check, checkEvery, checkTimeout, checkFall, extra))
}

// realsUp waits until exactly these reals get requests.
func realsUp(t *testing.T, r *rig.Rig, want ...string) {
	t.Helper()
	eventually(t, func() error {
		got := r.Curl(2*max(len(want), 1), "http://"+rig.VIP)
		for _, w := range want {
			if strings.Count(got, w) != 2 {
				return fmt.Errorf("requests were answered by %s, want %v", got, want)
			}
		}
		return nil
	})
}

// down waits until status says that a real is down, and why.
func down(t *testing.T, r *rig.Rig, real, why string) {
	t.Helper()
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", "status")
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(out, "\n") {
			if strings.Contains(line, real) && strings.Contains(line, why) {
				return nil
			}
		}
		return fmt.Errorf("status does not say that %s is down for %q:\n%s", real, why, out)
	})
}

// A real that stops is out within fall x interval + timeout, and no request
// fails after that; one that returns is back after rise passes.
func TestRealStopsAndReturns(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Webs["r1"].Close())
	web := nginx(t, r.Cluster.Host("r1"))
	_, err := r.Cluster.Host("d1").ServeWeb(":80")
	must(t, err)
	must(t, r.Direct(t.Context(), "d1", checked("type: http, path: /", "sorry_server: 127.0.0.1")))
	realsUp(t, r, "r1", "r2")

	start := time.Now()
	must(t, web.Stop())
	down(t, r, "172.25.0.12", "refused")
	t.Logf("detected after %.1f of the bound of fall x interval + timeout",
		float64(time.Since(start))/float64(checkFall*checkEvery+checkTimeout))
	if got := r.Curl(20, "http://"+rig.VIP); got != strings.TrimSpace(strings.Repeat("r2 ", 20)) {
		t.Errorf("after the detection: %s", got)
	}
	web = nginx(t, r.Cluster.Host("r1"))
	realsUp(t, r, "r1", "r2")

	must(t, web.Stop())
	must(t, r.Webs["r2"].Close())
	realsUp(t, r, "d1") // the sorry server
	nginx(t, r.Cluster.Host("r1"))
	realsUp(t, r, "r1")
}

func TestRealBehindAFirewallOrGone(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", checked("type: tcp", "")))
	realsUp(t, r, "r1", "r2")
	r1 := r.Cluster.Host("r1")
	run(t, r1, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP")
	down(t, r, "172.25.0.12", "timeout")
	realsUp(t, r, "r2")
	run(t, r1, "iptables", "-F", "INPUT")
	realsUp(t, r, "r1", "r2")
	must(t, r1.SetLink("eth0", false))
	down(t, r, "172.25.0.12", "")
	realsUp(t, r, "r2")
	must(t, r1.SetLink("eth0", true))
	realsUp(t, r, "r1", "r2")
}

// The one thing that a check of the real's own address cannot see: the VIP is
// missing on the real.
func TestRealWithoutTheVIP(t *testing.T) {
	t.Parallel() // it waits most of its time
	for via, green := range map[string]bool{"vip": false, "real": true} {
		t.Run("via "+via, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			must(t, r.Direct(t.Context(), "d1", checked("type: http, via: "+via, "")))
			realsUp(t, r, "r1", "r2")
			run(t, r.Cluster.Host("r1"), "ip", "addr", "del", rig.VIP+"/32", "dev", "lo")
			if !green {
				down(t, r, "172.25.0.12", "VIP")
				realsUp(t, r, "r2")
				return
			}
			time.Sleep(3 * (checkFall*checkEvery + checkTimeout))
			out, err := r.LVX(t.Context(), "d1", "status", "--json")
			must(t, err)
			if !json.Valid([]byte(out)) || strings.Contains(out, `"up": false`) {
				t.Errorf("a check of the real's own address turned red:\n%s", out)
			}
		})
	}
}

// After generic XDP the kernel hands on copies of packets that begin with
// another header: the probes' way back must know both.
func TestChecksThroughTheVIPInGenericMode(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", "xdp_mode: generic\n"+checked("type: http, via: vip", "")))
	realsUp(t, r, "r1", "r2")
	run(t, r.Cluster.Host("r1"), "ip", "addr", "del", rig.VIP+"/32", "dev", "lo")
	down(t, r, "172.25.0.12", "VIP")
	realsUp(t, r, "r2")
}
