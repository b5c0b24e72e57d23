package xdp

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/oracle"
)

// trial is the packet path and the oracle, in one configuration that has
// something of everything, for frames that nobody should send.
type trial struct {
	*harness
	t      *testing.T
	oracle *oracle.Director
	base   map[string]uint64 // verdicts before the first frame,
	want   map[string]uint64 // and what the oracle has said since
	out    []byte
	frames int
	since  int // the last comparison of verdicts
	often  int // they are compared: frames between
	action [5]int
}

const trialTable = 65536

// newTrial empties the tables and begins anew.
func newTrial(t *testing.T, h *harness) *trial {
	t.Helper()
	h.reset(t)
	h.grace = func() {} // no packet runs beside the edits
	h.net.hosts = map[netip.Addr]Neighbor{}
	hosts := map[netip.Addr]oracle.Host{}
	for _, a := range allHosts {
		b := a.As16()
		o := oracle.Host{MAC: [6]byte{2, 0, b[12], b[13], b[14], b[15]}, Source: directorMAC, IfIndex: ingress, MTU: 1500, From: ownAddr}
		switch a {
		case thisHost, realN(7):
			o = oracle.Host{Local: true}
		case realN(5): // by another interface
			o.IfIndex, o.MTU = 2, 1000
		case peerAddr:
			o.IfIndex = h.dp.Attachments[0].Index
		}
		hosts[a] = o
		h.net.hosts[a] = Neighbor{MAC: o.MAC, Source: o.Source, IfIndex: o.IfIndex, MTU: o.MTU, Device: "lvx0", From: o.From, Local: o.Local}
	}
	h.net.routes = []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: farGateway}}
	for n := range 8 {
		a := realN6(n + 1)
		o := oracle.Host{MAC: mac6(a), Source: directorMAC, IfIndex: ingress, MTU: 1500, From: ownAddr6}
		switch n + 1 {
		case 7:
			o = oracle.Host{Local: true}
		case 5: // by another interface
			o.IfIndex, o.MTU = 2, 1280
		}
		hosts[a] = o
		h.net.hosts[a] = Neighbor{MAC: o.MAC, Source: o.Source, IfIndex: o.IfIndex, MTU: o.MTU, Device: "lvx0", From: o.From, Local: o.Local}
	}
	// Names that no two addresses of the trial share: what twins do is TestOracle6's.
	h.dp.Settings.NameKey = [...]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f}
	x := &trial{harness: h, t: t, often: 2000, want: map[string]uint64{}, base: h.counted()}
	x.oracle = oracle.New(oracle.World{
		MAC: directorMAC, IfIndex: ingress, MTU: 1500, IPv6: true, Own: []netip.Addr{ownAddr}, Tick: ticksDuration(1),
		Host:        func(a netip.Addr) oracle.Host { return hosts[a] },
		Lives:       func(id uint32) bool { return id == 0 },
		ExpectsNews: func() bool { return false },
		Name:        h.dp.Settings.NameOf,
		Way:         func(netip.Addr) (oracle.Host, bool) { return hosts[farGateway], true },
		Order:       h.repliesFrom,
	})
	h.apply(trialState())
	h.dp.Interfaces[0].Own = [len(h.dp.Interfaces[0].Own)]bpf.Address{bpf.AddressOf(ownAddr)}
	x.oracle.Apply(trialState())
	must(t, h.Renew(0, time.Hour))
	must(t, h.Renew(1, 0))
	return x
}

// Addresses beside vips that the trial serves, or not any more, and what it serves
// otherwise than by direct routing.
var (
	byNAT      = netip.AddrPortFrom(vips[0], 443)
	byTunnel   = netip.AddrPortFrom(vips[2], 8080)
	standbyVIP = netip.MustParseAddr("10.0.0.103")
	overVIP    = netip.MustParseAddr("10.0.0.104")
)

// trialState is what the trial serves, of both families.
func trialState() lb.State {
	s, six := trialState4(), trialState6()
	s.Services, s.VIPs, s.Deny = append(s.Services, six.Services...), append(s.VIPs, six.VIPs...), append(s.Deny, six.Deny...)
	return s
}

func trialState4() lb.State {
	at := func(a netip.Addr, p lb.Protocol, first, last uint16) lb.Listener {
		return lb.Listener{Addr: a, Proto: p, First: first, Last: last}
	}
	reals := func(ns ...int) (rs []lb.Real) {
		for _, n := range ns {
			rs = append(rs, lb.Real{Addr: realN(n), Weight: uint16(n % 3)})
		}
		return rs
	}
	return lb.State{
		ExpireNodestConn: true,
		Services: []lb.Service{
			{Name: "web", Scheduler: lb.RR, Mark: 1, Reals: reals(1, 2), Listeners: []lb.Listener{at(vips[0], lb.TCP, 80, 80), at(vips[0], lb.UDP, 80, 80)}},
			{Name: "dns", Scheduler: lb.WRR, Reals: reals(1, 2, 4), OnePacket: true, Listeners: []lb.Listener{at(vips[0], lb.UDP, 53, 53)}},
			{Name: "range", Scheduler: lb.SH, Reals: reals(4, 5, 6), Listeners: []lb.Listener{at(vips[0], lb.TCP, 8000, 8100)}},
			{
				Name: "all", Scheduler: lb.MH, Mark: 2, Reals: reals(1, 4, 7), Persistence: lb.Persistence{Timeout: time.Minute, Prefix: 24},
				Listeners: []lb.Listener{at(vips[1], lb.TCP, 0, 0), at(vips[1], lb.UDP, 0, 0)},
			},
			{Name: "none", Scheduler: lb.RR, Reals: reals(3), Listeners: []lb.Listener{at(vips[2], lb.TCP, 80, 80), at(vips[2], lb.UDP, 80, 80)}},
			{
				Name: "nat", Scheduler: lb.RR, Mark: 3, Reals: []lb.Real{{Addr: natReal.Addr(), Port: natReal.Port(), Weight: 1, Forward: lb.NAT}},
				Listeners: []lb.Listener{at(byNAT.Addr(), lb.TCP, byNAT.Port(), byNAT.Port()), at(byNAT.Addr(), lb.UDP, byNAT.Port(), byNAT.Port())},
			},
			{
				Name: "tunnel", Scheduler: lb.RR, Mark: 4, Reals: []lb.Real{{Addr: realN(2), Weight: 1, Forward: lb.Tunnel}, {Addr: realN(5), Weight: 1, Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: 5555}}, {Addr: realN6(1), Weight: 1, Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: 5555}}},
				Listeners: []lb.Listener{at(byTunnel.Addr(), lb.TCP, byTunnel.Port(), byTunnel.Port()), at(byTunnel.Addr(), lb.UDP, byTunnel.Port(), byTunnel.Port())},
			},
			{Name: "old", Scheduler: lb.RR, Reals: reals(1), Listeners: []lb.Listener{at(standbyVIP, lb.TCP, 80, 80)}},
			{Name: "over", Scheduler: lb.RR, Reals: reals(1), Listeners: []lb.Listener{at(overVIP, lb.TCP, 80, 80)}},
		},
		VIPs:         slices.Concat(standby(standbyVIP), leased(0, vips[0]), leased(1, overVIP)),
		Peers:        []netip.Addr{peerAddr},
		Deny:         []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		OuterSources: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26"), netip.MustParsePrefix("2001:db8:f::/64")},
	}
}

// counted gives the verdicts that were counted, by name.
func (h *harness) counted() map[string]uint64 {
	h.t.Helper()
	vs := h.verdicts()
	m := map[string]uint64{}
	for _, v := range vs {
		m[v.Name] = v.Count
	}
	return m
}

// send sends a frame through both. What one forwards the other forwards, to
// the same MAC and byte for byte; what is passed is passed as it came.
func (x *trial) send(what string, in []byte) {
	want := x.oracle.Packet(in)
	x.out = slices.Grow(x.out[:0], len(in)+256)[:len(in)+256]
	opts := &ebpf.RunOptions{Data: in, DataOut: x.out}
	action, err := x.dp.Program("lvx0").Run(opts)
	if err != nil {
		x.t.Fatalf("%s: run %x: %v", what, in, err)
	}
	x.frames++
	x.want[want.Verdict]++
	if action != want.Action {
		x.t.Fatalf("%s: action %d, the oracle says %s, %d\n%x", what, action, want.Verdict, want.Action, in)
	}
	x.action[action]++
	if want.Frame != nil {
		x.compareFrames(what, in, opts.DataOut, want)
	}
	if x.since++; x.since >= x.often {
		x.compareVerdicts(what)
	}
}

func (x *trial) compareFrames(what string, in, out []byte, want oracle.Outcome) {
	allowAny(out, want)
	if !bytes.Equal(out, want.Frame) {
		x.t.Fatalf("%s: %s, frame\n%x in\n%x out\n%x the oracle's", what, want.Verdict, in, out, want.Frame)
	}
}

// compareVerdicts compares what was counted.
func (x *trial) compareVerdicts(what string) {
	for name, n := range x.counted() {
		if n -= x.base[name]; n != x.want[name] {
			x.t.Fatalf("%s counted %d times, the oracle says %d (within %d frames before a %s)", name, n, x.want[name], x.since, what)
		}
	}
	x.since = 0
}

// done compares what is left to compare, and adds up.
func (x *trial) done(total *[5]int) {
	x.compareVerdicts("the end")
	for i, n := range x.action {
		total[i] += n
	}
}

// kernelLog is the kernel's messages from now on; nil where they cannot be
// read.
func kernelLog(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Seek(fd, 0, io.SeekEnd)
	}
	if err != nil {
		t.Logf("the kernel's messages cannot be read: %v", err)
		return nil
	}
	return os.NewFile(uintptr(fd), "kmsg")
}

var complaint = regexp.MustCompile(`BUG:|WARNING:|Oops|general protection|KASAN|UBSAN|XDP|rcu.*stall`)

// complaints reads the messages that have come since.
func complaints(t *testing.T, f *os.File) {
	t.Helper()
	if f == nil {
		return
	}
	defer f.Close()
	buf := make([]byte, 8192)
	for {
		n, err := unix.Read(int(f.Fd()), buf)
		if errors.Is(err, unix.EPIPE) {
			continue // messages were overwritten
		}
		if err != nil || n == 0 {
			return
		}
		if complaint.Match(buf[:n]) {
			t.Errorf("the kernel complains: %s", buf[:n])
		}
	}
}

// Every frame of the corpus, the packet path beside the oracle.
func TestHostileCorpus(t *testing.T) {
	log := kernelLog(t)
	h := openHarness(t, Options{Flows: trialTable, Templates: 4096, StillClock: true, IPv6: true})
	var total [5]int
	for _, c := range slices.Concat(corpus(), corpus6()) {
		t.Run(c.name, func(t *testing.T) {
			x := newTrial(t, h)
			for what, in := range settlers() {
				x.send(what, in)
			}
			settlers6(x.send)
			c.frames(func(in []byte) { x.send(c.name, in) })
			x.done(&total)
			t.Logf("%d frames", x.frames)
		})
	}
	t.Logf("dropped, passed, sent, redirected: %v", total[1:])
	complaints(t, log)
}

// noiseFrames is how many frames of noise are sent, unless the environment
// says for how long:
//
//	LVX_HOSTILE_SECONDS=60 go test -v -run TestHostile ./pkg/backend/xdp
//	LVX_HOSTILE_SEED=17 go test -v -run TestHostileNoise ./pkg/backend/xdp # one seed again, frame by frame
const noiseFrames = 200_000

// seedFrom is the seed that the environment says, else another one each time.
func seedFrom(t *testing.T, variable string) (seed uint64, isChosen bool) {
	t.Helper()
	seed = uint64(time.Now().UnixNano())
	if s := os.Getenv(variable); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
		isChosen = true
	}
	t.Logf("seed %d", seed)
	return seed, isChosen
}

func TestHostileNoise(t *testing.T) {
	end, frames := time.Time{}, noiseFrames
	if s := os.Getenv("LVX_HOSTILE_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		end, frames = time.Now().Add(time.Duration(n)*time.Second), 1<<40
	}
	log := kernelLog(t)
	h := openHarness(t, Options{Flows: trialTable, Templates: 4096, StillClock: true, IPv6: true})
	seed, isChosen := seedFrom(t, "LVX_HOSTILE_SEED")
	var total [5]int
	start, sent, replied := time.Now(), 0, uint64(0)
	for round := uint64(0); sent < frames && (end.IsZero() || time.Now().Before(end)); round++ {
		x, n := newTrial(t, h), newNoise(seed+round)
		if isChosen {
			x.often = 1
		}
		for x.frames < 20_000 {
			what, in := n.frame()
			x.send(what, in)
			if x.frames%1000 == 0 {
				x.dp.Settings.Clock += 7
				x.oracle.Pass(7)
			}
		}
		sent, replied = sent+x.frames, replied+x.want["replied"]+x.want["icmp_replied"]
		x.done(&total)
	}
	t.Logf("%d frames in %.1f s; dropped, passed, sent, redirected: %v; replies: %d", sent, time.Since(start).Seconds(), total[1:], replied)
	if replied == 0 {
		t.Errorf("no reply by NAT in %d frames: the noise is too dull", sent)
	}
	for action, n := range total[1:] {
		if n == 0 { // how many depends on the seed: of redirected frames, 31 to 191 were seen
			t.Errorf("action %d never came in %d frames: the noise is too dull", action+1, sent)
		}
	}
	complaints(t, log)
}
