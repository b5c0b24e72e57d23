package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// Frames that the driver loses behind XDP are counted, warned of and shown, and
// counted on after kill -9.
func TestFramesThatTheDriverLosesAreCounted(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	must(t, r.Direct(t.Context(), "d1", "xdp_mode: native\n"+service("")))
	realsUp(t, r, "r1", "r2")
	if n := framesLost(t, r); n != 0 {
		t.Errorf("%d frames are lost while all is well", n)
	}
	trace, err := d1.Start(r.Self, "trace", "verdict", "forwarded", "--socket", r.Socket("d1"))
	must(t, err)
	must(t, trace.WaitOutput(t.Context(), "watching"))

	run(t, r.Cluster.Switch(), "ip", "link", "set", "dev", "d1", "xdp", "off") // what veth sends is lost now
	eventually(t, func() error {
		if _, err := r.Get("http://"+rig.VIP, time.Second); err == nil {
			return errors.New("a request was answered")
		}
		out, err := r.LVX(t.Context(), "d1", "status")
		if err == nil && !regexp.MustCompile(`(?m)^lost eth0 +xdp_tx +[1-9]`).MatchString(out) {
			err = fmt.Errorf("lvx status does not say that frames are lost:\n%s", out)
		}
		return err
	})
	must(t, trace.WaitOutput(t.Context(), " eth0 - lost xdp_tx "))
	trace.Kill()
	for _, metric := range []string{`lvx_frames_lost_total\{interface="eth0",why="xdp_tx"\}`, `lvx_driver_errors_total\{counter="rx_xdp_tx_errors",interface="eth0"\}`} {
		eventually(t, func() error {
			if metricOf(t, r, metric) == 0 {
				return fmt.Errorf("%s is 0", metric)
			}
			return nil
		})
	}
	eventually(t, func() error {
		if found := examine(t, r); !slices.Contains(found, "frames-lost interface eth0") {
			return fmt.Errorf("lvx doctor finds %q", found)
		}
		return nil
	})

	before := framesLost(t, r)
	r.Kill("d1")
	must(t, r.Start(t.Context(), "d1"))
	if after := framesLost(t, r); after < before {
		t.Errorf("%d frames were lost before the restart, %d are after it", before, after)
	}
}

// Where native mode comes to lose what it sends, generic mode takes over by itself,
// and that is said.
func TestGenericModeTakesOver(t *testing.T) {
	const edited = "172.25.0.101:80" // by ipvsadm
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	realsUp(t, r, "r1", "r2")
	out, err := r.LVX(t.Context(), "d1", "status")
	must(t, err)
	if !strings.Contains(out, "eth0: native\n") {
		t.Errorf("native mode is not in force, or not proven:\n%s", out)
	}
	d1 := r.Cluster.Host("d1")
	run(t, d1, "env", "LVX_SOCKET="+r.Socket("d1"), lvx, "ipvsadm", "-A", "-t", edited)
	run(t, r.Cluster.Switch(), "ip", "link", "set", "dev", "d1", "xdp", "off")
	eventually(t, func() error {
		_, err := r.Get("http://"+rig.VIP, 200*time.Millisecond)
		return err
	})
	for _, said := range [][]string{{"xdp generic", "status"}, {"note: packet path: native XDP lost ", "status"}, {"native XDP lost ", "history", "--kind", "daemon"}} {
		eventually(t, func() error { // the daemon has started anew
			out, err := r.LVX(t.Context(), "d1", said[1:]...)
			if err == nil && !strings.Contains(out, said[0]) {
				err = fmt.Errorf("lvx %s does not say %q:\n%s", said[1], said[0], out)
			}
			return err
		})
	}
	_, err = r.LVX(t.Context(), "d1", "reload")
	must(t, err)
	if out, err := r.LVX(t.Context(), "d1", "list", "-n"); err != nil || !strings.Contains(out, "TCP  "+edited) {
		t.Errorf("an edit of ipvsadm's is lost with native mode: %v\n%s", err, out)
	}
	if out, _ := r.LVX(t.Context(), "d1", "diff"); strings.Contains(out, "xdp_mode") { // it exits with 1: the edit is no line of the file
		t.Errorf("the file has not changed, yet lvx diff says\n%s", out)
	}
}

// Where no neighbour answers echoes, that native mode works is not proven, and
// that is said.
func TestNativeModeThatIsNotProven(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	for _, h := range r.Cluster.Hosts() {
		must(t, h.Sysctl("net.ipv4.icmp_echo_ignore_all", "1"))
	}
	must(t, r.Direct(t.Context(), "d1", service("")))
	realsUp(t, r, "r1", "r2")
	out, err := r.LVX(t.Context(), "d1", "status")
	must(t, err)
	if !strings.Contains(out, "eth0: native (not proven: no neighbour answers echoes)") || !strings.Contains(out, "note: interface eth0: that frames leave in native mode is not proven") {
		t.Errorf("lvx status does not say that nothing is proven:\n%s", out)
	}
	if found := examine(t, r); len(found) > 0 {
		t.Errorf("it is a note, yet lvx doctor finds %q", found)
	}
}

func framesLost(t *testing.T, r *rig.Rig) int {
	t.Helper()
	return metricOf(t, r, `lvx_frames_lost_total\{interface="eth0",why="xdp_tx"\}`)
}
