package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// While lvx comes and goes nobody is refused: the VIP is there only while the
// packet path is, so that the host's own stack, which knows no such service,
// never answers a client that asks again. Clients that still have the host's
// MAC meet silence.
func TestFault29NobodyIsRefused(t *testing.T) {
	t.Parallel() // it waits most of its time
	router := "vrrp:\n  - {name: VI_1, interface: eth0, virtual_router_id: 51, priority: 100, advert_interval: 100ms, version: 3, addresses: [" + rig.VIP + "/24]}\n"
	for name, c := range map[string]struct {
		body string
		end  func(t *testing.T, r *rig.Rig)
	}{
		"purge":          {service(""), func(t *testing.T, r *rig.Rig) { must(t, r.Stop("d1")) }},
		"stop_grace 0":   {"stop_grace: 0s\n" + service(""), func(t *testing.T, r *rig.Rig) { must(t, r.Leave("d1")) }},
		"stop --purge":   {service(""), stopAndPurge},
		"virtual router": {router + service(""), func(t *testing.T, r *rig.Rig) { must(t, r.Stop("d1")) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			mac := r.Cluster.Host("d1").MAC("eth0").String()
			run(t, r.Client, "ip", "neighbour", "replace", rig.VIP, "lladdr", mac, "dev", "eth0", "nud", "permanent")
			must(t, r.Direct(t.Context(), "d1", c.body))
			eventually(t, func() error { _, err := r.Get("http://"+rig.VIP, time.Second); return err })
			stream := r.Stream("http://"+rig.VIP, 3*time.Millisecond, 700*time.Millisecond, 20_000)
			for range share(10) + 1 {
				c.end(t, r)
				nothingLeft(t, r, "d1")
				must(t, r.Start(t.Context(), "d1"))
				eventually(t, func() error { _, err := r.Get("http://"+rig.VIP, time.Second); return err })
			}
			total, failed := stream.Stop()
			kinds := map[string]int{}
			for _, f := range failed {
				kinds[f]++
			}
			t.Logf("%d asked, failed: %v", total, kinds)
			for why, n := range kinds {
				if why != "timeout" {
					t.Errorf("%d of %d clients: %s", n, total, why)
				}
			}
			if len(failed) == 0 || len(failed) == total {
				t.Errorf("%d of %d failed: lvx did not go, or did not come", len(failed), total)
			}
		})
	}
}

func stopAndPurge(t *testing.T, r *rig.Rig) {
	_, err := r.LVX(t.Context(), "d1", "stop", "--purge")
	must(t, err)
	delete(r.Daemons, "d1")
}

func purge(t *testing.T, r *rig.Rig) {
	d1 := r.Cluster.Host("d1")
	run(t, d1, lvx, "purge", "-c", d1.Dir()+"/lvx.yaml")
}

// A route to a real that has an MTU of its own is the way's MTU, in both
// modes: what is longer is answered, as the kernel does, and followed when the
// route changes.
func TestFault07RouteMTU(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			d1 := r.Cluster.Host("d1")
			run(t, d1, "ip", "route", "add", "172.25.0.12/32", "dev", "eth0", "mtu", "1200")
			must(t, r.Direct(t.Context(), "d1", "xdp_mode: "+mode+"\n"+service("", "172.25.0.12")))
			learns := func(mtu string) {
				t.Helper()
				run(t, r.Client, "ip", "route", "flush", "cache")
				transfer(t, r, 1<<20)
				if out := run(t, r.Client, "ip", "route", "get", rig.VIP); !strings.Contains(out, "mtu "+mtu+" ") {
					t.Errorf("the client has not learnt the MTU %s of the route to the real:\n%s", mtu, out)
				}
			}
			learns("1200")
			run(t, d1, "ip", "route", "replace", "172.25.0.12/32", "dev", "eth0", "mtu", "1100")
			eventually(t, func() error {
				out, err := r.LVX(t.Context(), "d1", "explain", "--size", "1150", "tcp", "172.25.0.50:3000", rig.VIP+":80")
				if err != nil || !strings.Contains(out, "1100") {
					return fmt.Errorf("the packet path does not go by the new route: %v\n%s", err, out)
				}
				return nil
			})
			learns("1100")
			run(t, d1, "ip", "route", "del", "172.25.0.12/32", "dev", "eth0")
			eventually(t, func() error {
				out, err := r.LVX(t.Context(), "d1", "explain", "--size", "1500", "tcp", "172.25.0.50:3000", rig.VIP+":80")
				if err != nil || strings.Contains(out, "1100") {
					return fmt.Errorf("the packet path goes by a route that has gone: %v\n%s", err, out)
				}
				return nil
			})
		})
	}
}

// A service whose sorry server answers is not up: not in the status, not in
// its exit status, not in the metrics; and it is again once a real is back.
func TestFault17SorryServerIsNotUp(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	_, err := r.Cluster.Host("d1").ServeWeb(":80")
	must(t, err)
	must(t, r.Direct(t.Context(), "d1", checked("type: tcp", "sorry_server: 127.0.0.1")))
	realsUp(t, r, "r1", "r2")
	says := func(state, up, sorry string, failing bool) {
		t.Helper()
		eventually(t, func() error {
			status, err := r.LVX(t.Context(), "d1", "status")
			must(t, err)
			metrics, err := r.LVX(t.Context(), "d1", "metrics")
			must(t, err)
			_, check := r.LVX(t.Context(), "d1", "status", "--check")
			if !strings.Contains(status, "web  "+state) || (check != nil) != failing ||
				!strings.Contains(metrics, `lvx_service_up{service="web"} `+up+"\n") || !strings.Contains(metrics, `lvx_service_sorry{service="web"} `+sorry+"\n") {
				return fmt.Errorf("want web %s, lvx_service_up %s, lvx_service_sorry %s; status --check: %v\n%s\n%s", state, up, sorry, check, status, onlyLines(metrics, "lvx_service_up", "lvx_service_sorry"))
			}
			return nil
		})
	}
	says("up", "1", "0", false)
	must(t, r.Webs["r1"].Close())
	must(t, r.Webs["r2"].Close())
	realsUp(t, r, "d1")
	says("sorry", "0", "1", true)
	nginx(t, r.Cluster.Host("r1"))
	realsUp(t, r, "r1")
	eventually(t, func() error {
		if out, err := r.LVX(t.Context(), "d1", "status"); err != nil || !strings.Contains(out, "web  up") {
			return fmt.Errorf("%v\n%s", err, out)
		}
		return nil
	})
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
