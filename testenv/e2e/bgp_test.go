package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// anycast is announced by two directors to a router, which is the client too.
var anycast = netip.MustParseAddr("192.0.2.100")

// routed is a router that runs BIRD, two directors and two reals.
type routed struct {
	*testenv.Cluster
	t       *testing.T
	daemons map[string]*testenv.Process
}

const routerConf = `
router id 172.25.0.50;
protocol device {}
protocol kernel { merge paths on; ipv4 { export where source = RTS_BGP; }; }
template bgp director {
  local 172.25.0.50 as 65000;
  hold time 9;
  direct;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import filter { if (65535,0) ~ bgp_community then bgp_local_pref = 0; accept; }; export all; };
}
protocol bgp d1 from director { neighbor 172.25.0.11 as 65010; }
protocol bgp d2 from director { neighbor 172.25.0.14 as 65010; }
`

const directorConf = `
interface: eth0
pin_dir: %s
state_dir: %s
admin: {socket: %s}
sloppy_tcp: true
stop_grace: 0s
bgp:
  asn: 65010
  drain_time: 1s
  hold_up: 500ms
  peers: [{address: 172.25.0.50, asn: 65000, hold_time: 9s}]
services:
  - name: web
    listen: ["192.0.2.100:80/tcp"]
    scheduler: mh
    flags: [mh-port]
    check: {type: tcp, via: real, interval: 100ms, timeout: 500ms, fall: 1, rise: 1}
    reals:
      - {address: 172.25.0.12}
      - {address: 172.25.0.13}
`

func newRouted(t *testing.T) *routed {
	t.Helper()
	c, err := testenv.New(testenv.Standard(testenv.Shape{}))
	must(t, err)
	r := &routed{Cluster: c, t: t, daemons: map[string]*testenv.Process{}}
	t.Cleanup(func() {
		for name, d := range r.daemons {
			if t.Failed() {
				t.Logf("%s:\n%s", name, d.Output())
			}
			d.Kill()
			_, _ = c.Host(name).Run(context.Background(), lvx, "purge", "-c", filepath.Join(c.Host(name).Dir(), "lvx.yaml"))
		}
		must(t, c.Close())
	})
	client := c.Host("client")
	must(t, client.Sysctl("net.ipv4.fib_multipath_hash_policy", "1"))
	conf := filepath.Join(client.Dir(), "bird.conf")
	must(t, os.WriteFile(conf, []byte(routerConf), 0o600))
	_, err = client.Start("bird", "-f", "-c", conf, "-s", filepath.Join(client.Dir(), "bird.ctl"), "-P", filepath.Join(client.Dir(), "bird.pid"))
	must(t, err)
	for _, name := range []string{"r1", "r2"} {
		h := c.Host(name)
		_, err := h.Run(t.Context(), lvx, "real", "up", "--vip", anycast.String(), "--interface", "eth0", "--state", filepath.Join(h.Dir(), "real.json"))
		must(t, err)
		_, err = h.ServeWeb(":80")
		must(t, err)
	}
	return r
}

func (r *routed) start(name string) {
	r.t.Helper()
	h := r.Host(name)
	file := filepath.Join(h.Dir(), "lvx.yaml")
	must(r.t, os.WriteFile(file, fmt.Appendf(nil, directorConf, h.PinDir(), h.Dir(), filepath.Join(h.Dir(), "lvx.sock")), 0o600))
	d, err := h.Start(lvx, "run", "-c", file)
	must(r.t, err)
	r.daemons[name] = d
}

// paths are the next hops of the router's route to the VIP.
func (r *routed) paths() string {
	out, err := r.Host("client").Run(r.t.Context(), "ip", "route", "show", anycast.String())
	must(r.t, err)
	var via []string
	for _, addr := range []string{"172.25.0.11", "172.25.0.14"} {
		if strings.Contains(out, "via "+addr) {
			via = append(via, addr)
		}
	}
	return strings.Join(via, " ")
}

func (r *routed) await(what, want string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	err := testenv.Poll(ctx, func() error {
		if got := r.paths(); got != want {
			return fmt.Errorf("the router sends to %q (%q)", got, want)
		}
		return nil
	})
	if err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

// ask makes one request.
func (r *routed) ask() (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	conn, err := r.Host("client").Dial(ctx, "tcp", netip.AddrPortFrom(anycast, 80).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return rig.Ask(conn)
}

// Two directors announce a VIP: the router spreads over both, a director that
// is stopped is left without a failed request and without a lost connection,
// and a VIP that nobody serves is withdrawn.
func TestDirectorsAnnounceByBGP(t *testing.T) {
	r := newRouted(t)
	r.start("d1")
	r.await("d1 announces", "172.25.0.11")
	r.start("d2")
	r.await("both announce", "172.25.0.11 172.25.0.14")

	out, err := r.Host("d1").Run(t.Context(), lvx, "status", "--json", "--socket", filepath.Join(r.Host("d1").Dir(), "lvx.sock"))
	must(t, err)
	var st struct {
		BGP bgp.Status `json:"bgp"`
	}
	must(t, json.Unmarshal([]byte(out), &st))
	if len(st.BGP.Peers) != 1 || !st.BGP.Peers[0].IsUp || len(st.BGP.VIPs) != 1 || !st.BGP.VIPs[0].IsAnnounced {
		t.Errorf("status of d1: %+v", st.BGP)
	}

	var held []net.Conn
	var who []string
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		conn, err := r.Host("client").Dial(ctx, "tcp", netip.AddrPortFrom(anycast, 80).String())
		cancel()
		must(t, err)
		defer conn.Close()
		name, err := rig.Ask(conn)
		must(t, err)
		held, who = append(held, conn), append(who, name)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.daemons["d1"].Stop() }()
	requests := 0
	for running := true; running; requests++ {
		if _, err := r.ask(); err != nil {
			t.Errorf("request %d while d1 stops: %v", requests, err)
		}
		select {
		case err := <-stopped:
			must(t, err)
			running = false
		default:
		}
	}
	r.await("d1 has withdrawn", "172.25.0.14")
	for i, conn := range held {
		if name, err := rig.Ask(conn); err != nil || name != who[i] {
			t.Errorf("connection %d was with %s, now %s, %v", i, who[i], name, err)
		}
	}
	t.Logf("%d requests while d1 stopped", requests)

	for _, name := range []string{"r1", "r2"} {
		must(t, r.Host(name).SetLink("eth0", false))
	}
	r.await("nobody serves: withdrawn", "")
	for _, name := range []string{"r1", "r2"} {
		must(t, r.Host(name).SetLink("eth0", true))
	}
	r.await("served again", "172.25.0.14")
}
