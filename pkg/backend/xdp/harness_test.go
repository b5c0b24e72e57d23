package xdp

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
)

// segment is a made-up network: every address answers, unless it is silent.
// What hosts names is as it says.
type segment struct {
	silent map[netip.Addr]string
	local  map[netip.Addr]bool
	hosts  map[netip.Addr]Neighbor
	asking bool // nobody has answered yet

	routes  []Route
	version uint64
	said    string // what it knew when that was given
}

func (s *segment) Version() uint64 {
	if now := fmt.Sprint(s.silent, s.local, s.hosts, s.asking, s.routes); now != s.said {
		s.said = now
		s.version++
	}
	return s.version
}

func (s *segment) Routes() []Route { return s.routes }

func (s *segment) Lookup(a netip.Addr) Neighbor {
	if n, ok := s.hosts[a]; ok {
		return n
	}
	if s.asking {
		return Neighbor{Err: "not asked yet", Pending: true}
	}
	if why := s.silent[a]; why != "" {
		return Neighbor{Err: why, Device: "lvx0", IfIndex: 1, Source: directorMAC, MTU: 1500}
	}
	if s.local[a] || a.IsLoopback() {
		return Neighbor{Local: true}
	}
	b := a.As16()
	return Neighbor{
		MAC: [6]byte{2, 0, b[12], b[13], b[14], b[15]}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500,
	}
}

// macOwner is the inverse of segment.Lookup.
func macOwner(mac []byte) netip.Addr { return netip.AddrFrom4([4]byte(mac[2:6])) }

var (
	directorMAC = [6]byte{2, 0, 0, 0, 0, 1}
	clientMAC   = [6]byte{2, 0, 0, 0, 0, 200}
	pinCount    atomic.Int32
)

var allInPieces = flag.Bool("pieces", false, "tables of flows lie in pieces, as large ones do")

// harness is a backend whose program is run packet by packet.
type harness struct {
	*Backend
	t    testing.TB
	home testing.TB // whose namespace the interface is in
	net  *segment
	opts Options

	trace *trace // the one that was begun last
}

// quiet drops logs; -v shows them.
func quiet(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	return slog.New(slog.DiscardHandler)
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// newHarness opens a backend on a veth in a network namespace of its own.
func newHarness(t testing.TB, flows, templates int) *harness {
	t.Helper()
	return openHarness(t, Options{Flows: flows, Templates: templates})
}

// newStill is a harness whose clock only the test moves, so that it knows the
// time of every packet. reset empties it for the next case.
func newStill(t testing.TB, flows, templates int) *harness {
	t.Helper()
	return openHarness(t, Options{Flows: flows, Templates: templates, StillClock: true})
}

// manyAnswers is a limit of answers per second that no test meets unless it sets
// another: how much a test sends in a second is the machine's affair.
const manyAnswers = 1 << 30

func openHarness(t testing.TB, o Options) *harness {
	t.Helper()
	h := &harness{t: t, home: t, net: newSegment(), opts: o}
	h.opts.Log, h.opts.Mode = quiet(t), loader.Auto
	if len(h.opts.Interfaces) == 0 {
		h.opts.Interfaces = []string{"lvx0"}
	}
	h.opts.PinDir = fmt.Sprintf("/sys/fs/bpf/lvx-test-%d-%d", os.Getpid(), pinCount.Add(1))
	h.opts.Neighbors, h.opts.NoSweeper = h.net, true
	if *allInPieces {
		h.opts.PiecesFrom = 1
	}
	h.Backend = openIn(t, h.opts)
	h.dp.Settings.Answers = manyAnswers
	t.Cleanup(func() { _ = h.Close(false) })
	return h
}

func newSegment() *segment {
	return &segment{silent: map[netip.Addr]string{}, local: map[netip.Addr]bool{}}
}

// reset empties the tables and forgets everything but the loaded program,
// which takes a thousand times as long to load. t is who asks now.
func (h *harness) reset(t testing.TB) {
	t.Helper()
	d := h.dp
	*d.Settings = bpf.Settings{Version: d.Settings.Version, Seed: d.Settings.Seed, Answers: manyAnswers}
	clear(d.VIPs)
	clear(d.Ports)
	must(t, d.EmptyFlows())
	clear(d.Templates)
	clear(d.Templates6)
	clear(d.Leases)
	*d.Takeover = 0
	clear(d.Reals[:h.slots.next])
	clear(d.Loads[:h.slots.next])
	clear(d.Shares[:(h.slots.next+bpf.Shares-1)&^(bpf.Shares-1)])
	clear(d.Replies)
	clear(d.Labels)
	for i := range d.Interfaces {
		d.Interfaces[i].Peer = [len(d.Interfaces[i].Peer)]bpf.Peer{}
	}
	empty(t, d.Maps.Filters, bpf.FilterKey{})
	empty(t, d.Maps.Fragments, bpf.FragmentKey{})
	empty(t, d.Maps6.Fragments6, [40]byte{}) // struct fragment_key6
	stop := h.stop
	h.net = newSegment()
	h.opts.Neighbors = h.net
	h.t, h.Backend = t, newBackend(d, h.opts)
	h.stop = stop
}

// empty deletes every key of a hash map.
func empty[K any](t testing.TB, m *ebpf.Map, k K) {
	t.Helper()
	for m.NextKey(nil, &k) == nil {
		must(t, m.Delete(k))
	}
}

// openIn opens a backend inside a fresh namespace that has the interface.
func openIn(t testing.TB, o Options) *Backend {
	t.Helper()
	return openAs(t, directorMAC, o)
}

// openAs opens a backend on an interface with this MAC.
func openAs(t testing.TB, mac [6]byte, o Options) *Backend {
	t.Helper()
	inNamespace(t, func() {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lvx0", HardwareAddr: mac[:]}, PeerName: "peer0"}
		must(t, netlink.LinkAdd(veth))
		must(t, netlink.LinkSetUp(veth))
	})
	var b *Backend
	inNamespace(t, func() {
		var err error
		if b, err = Open(context.Background(), o); err != nil {
			t.Fatalf("open: %v", err)
		}
	})
	return b
}

var space = map[testing.TB]netns.NsHandle{}

// inNamespace runs f on a thread in the test's own network namespace.
func inNamespace(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	must(t, err)
	defer home.Close()
	defer func() { must(t, netns.Set(home)) }()
	if ns, ok := space[t]; ok {
		must(t, netns.Set(ns))
	} else {
		ns, err := netns.New()
		must(t, err)
		space[t] = ns
		t.Cleanup(func() {
			_ = ns.Close()
			delete(space, t)
		})
	}
	f()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Apply runs where the interface is.
func (h *harness) Apply(ctx context.Context, s lb.State) (err error) {
	inNamespace(h.home, func() { err = h.Backend.Apply(ctx, s) })
	return err
}

// Explain runs where the interface is.
func (h *harness) Explain(p lb.Packet) (x lb.Explanation, err error) {
	inNamespace(h.home, func() { x, err = h.Backend.Explain(p) })
	return x, err
}

// Send runs one packet through the program.
func (h *harness) Send(p lb.Packet) lbtest.Outcome {
	if h.dp.Program("lvx0").FD() < 0 {
		return lbtest.Outcome{Verdict: "closed"}
	}
	out, action := h.runFrame(frame(p))
	o := lbtest.Outcome{Verdict: fmt.Sprintf("action %d", action)}
	switch {
	case action == 3: // XDP_TX
		if out[23] == 1 && p.Proto != 1 {
			o.Verdict = fmt.Sprintf("icmp %d/%d", out[34], out[35])
			return o
		}
		o.Real = macOwner(out[0:6])
	}
	return o
}

// runFrame runs one frame and returns what came out and XDP's action.
func (h *harness) runFrame(in []byte) ([]byte, uint32) {
	h.t.Helper()
	out := make([]byte, len(in)+256)
	opts := &ebpf.RunOptions{Data: in, DataOut: out}
	action, err := h.dp.Program("lvx0").Run(opts)
	if err != nil {
		h.t.Fatalf("run: %v", err)
	}
	return opts.DataOut, action
}

// vip finds a VIP in the half in force.
func (b *Backend) vip(a netip.Addr) (bpf.VIP, bool) {
	half := b.dp.Settings.Half & 1
	for _, line := range b.dp.VIPs[half*bpf.VIPLines : (half+1)*bpf.VIPLines] {
		for _, v := range line.Way {
			if v.TCP|v.UDP != 0 && v.Addr.Addr() == a {
				return v, true
			}
		}
	}
	return bpf.VIP{}, false
}

// Damage wipes the lookup tables.
func (h *harness) Damage() error {
	clear(h.dp.VIPs)
	return nil
}

// Pass lets time pass, in steps short enough for the sweeper.
func (h *harness) pass(ticks int) {
	for ticks > 0 {
		n := min(ticks, 5)
		h.dp.Settings.Clock += uint64(n)
		h.Sweep()
		ticks -= n
	}
}

// frame builds an Ethernet frame of 60 bytes or more.
func frame(p lb.Packet) []byte { return frameOf(p, 0) }

func frameOf(p lb.Packet, payload int) []byte {
	l4 := 8
	if p.Proto == lb.TCP {
		l4 = 20
	}
	b := make([]byte, max(14+20+l4+payload, 60))
	copy(b[0:], directorMAC[:])
	copy(b[6:], clientMAC[:])
	b[12], b[13] = 8, 0
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, byte(p.Proto)
	binary.BigEndian.PutUint16(ip[2:], uint16(20+l4+payload))
	src, dst := p.Src.Addr().As4(), p.Dst.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ipSum(ip[:20]))
	binary.BigEndian.PutUint16(ip[20:], p.Src.Port())
	binary.BigEndian.PutUint16(ip[22:], p.Dst.Port())
	if p.Proto == lb.TCP {
		ip[32], ip[33] = 0x50, tcpFlags(p.Flags)
	} else {
		binary.BigEndian.PutUint16(ip[24:], uint16(8+payload))
	}
	return b
}

func tcpFlags(s string) byte {
	if s == "" {
		s = "S"
	}
	var f byte
	for _, c := range s {
		f |= map[rune]byte{'F': 1, 'S': 2, 'R': 4, 'P': 8, 'A': 16}[c]
	}
	return f
}

func ipSum(h []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		if i != 10 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// standby and leased are what a state says of VIPs that VRRP decides about.
func standby(vips ...netip.Addr) (all []lb.VIP) {
	for _, v := range vips {
		all = append(all, lb.VIP{Addr: v, Owner: "VI_1", Standby: true})
	}
	return all
}

func leased(id uint32, vips ...netip.Addr) (all []lb.VIP) {
	for _, v := range vips {
		all = append(all, lb.VIP{Addr: v, Owner: "VI_1", Leased: true, Lease: id})
	}
	return all
}
