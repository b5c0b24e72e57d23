package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// What an operator looks with shows IPv6 too: explain, capture, trace, and the
// lists with the daemon dead. A daemon that is killed while somebody listens
// leaves a packet path that serves on.
func TestIPv6IsShown(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig6(t)
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\n"+service6("", "fd25::12", "fd25::13")))
	d1 := r.Cluster.Host("d1")
	stream := r.Stream(web6, 5*time.Millisecond, rig.Patience, 5000)
	packet := []string{"tcp", "[fd25::9]:1000", "[" + vip6 + "]:80"}
	wantListed(t, r, append([]string{"explain"}, packet...), "verdict: forwarded, service web6, real fd25::1")
	wantListed(t, r, []string{"explain", "icmp6", "fd25::9", vip6}, "verdict: other_protocol")

	file := filepath.Join(t.TempDir(), "web6.pcapng")
	run6(t, r, "capture", "-w", file, "--count", "50", "ip6", "tcp", "port", "80")
	text := run(t, d1, "tcpdump", "-nne", "-r", file)
	if n := strings.Count(text, " > "+vip6+".80: Flags"); n < 50 {
		t.Errorf("tcpdump finds %d frames to the VIP in the capture:\n%s", n, text)
	}
	for _, real := range []string{"r1", "r2"} {
		if mac := r.Cluster.Host(real).MAC("eth0").String(); !strings.Contains(text, "> "+mac) {
			t.Errorf("no frame of the capture was sent to %s (%s)", real, mac)
		}
	}

	conf := filepath.Join(d1.Dir(), "lvx.yaml")
	age := regexp.MustCompile(`\d\d:\d\d `)
	conn := hold6(t, r)
	if total, failed := stream.Stop(); total < 20 || len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed)
	}
	listed := func() string {
		return age.ReplaceAllString(run6(t, r, "list", "-n", "--config", conf)+run6(t, r, "list", "-nc", "--config", conf), "")
	}
	listener, err := d1.Start(r.Self, "trace", "--socket", r.Socket("d1"))
	must(t, err)
	stream = r.Stream(web6, 5*time.Millisecond, rig.Patience, 5000)
	must(t, listener.WaitOutput(t.Context(), "[fd25::"))
	r.Kill("d1")
	if total, failed := stream.Stop(); total < 1 || len(failed) > 0 {
		t.Errorf("with the daemon killed during a trace %d of %d requests failed: %v", len(failed), total, failed)
	}
	if name, err := rig.Ask(conn); name != "r1" || err != nil {
		t.Errorf("with the daemon killed during a trace the connection is answered by %q, %v", name, err)
	}
	orphaned := listed()
	must(t, r.Start(t.Context(), "d1"))
	for line := range strings.Lines(listed()) {
		if !strings.Contains(orphaned, line) {
			t.Errorf("without a daemon the lists lack %q:\n%s", line, orphaned)
		}
	}
	if got := r.Curl(4, web6); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
		t.Errorf("after the restart: %s", got)
	}
	if name, err := rig.Ask(conn); name != "r1" || err != nil {
		t.Errorf("after the restart the connection is answered by %q, %v", name, err)
	}
}
