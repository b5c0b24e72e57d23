package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// manyFlows are connections of clients behind the router.
type manyFlows struct {
	*testenv.Crowd
	f     *fabric
	flows []testenv.CrowdFlow
	home  []string // the real of each flow
}

// Each flow has an address and a port of its own.
var clientNetwork = netip.MustParsePrefix("198.18.0.0/15")

// openFlows opens connections until each has been seen at a real, and sends on
// them: they are established.
func (f *fabric) openFlows(count int) *manyFlows {
	f.t.Helper()
	m := &manyFlows{f: f, Crowd: &testenv.Crowd{
		From: f.Client, NIC: "eth0", To: f.router.MAC("eth1"),
		Reals: []*testenv.Host{f.Cluster.Host("r1"), f.Cluster.Host("r2")},
	}}
	must(f.t, m.Silence(f.t.Context(), clientNetwork))
	base := clientNetwork.Addr().As4()
	first := binary.BigEndian.Uint32(base[:]) + 1
	for i := range count {
		addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, first+uint32(i))))
		m.flows = append(m.flows, testenv.CrowdFlow{
			Client: netip.AddrPortFrom(addr, uint16(1024+i%60000)), Virtual: netip.MustParseAddrPort(rig.VIP + ":80"),
		})
	}
	m.home = m.send("S")
	if n := m.changed(); n != 0 {
		f.t.Fatalf("%d of %d flows change their real while nothing happens", n, count)
	}
	return m
}

// changed sends on every flow and returns how many reach another real now.
func (m *manyFlows) changed() (n int) {
	m.f.t.Helper()
	for i, real := range m.send("PA") {
		if real != m.home[i] {
			n++
		}
	}
	return n
}

// send sends a segment of every flow and returns which real has seen it. A flow
// that reaches none ends the test.
func (m *manyFlows) send(flags string) []string {
	m.f.t.Helper()
	ctx, cancel := context.WithTimeout(m.f.t.Context(), rig.Patience)
	defer cancel()
	reals, err := m.Send(ctx, m.flows, flags)
	must(m.f.t, err)
	return reals
}

// Hash-threshold ECMP moves a quarter to a half of all flows to another
// director when one leaves or joins: none changes its real, by the ring alone
// with mh, by connection sync with rr.
func TestFlowsKeepTheirRealAcrossDirectors(t *testing.T) {
	for name, body := range map[string]func(f *fabric) string{
		"mh without sync": func(*fabric) string { return fabricBody(hashed, "sloppy_tcp: true\n") },
		"rr with sync":    func(f *fabric) string { return fabricBody("    scheduler: rr\n", f.syncBody()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t)
			f.direct(fabricDirectors, body(f))
			flows := f.openFlows(share(50_000))
			time.Sleep(time.Second) // as old as a connection has to be, on a busy machine
			for _, step := range []struct {
				what string
				do   func()
			}{
				{"d1 leaves", func() { must(t, f.Leave("d1")); f.awaitPath("d1", false) }},
				{"d1 joins", func() { must(t, f.Start(t.Context(), "d1")); f.awaitPath("d1", true) }},
				{"d2 is killed", func() { f.Daemons["d2"].Kill(); f.awaitPath("d2", false) }},
				{"d2 joins", func() { must(t, f.Start(t.Context(), "d2")); f.awaitPath("d2", true) }},
			} {
				before := f.forwarded()
				step.do()
				if n := flows.changed(); n != 0 {
					t.Errorf("%s: %d of %d flows have changed their real", step.what, n, len(flows.home))
				}
				t.Logf("%s: packets by director %v before, %v after", step.what, before, f.forwarded())
			}
			// d1 had just joined when it lost d2 as a peer.
			out, err := f.LVX(t.Context(), "d1", "history", "--kind", "route")
			must(t, err)
			if strings.Contains(out, "withdrawn: connection sync") {
				t.Errorf("d1 withdrew the VIP when another director went away:\n%s", out)
			}
		})
	}
}

// syncBody is `sync:` between all directors.
func (f *fabric) syncBody() string {
	f.t.Helper()
	key := filepath.Join(f.t.TempDir(), "sync.key")
	must(f.t, os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600))
	var peers []string
	for _, d := range fabricDirectors {
		peers = append(peers, f.address(d))
	}
	return fmt.Sprintf("sync: {peers: [%s], key_file: %s}\n", strings.Join(peers, ", "), key)
}

// forwarded is how many packets each director has forwarded.
func (f *fabric) forwarded() map[string]uint64 {
	f.t.Helper()
	n := map[string]uint64{}
	for _, d := range fabricDirectors {
		if out, err := f.LVX(f.t.Context(), d, "metrics"); err == nil {
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, `lvx_packets_total{verdict="forwarded"}`) {
					var v float64
					_, _ = fmt.Sscan(strings.Fields(line)[1], &v)
					n[d] = uint64(v)
				}
			}
		}
	}
	return n
}
