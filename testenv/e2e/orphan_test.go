package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

const orphanServices = `services:
  - name: web
    listen: ["172.25.0.100:80/tcp"]
    scheduler: wrr
    reals: [{address: 172.25.0.13, weight: 2}, {address: 172.25.0.12, weight: 1}]
  - name: sticky
    listen: ["172.25.0.101:443/tcp", "172.25.0.101:8000-8100/udp"]
    scheduler: wlc
    persistence: {timeout: 300s, netmask: 255.255.255.0}
    sorry_server: 127.0.0.1
    reals: [{address: 172.25.0.12}, {address: 172.25.0.13, weight: 0}]
  - name: all
    listen: ["172.25.0.102"]
    scheduler: mh
    flags: [mh-port]
    reals: [{address: 172.25.0.12}]
`

// What the daemon lists, the pinned maps still say when it is dead.
func TestListWithoutDaemon(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", orphanServices))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	conn, err := r.Hold("r1")
	must(t, err)
	defer conn.Close()

	age := regexp.MustCompile(`\d\d:\d\d `)
	lists := func() map[string]string {
		all := map[string]string{}
		for _, option := range []string{"-n", "-nc", "--persistent-conn", "--thresholds", "--timeout"} {
			out, err := r.LVX(t.Context(), "d1", "list", option, "--config", file)
			must(t, err)
			all[option] = age.ReplaceAllString(out, "")
		}
		return all
	}
	want := lists()
	r.Kill("d1")
	for option, got := range lists() {
		if !strings.HasSuffix(got, want[option]) {
			t.Errorf("list %s without a daemon:\n%s\nwith one:\n%s", option, got, want[option])
		}
	}
	out, err := r.LVX(t.Context(), "d1", "status", "--config", file)
	if err == nil || !strings.Contains(err.Error()+out, "still attached to eth0") || !strings.Contains(err.Error()+out, "served, for ever") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if name, err := rig.Ask(conn); name != "r1" || err != nil {
		t.Errorf("having been looked at, the connection is answered by %q, %v", name, err)
	}
	must(t, r.Start(t.Context(), "d1"))
	if got := lists(); got["-n"] != want["-n"] {
		t.Errorf("after the next start:\n%s\nbefore:\n%s", got["-n"], want["-n"])
	}
	must(t, r.Stop("d1"))
	if out, err := r.LVX(t.Context(), "d1", "list", "--config", file); err == nil || !strings.Contains(err.Error(), "no lvx runs here: no socket") {
		t.Errorf("with nothing left: %v\n%s", err, out)
	}
}

// Without a successor the status says how long the packet path still serves,
// and then that it does not.
func TestStatusOfLeases(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", "stop_grace: 3s\n"+service("")))
	file := filepath.Join(r.Cluster.Host("d1").Dir(), "lvx.yaml")
	must(t, r.Leave("d1"))
	says := func(what string) error {
		out, err := r.LVX(t.Context(), "d1", "status", "--config", file)
		if err == nil || !strings.Contains(err.Error()+out, what) {
			return fmt.Errorf("status does not say %q: %v\n%s", what, err, out)
		}
		return nil
	}
	must(t, says("VIP 172.25.0.100: served for another "))
	eventually(t, func() error { return says("VIP 172.25.0.100: not served: its lease is over") })
}

// A file that is not in force is asked without a daemon, and nothing of it
// stays.
func TestExplainFile(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "new.yaml")
	must(t, os.WriteFile(file, []byte("interface: eth0\npin_dir: "+d1.PinDir()+"\n"+orphanServices+`  - name: cached
    listen: ["172.25.0.103:80/tcp"]
    scheduler: lblc
    reals: [{address: 172.25.0.12}]
`), 0o600))
	for packet, says := range map[string]string{
		"tcp 172.25.0.9:1000 172.25.0.100:80":   "verdict: forwarded, service web, real 172.25.0.1",
		"tcp 172.25.0.9:1000 172.25.0.101:443":  "verdict: forwarded, service sticky, real 172.25.0.12",
		"udp 172.25.0.9:1000 172.25.0.101:8050": "verdict: forwarded, service sticky, real 172.25.0.12",
		"udp 172.25.0.9:1000 172.25.0.101:8101": "verdict: no_listener",
		"tcp 172.25.0.9:1000 172.25.0.102:7":    "verdict: forwarded, service all, real 172.25.0.12",
		"tcp 172.25.0.9:1000 172.25.0.103:80":   "verdict: ipvs, service cached",
		"tcp 172.25.0.9:1000 172.25.0.104:80":   "verdict: not_ours",
	} {
		out, err := d1.Run(t.Context(), append([]string{lvx, "explain", "-c", file}, strings.Fields(packet)...)...)
		if err != nil || !strings.Contains(out, says) {
			t.Errorf("%s: want %q: %v\n%s", packet, says, err, out)
		}
	}
	for _, at := range []string{"172.25.0.101:443", "172.25.0.102:7"} { // not in force
		if out, err := r.LVX(t.Context(), "d1", "explain", "tcp", "172.25.0.9:1000", at); err != nil || !strings.Contains(out, "not_ours") {
			t.Errorf("the running configuration knows %s: %v\n%s", at, err, out)
		}
	}
}
