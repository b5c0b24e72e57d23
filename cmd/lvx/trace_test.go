package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// watched shows the same packet again and again.
type watched struct{ n int }

func newWatch() *watched { return &watched{} }

func (w *watched) Next(context.Context) (lb.TracedPacket, error) {
	w.n++
	return lb.TracedPacket{
		Time: time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.Local), Interface: "eth0", Protocol: "tcp",
		Source: netip.MustParseAddrPort("192.0.2.1:5"), Destination: netip.MustParseAddrPort("192.0.2.100:80"),
		Explanation: lb.Explanation{Verdict: "forwarded", Service: "web", Real: "192.0.2.11", Steps: []string{"first", "last"}},
		LengthIn:    60, FrameIn: make([]byte, 60), LengthOut: 60, FrameOut: make([]byte, 60),
	}, nil
}

func (w *watched) Lost() uint64 { return 3 }
func (w *watched) Close() error { return nil }

func TestTrace(t *testing.T) {
	serve(t, &recorder{})
	line := "03:04:05.678000 eth0 tcp 192.0.2.1:5 > 192.0.2.100:80 forwarded 192.0.2.11\n"
	code, out, errs := lvx("trace", "port", "80", "--count", "2")
	if code != 0 || out != line+line || !strings.Contains(errs, "2 packets, 3 more not shown") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	if _, out, _ := lvx("trace", "--count", "1", "-v"); out != line+"    first\n    last\n" {
		t.Errorf("%q", out)
	}
	if _, out, _ := lvx("trace", "--count", "1", "--json"); !strings.Contains(out, `"verdict":"forwarded"`) || strings.Count(out, "\n") != 1 {
		t.Errorf("%q", out)
	}
	for _, args := range []string{"trace no such", "trace port", "capture", "capture -w x -s 0", "capture -w x host y"} {
		if code, _, errs := lvx(strings.Fields(args)...); code != 2 || strings.Count(errs, "\n") == 0 {
			t.Errorf("%q: exit %d, %q", args, code, errs)
		}
	}
}

// A trace says what was lost while it ran, of the kernel's counts alone, and asks
// for nothing but that.
func TestTraceOfLosses(t *testing.T) {
	d := &recorder{losses: []director.Loss{
		{Interface: "eth0", Counter: "xdp_tx", Frames: 7}, {Interface: "eth0", Counter: "rx_xdp_drops", IsDrivers: true, Frames: 8},
	}}
	serve(t, d)
	if _, out, _ := lvx("trace", "--count", "1"); !strings.HasSuffix(out, " eth0 - lost xdp_tx 1\n") || strings.Contains(out, "rx_xdp_drops") {
		t.Errorf("%q", out)
	}
	for _, call := range d.calls {
		if call != "losses" && !strings.HasPrefix(call, "trace") {
			t.Errorf("asked for %q", call)
		}
	}
}

func TestCapture(t *testing.T) {
	serve(t, &recorder{})
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if code, _, errs := lvx("capture", "-w", path, "--count", "3", "tcp"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		if _, _, err := r.ReadPacketData(); err != nil {
			break
		}
		n++
	}
	if n != 6 {
		t.Errorf("%d frames in the file, want 3 as they came and 3 as they were sent", n)
	}
}
