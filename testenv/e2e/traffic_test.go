package e2e

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/demo"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// big is the size of the transfers: enough to meet retransmissions, windows
// and segmentation offload.
const big = 200 << 20

func TestDemo(t *testing.T) {
	var out strings.Builder
	checks, err := demo.Run(t.Context(), demo.Options{Self: lvx, Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, scene := range demo.Scenes() {
		if !slices.ContainsFunc(checks, func(c demo.Check) bool { return c.Scene == scene }) {
			t.Errorf("scene %s made no check", scene)
		}
	}
	readme, err := os.ReadFile("../../README.md")
	must(t, err)
	shown := regexp.MustCompile("(?s)\nscene .*? s\n").FindString(string(readme))
	seen := comparable(out.String())
	for _, line := range strings.Split(comparable(shown), "\n") {
		if line != "..." && !slices.Contains(strings.Split(seen, "\n"), line) {
			t.Errorf("README.md shows of the demo %q, but it shows\n%s", line, seen)
		}
	}
	if total := fmt.Sprintf("\n%d of %[1]d checks ok", len(checks)); !strings.Contains(shown, total) {
		t.Errorf("README.md does not show%s", total)
	}
}

// comparable is a table of the demo without what differs from one run to the
// next: the width of columns, and counts.
func comparable(table string) string {
	table = regexp.MustCompile(` {2,}`).ReplaceAllString(table, "  ")
	return regexp.MustCompile(`(?m)\b\d+ (in|out)\b|\b\d+ s$|0 of \d+`).ReplaceAllString(table, "N")
}

func TestTransfers(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			must(t, r.Direct(t.Context(), "d1", "xdp_mode: "+mode+"\n"+service("")))
			if out, err := r.LVX(t.Context(), "d1", "status"); err != nil || !strings.Contains(out, mode) {
				t.Fatalf("status does not say %s: %v\n%s", mode, err, out)
			}
			download(t, r)
			upload(t, r)
		})
	}
}

// Generic mode meets segments of up to 64 KiB when the client leaves the
// cutting up to its interface.
func TestUploadWithSegmentationOffload(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	run(t, r.Client, "ethtool", "-K", "eth0", "tx", "on", "tso", "on", "gso", "on")
	must(t, r.Direct(t.Context(), "d1", "xdp_mode: generic\n"+service("")))
	upload(t, r)
	download(t, r)
}

func download(t *testing.T, r *rig.Rig) {
	t.Helper()
	resp, err := r.HTTP(3 * time.Minute).Get(fmt.Sprintf("http://%s/bytes/%d", rig.VIP, big))
	must(t, err)
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if n != big || err != nil {
		t.Fatalf("download: %d of %d bytes, %v", n, big, err)
	}
}

// zeros is a reader of so many bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { return len(p), nil }

func upload(t *testing.T, r *rig.Rig) {
	t.Helper()
	resp, err := r.HTTP(3*time.Minute).Post("http://"+rig.VIP+"/", "application/octet-stream", zeros(big))
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || strings.TrimSpace(string(body)) != fmt.Sprint(big) {
		t.Fatalf("upload: the real counted %q, want %d (%v)", body, big, err)
	}
}

func TestThousandConnections(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	askTogether(t, r, rig.VIP+":80", 1000)
}

// askTogether opens so many connections to a service, asks on each once all are open, and wants
// every one answered.
func askTogether(t *testing.T, r *rig.Rig, service string, n int) {
	t.Helper()
	conns := make(chan error, n)
	var together, all sync.WaitGroup
	together.Add(n)
	for range n {
		all.Go(func() { conns <- oneOfMany(t, r, service, &together) })
	}
	all.Wait()
	close(conns)
	for err := range conns {
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := r.LVX(t.Context(), "d1", "list", "-n", "--stats")
	must(t, err)
	t.Log(out)
}

// oneOfMany connects, waits until all the others have connected too, and
// asks.
func oneOfMany(t *testing.T, r *rig.Rig, service string, together *sync.WaitGroup) error {
	conn, err := r.Client.Dial(t.Context(), "tcp", service)
	together.Done()
	if err != nil {
		return err
	}
	defer conn.Close()
	together.Wait()
	name, err := rig.Ask(conn)
	if err != nil {
		return err
	}
	if name != "r1" && name != "r2" {
		return fmt.Errorf("answered by %q", name)
	}
	return nil
}

// What is not the service's reaches the director's own kernel.
func TestOthersAreUntouched(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	run(t, r.Client, "ping", "-c", "3", "-W", "2", rig.VIP)
	run(t, r.Client, "arping", "-c", "2", "-w", "3", "-I", "eth0", rig.VIP)
	if _, err := r.Get("http://"+rig.VIP+":81", 3*time.Second); err == nil || rig.Brief(err) != "connection refused" {
		t.Errorf("port 81 of the VIP: %v, want the kernel's reset", err)
	}
	d1 := r.Cluster.Host("d1")
	if _, err := d1.ServeWeb("172.25.0.11:8080"); err != nil {
		t.Fatal(err)
	}
	if got := r.Curl(1, "http://172.25.0.11:8080"); got != "d1" {
		t.Errorf("the director's own address: %s", got)
	}
	run(t, d1, "ip", "-6", "addr", "add", "fd00::1/64", "dev", "eth0", "nodad")
	run(t, r.Client, "ip", "-6", "addr", "add", "fd00::2/64", "dev", "eth0", "nodad")
	run(t, r.Client, "ping", "-6", "-c", "2", "-W", "3", "fd00::1")
}
