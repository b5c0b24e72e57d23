package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
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

// A capture shows what came and what was sent, and traffic never notices; when
// whoever listens is killed, the usual program is back.
func TestCaptureUnderTraffic(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	usual := programInForce(t, d1)
	stream := r.Stream("http://"+rig.VIP, 5*time.Millisecond, rig.Patience, 5000)

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
	eventually(t, func() error { return same(programInForce(t, d1), usual) })

	listener, err := d1.Start(r.Self, "trace", "--socket", r.Socket("d1"))
	must(t, err)
	must(t, listener.WaitOutput(t.Context(), " forwarded 172.25.0.1"))
	if programInForce(t, d1) == usual {
		t.Error("the usual program is in force while somebody listens")
	}
	listener.Kill()
	eventually(t, func() error { return same(programInForce(t, d1), usual) })
	if total, failed := stream.Stop(); total < 20 || len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed)
	}
}

func same(got, want string) error {
	if got != want {
		return fmt.Errorf("the program in force is %q, want %q", got, want)
	}
	return nil
}
