package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// manyFlows are connections of clients that are frames and nothing else: sent
// to the router, seen at the reals, never answered.
type manyFlows struct {
	f    *fabric
	home []string // the real of each flow
}

// Each flow has an address and a port of its own.
var clientNetwork = netip.MustParsePrefix("198.18.0.0/15")

// openFlows opens connections until each has been seen at a real, and sends on
// them: they are established.
func (f *fabric) openFlows(count int) *manyFlows {
	f.t.Helper()
	for _, real := range []string{"r1", "r2"} {
		run(f.t, f.Cluster.Host(real), "ip", "route", "add", "blackhole", clientNetwork.String())
	}
	m := &manyFlows{f: f, home: make([]string, count)}
	m.home = m.send(layers.TCP{SYN: true})
	if n := m.changed(); n != 0 {
		f.t.Fatalf("%d of %d flows change their real while nothing happens", n, count)
	}
	return m
}

// changed sends on every flow and returns how many reach another real now.
func (m *manyFlows) changed() (n int) {
	m.f.t.Helper()
	for i, real := range m.send(layers.TCP{ACK: true, PSH: true}) {
		if real != m.home[i] {
			n++
		}
	}
	return n
}

// send sends a segment of every flow until it has been seen at a real, again
// where a queue was full, and returns at which. A flow that reaches none ends
// the test.
func (m *manyFlows) send(segment layers.TCP) []string {
	m.f.t.Helper()
	seen := make([]string, len(m.home))
	eventually(m.f.t, func() error {
		var frames [][]byte
		for i, real := range seen {
			if real == "" {
				frames = append(frames, m.frame(i, segment))
			}
		}
		at := m.capture(frames)
		missing := 0
		for i := range seen {
			if seen[i] == "" {
				seen[i] = at[i]
			}
			if seen[i] == "" {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d flows reach no real", missing, len(seen))
		}
		return nil
	})
	return seen
}

// capture sends frames and returns which flows the reals saw.
func (m *manyFlows) capture(frames [][]byte) map[int]string {
	m.f.t.Helper()
	at := map[int]string{}
	const burst = 500 // what a queue holds
	for len(frames) > 0 {
		n := min(burst, len(frames))
		reals := map[string]func() map[int]bool{}
		for _, real := range []string{"r1", "r2"} {
			c, err := m.f.Cluster.Host(real).Capture("eth0")
			must(m.f.t, err)
			reals[real] = func() map[int]bool {
				got, err := c.Frames()
				must(m.f.t, err)
				flows := map[int]bool{}
				for _, frame := range got {
					if i, ok := flowOf(frame.Data); ok && !frame.Out {
						flows[i] = true
					}
				}
				return flows
			}
			defer c.Close()
		}
		must(m.f.t, m.f.Client.Send("eth0", frames[:n]...))
		for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline); {
			total := 0
			for _, flows := range reals {
				total += len(flows())
			}
			if total >= n {
				break
			}
			time.Sleep(time.Millisecond)
		}
		for real, flows := range reals {
			for i := range flows() {
				at[i] = real
			}
		}
		frames = frames[n:]
	}
	return at
}

// frame is a segment of the i-th flow, from the client's side of the router.
func (m *manyFlows) frame(i int, segment layers.TCP) []byte {
	base := clientNetwork.Addr().As4()
	src := binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(base[:])+uint32(i)+1)
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src, DstIP: net.ParseIP(rig.VIP).To4()}
	segment.SrcPort, segment.DstPort, segment.Window = layers.TCPPort(1024+i%60000), 80, 1024
	must(m.f.t, segment.SetNetworkLayerForChecksum(ip))
	buf := gopacket.NewSerializeBuffer()
	must(m.f.t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: m.f.Client.MAC("eth0"), DstMAC: m.f.router.MAC("eth1"), EthernetType: layers.EthernetTypeIPv4}, ip, &segment))
	return buf.Bytes()
}

// flowOf is the number of the flow that a frame belongs to.
func flowOf(frame []byte) (int, bool) {
	const source, end = 14 + 12, 14 + 20
	if len(frame) < end || frame[12] != 8 || frame[13] != 0 {
		return 0, false
	}
	src, _ := netip.AddrFromSlice(frame[source : source+4])
	base := clientNetwork.Addr().As4()
	i := int(binary.BigEndian.Uint32(frame[source:])) - int(binary.BigEndian.Uint32(base[:])) - 1
	return i, clientNetwork.Contains(src)
}

// Hash-threshold ECMP moves a quarter to a half of all flows to another
// director when one leaves or joins: with mh none changes its real, by the ring
// alone.
func TestFlowsKeepTheirRealAcrossDirectors(t *testing.T) {
	f := newFabric(t)
	f.direct(fabricDirectors, fabricBody(hashed, "sloppy_tcp: true\n"))
	flows := f.openFlows(share(50_000))
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
