package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// programInForce is what `ip` says of the program on a director's interface:
// its number and tag.
func programInForce(t *testing.T, h *testenv.Host) string {
	t.Helper()
	fields := strings.Fields(run(t, h, "ip", "-details", "link", "show", "dev", "eth0"))
	for i, f := range fields {
		if f == "prog/xdp" && i+5 < len(fields) {
			return strings.Join(fields[i:i+6], " ")
		}
	}
	t.Fatalf("no XDP program on eth0: %q", fields)
	return ""
}

// A capture shows what came and what was sent, and traffic never notices, under full
// load either; when whoever listens is killed, the usual program is back.
func TestCaptureUnderTraffic(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	usual := programInForce(t, d1)
	repeatBesideLoad(t, r, rig.Demand{PerSecond: share(500), Long: share(300)}, 1, func(_ int, load *rig.Load) {
		file := filepath.Join(t.TempDir(), "web.pcapng")
		_, err := r.LVX(t.Context(), "d1", "capture", "-w", file, "--count", "50", "tcp", "port", "80")
		must(t, err)
		text := run(t, d1, "tcpdump", "-nne", "-r", file)
		if n := strings.Count(text, " > "+rig.VIP+".80: Flags"); n < 50 {
			t.Errorf("tcpdump finds %d frames to the VIP in the capture:\n%s", n, text)
		}
		for _, real := range []string{"r1", "r2"} {
			if mac := r.Cluster.Host(real).MAC("eth0").String(); !strings.Contains(text, "> "+mac) {
				t.Errorf("no frame of the capture was sent to %s (%s)", real, mac)
			}
		}
		listenBesideLoad(t, r, load, "capture", "-w", file)
		listenBesideLoad(t, r, load, "trace")
		eventually(t, func() error { return same(programInForce(t, d1), usual) })

		listener, err := d1.Start(r.Self, "trace", "--socket", r.Socket("d1"))
		must(t, err)
		must(t, listener.WaitOutput(t.Context(), " forwarded 172.25.0.1"))
		if programInForce(t, d1) == usual {
			t.Error("the usual program is in force while somebody listens")
		}
		listener.Kill()
		eventually(t, func() error { return same(programInForce(t, d1), usual) })
	})
}

// listened is what a command that shows packets says at its end.
var listened = regexp.MustCompile(`(\d+) packets, (\d+) more not shown`)

// listenBesideLoad shows every packet of a load for a time, and says how many it could
// not show.
func listenBesideLoad(t *testing.T, r *rig.Rig, load *rig.Load, args ...string) {
	t.Helper()
	listener, err := r.Cluster.Host("d1").Start(append([]string{r.Self, args[0], "--socket", r.Socket("d1")}, args[1:]...)...)
	must(t, err)
	must(t, listener.WaitOutput(t.Context(), "watching"))
	began := time.Now()
	must(t, load.Await(t.Context(), share(1000)))
	took := time.Since(began)
	must(t, listener.Signal(syscall.SIGINT))
	must(t, listener.Wait())
	found := listened.FindStringSubmatch(listener.Output())
	if found == nil || found[1] == "0" {
		t.Errorf("%s says at its end: %q", args[0], listener.Output())
	}
	t.Logf("%s for %v: %q", args[0], took.Round(100*time.Millisecond), found)
}

func same(got, want string) error {
	if got != want {
		return fmt.Errorf("the program in force is %q, want %q", got, want)
	}
	return nil
}
