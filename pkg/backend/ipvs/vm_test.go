//go:build ipvsvm

package ipvs_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// These tests drive the kernel's IPVS, and so are built with the tag ipvsvm
// only, for the guest that has it (testenv/vm/lane).
func TestMain(m *testing.M) {
	if err := ipvs.Available(); err != nil {
		fmt.Fprintln(os.Stderr, "this kernel cannot run these tests (run them with go test ./testenv/vm/lane):", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// director is a backend on a one-armed network.
type director struct {
	*ipvs.Backend
	net *onearm.Net
	t   *testing.T
}

func newDirector(t *testing.T) director {
	t.Helper()
	var vips []netip.Addr
	for i := range 4 {
		vips = append(vips, netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::10%d", i)))
	}
	n, err := onearm.New(vips...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	d := director{net: n, t: t}
	d.open(t.TempDir())
	return d
}

func (d *director) open(dir string) {
	d.t.Helper()
	b, err := ipvs.Open(d.t.Context(), ipvs.Options{StateDir: dir})
	if err != nil {
		d.t.Fatal(err)
	}
	d.Backend = b
	d.t.Cleanup(func() {
		if err := b.Close(false); err != nil {
			d.t.Error(err)
		}
	})
}

// Send implements lbtest.Harness.
func (d director) Send(p lb.Packet) lbtest.Outcome {
	d.t.Helper()
	n, err := d.net.Choose(onearm.Packet{Src: p.Src, Dst: p.Dst, UDP: p.Proto == lb.UDP, Flags: p.Flags})
	if err != nil {
		d.t.Fatal(err)
	}
	if n == 0 {
		return lbtest.Outcome{}
	}
	return lbtest.Outcome{Real: onearm.Real(n)}
}

// Stats waits until the kernel has added up its counters, which it does every
// two seconds (ip_vs_est.c: estimation_timer).
func (d director) Stats() (lb.Stats, error) {
	time.Sleep(3 * time.Second)
	return d.Backend.Stats()
}

// Damage implements lbtest.Harness.
func (director) Damage() error { return exec.Command("ipvsadm", "-C").Run() }

func TestKernelSuite(t *testing.T) {
	lbtest.Run(t, func(t *testing.T) lbtest.Harness { return newDirector(t) })
}
