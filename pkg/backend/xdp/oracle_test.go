package xdp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/oracle"
)

// The differential test: random configurations, edits, packets and times, on
// the packet path and on the oracle, compared after every step. A failure is
// shrunk, and printed with its seed.
//
//	LVX_ORACLE_STEPS=10000000 go test -run TestOracle -timeout 2h ./pkg/backend/xdp
//	go test -run TestOracle ./pkg/backend/xdp -rapid.seed=N
const (
	oracleSteps = 200_000 // of a run that does not say how many
	caseSteps   = 250
)

// duel is one case: both directors, and the world around them.
type duel struct {
	*harness
	ledger  *ledger
	rt      *rapid.T
	oracle  *oracle.Director
	state   lb.State
	hosts   map[netip.Addr]oracle.Host
	lives   map[uint32]bool
	known   []endpoints     // that packets were sent between
	open    []lb.Connection // as they were compared last
	held    []byte          // what a first fragment was cut from
	generic bool            // the interface is said to run generic XDP
	unsure  bool            // time has passed without a sweep: counts of connections may lag
	out     []byte
	byNAT   map[realOfName]bool // of reals that were drawn before
}

// realOfName is a real, by the name of its service.
type realOfName struct {
	service string
	real    netip.AddrPort
}

type endpoints struct {
	proto    lb.Protocol
	src, dst netip.AddrPort
}

func TestOracle(t *testing.T) {
	steps := oracleSteps
	if s := os.Getenv("LVX_ORACLE_STEPS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		steps = n
	}
	setFlag(t, "rapid.checks", strconv.Itoa((steps+caseSteps-1)/caseSteps))
	setFlag(t, "rapid.nofailfile", "true")
	h := newStill(t, 1024, 1024) // a listing is read after every step; no case fills a quarter
	done, seen := 0, map[string]uint64{}
	start := time.Now()
	inNamespace(t, func() {
		rapid.Check(t, func(rt *rapid.T) {
			d := newDuel(h, rt)
			for range caseSteps {
				d.step()
				done++
			}
			d.ledger.compareVerdicts()
			for name, n := range d.ledger.want {
				seen[name] += n
			}
		})
	})
	t.Logf("%d steps in %s: %v", done, time.Since(start).Round(time.Second), seen)
}

// setFlag sets a flag of rapid for one test, unless the command line did.
func setFlag(t *testing.T, name, value string) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return
	}
	f := flag.Lookup(name)
	before := f.Value.String()
	must(t, f.Value.Set(value))
	t.Cleanup(func() { _ = f.Value.Set(before) })
}

func newDuel(h *harness, rt *rapid.T) *duel {
	h.reset(h.home)
	h.grace = func() {} // no packet runs beside the edits
	d := &duel{harness: h, rt: rt, hosts: map[netip.Addr]oracle.Host{}, lives: map[uint32]bool{}, byNAT: map[realOfName]bool{}}
	d.state.ExpireNodestConn = true
	// Not drawn as they are: rapid likes small numbers, under which all flows
	// would meet in one set and evict each other.
	seed := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "hash seed"), 0))
	for i := range h.dp.Settings.Seed {
		h.dp.Settings.Seed[i] = seed.Uint64()
	}
	// Flows count time in 16 bits, templates in 24: begin where they wrap.
	h.dp.Settings.Clock = rapid.SampledFrom([]uint64{1 << 20, 1<<16 - 100, 1<<24 - 300, 0}).Draw(rt, "clock")
	h.net.hosts = map[netip.Addr]Neighbor{}
	for _, a := range allHosts {
		d.drawHost(a)
	}
	d.generic = rapid.Bool().Draw(rt, "generic mode")
	d.oracle = oracle.New(oracle.World{
		MAC: directorMAC, IfIndex: ingress, MTU: duelMTU, Generic: d.generic, Own: []netip.Addr{ownAddr}, Tick: ticksDuration(1),
		Host:        func(a netip.Addr) oracle.Host { return d.hosts[a] },
		Lives:       func(id uint32) bool { return d.lives[id] },
		ExpectsNews: func() bool { return *d.dp.Takeover != 0 },
		Way:         d.wayTo,
		Order:       d.repliesFrom,
	})
	d.drawRoutes()
	d.ledger = newLedger(rt, h.dp)
	d.drawState()
	d.applyBoth("state")
	return d
}

// setHost makes both sides see the same host.
func (d *duel) setHost(a netip.Addr, o oracle.Host) {
	d.hosts[a] = o
	n := Neighbor{MAC: o.MAC, Source: o.Source, IfIndex: o.IfIndex, MTU: o.MTU, Device: "lvx0", From: o.From, Local: o.Local}
	if o.Far {
		n.Gateway = farGateway
	}
	if o.Silent {
		n.Err = "silent"
	}
	d.net.hosts[a] = n
}

// wayTo is how a reply by NAT gets to a client.
func (d *duel) wayTo(client netip.Addr) (oracle.Host, bool) {
	for _, r := range d.net.routes {
		if r.To.Contains(client) {
			h := d.hosts[r.Gateway]
			return h, h.MAC != ([6]byte{}) && !h.Far
		}
	}
	return oracle.Host{}, false
}

// duelMTU is that of the interface that frames come by.
const duelMTU = 300

// setInterface says of the interface what the oracle was told; an Apply reads
// it from the test's own.
func (d *duel) setInterface() {
	i := &d.dp.Interfaces[0]
	i.Mode, i.MTU = bpf.ModeNative, duelMTU
	if d.generic {
		i.Mode = bpf.ModeGeneric
	}
	i.Own = [len(i.Own)]bpf.Address{bpf.AddressOf(ownAddr)}
}

func (d *duel) applyBoth(what string) {
	d.rt.Logf("%s: %+v", what, d.state)
	if err := d.Backend.Apply(context.Background(), d.state); err != nil {
		d.rt.Fatalf("apply %+v: %v", d.state, err)
	}
	d.setInterface()
	d.oracle.Apply(d.state)
	for id := range uint32(2) {
		if err := d.Renew(id, map[bool]time.Duration{true: time.Hour}[d.lives[id]]); err != nil {
			d.rt.Fatal(err)
		}
	}
}

// step is one packet, edit, or stretch of time.
func (d *duel) step() {
	switch n := rapid.IntRange(0, 99).Draw(d.rt, "step"); {
	case n < 90:
		d.frame(d.drawFrame())
	case n < 94:
		before := d.state.Timeouts
		d.drawEdit()
		d.applyBoth("edit")
		if d.state.Timeouts != before {
			d.lapse()
		}
	default:
		d.pass()
	}
	d.compare()
}

// pass lets time pass.
func (d *duel) pass() {
	ticks := rapid.SampledFrom([]int{1, 5, 11, 12, 13, 29, 47, 58, 59, 60, 61, 117, 118, 119, 292, 294, 878, 880, 3000}).Draw(d.rt, "ticks")
	d.dp.Settings.Clock += uint64(ticks)
	d.oracle.Pass(ticks)
	d.lapse()
}

// lapse is for when connections may have expired: often with a sweep, which
// schedulers that count connections need.
func (d *duel) lapse() {
	if d.unsure = !slices.ContainsFunc(d.state.Services, countsConnections) && rapid.IntRange(0, 3).Draw(d.rt, "no sweep") == 0; !d.unsure {
		d.Sweep()
		d.oracle.Sweep()
	}
}

// countsConnections reports whether a service chooses a real by how many
// connections the reals have.
func countsConnections(s lb.Service) bool {
	return slices.Contains([]lb.Scheduler{lb.LC, lb.WLC, lb.SED, lb.NQ, lb.OVF}, s.Scheduler) ||
		slices.ContainsFunc(s.Reals, func(r lb.Real) bool { return r.Upper > 0 })
}

// frame sends one frame through both.
func (d *duel) frame(what string, in []byte) {
	d.rt.Logf("%s: %x", what, in)
	explained := d.explain(in)
	want := d.oracle.Packet(in)
	explained(want)
	d.out = slices.Grow(d.out[:0], len(in)+256)[:len(in)+256]
	opts := &ebpf.RunOptions{Data: in, DataOut: d.out}
	action, err := d.dp.Program("lvx0").Run(opts)
	if err != nil {
		d.rt.Fatalf("run %x: %v", in, err)
	}
	verdict := d.ledger.verdictOf(want.Verdict)
	if action != want.Action || verdict != want.Verdict {
		d.rt.Fatalf("%s: %s, action %d; the oracle says %s, %d\n%x", what, verdict, action, want.Verdict, want.Action, in)
	}
	if want.Frame == nil {
		return
	}
	got := opts.DataOut
	allowAny(got, want)
	if !bytes.Equal(got, want.Frame) {
		d.rt.Fatalf("%s: %s, frame\n%x in\n%x out\n%x the oracle's", what, verdict, in, got, want.Frame)
	}
}

// allowAny takes into want what a frame of the director's own may have of any value: the
// identification of an IPv4 header whose checksum is right, and the port that a tunnel
// by GUE comes from, and the address that any does, of those that flows are spread over.
func allowAny(got []byte, want oracle.Outcome) {
	if at := want.AnyFrom; at > 0 && len(got) >= at+want.Spread.Addr().BitLen()/8 {
		allowFrom(got, want)
	}
	if at := want.AnyID; at > 0 && len(got) >= at+20 && oracle.Checksum(got[at:at+20]) == 0 {
		copy(want.Frame[at+4:at+6], got[at+4:])
		copy(want.Frame[at+10:at+12], got[at+10:])
	}
	if at := want.AnyPort; at > 0 && len(got) >= at+2 && binary.BigEndian.Uint16(got[at:]) >= uint16(bpf.SpreadPorts) {
		copy(want.Frame[at:at+2], got[at:])
	}
}

// allowFrom is allowAny for the address that an outer header comes from.
func allowFrom(got []byte, want oracle.Outcome) {
	at := want.AnyFrom
	from, _ := netip.AddrFromSlice(got[at : at+want.Spread.Addr().BitLen()/8])
	if !want.Spread.Contains(from) {
		return
	}
	copy(want.Frame[at:], from.AsSlice())
	if from.Is4() {
		header := want.Frame[at-12 : at+8]
		header[10], header[11] = 0, 0
		binary.BigEndian.PutUint16(header[10:], oracle.Checksum(header))
	}
}

// explain asks what would become of an ordinary packet, before it is sent,
// and returns what compares the answer with what became of it.
func (d *duel) explain(in []byte) func(oracle.Outcome) {
	if len(in) < 60 || in[12] != 8 || in[13] != 0 || in[14] != 0x45 || in[20]&0x3f != 0 || in[21] != 0 || in[22] < 2 ||
		in[23] != 6 && in[23] != 17 || !bytes.Equal(in[:6], directorMAC[:]) || binary.BigEndian.Uint16(in[16:]) > 60 {
		return func(oracle.Outcome) {}
	}
	if length := binary.BigEndian.Uint16(in[16:]); length < 28 || in[23] == 6 && length < 40 {
		return func(oracle.Outcome) {} // malformed: of the frame, not of the packet
	}
	p := lb.Packet{
		Proto: lb.Protocol(in[23]),
		Src:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(in[26:30])), binary.BigEndian.Uint16(in[34:])),
		Dst:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(in[30:34])), binary.BigEndian.Uint16(in[36:])),
		Flags: "-",
	}
	for i, c := range "FSRPA" {
		if p.Proto == lb.TCP && in[47]>>i&1 != 0 {
			p.Flags += string(c)
		}
	}
	x, err := d.Explain(p)
	if err != nil {
		d.rt.Fatal(err)
	}
	return func(want oracle.Outcome) {
		if want.Verdict == "from_peer" || want.Verdict == "malformed" {
			return // of the frame, not of the packet
		}
		real := ""
		if want.Real.IsValid() {
			real = want.Real.String()
		}
		same := x.Verdict == want.Verdict || x.Verdict == "redirected" && want.Verdict == "forwarded"
		if !same || x.Real != real {
			d.rt.Fatalf("explained %+v: %s, real %q, %q; the oracle says %s, real %q", p, x.Verdict, x.Real, x.Steps, want.Verdict, real)
		}
	}
}

// compare compares the tables.
func (d *duel) compare() {
	got, err := d.Connections(0)
	if err != nil {
		d.rt.Fatal(err)
	}
	want := d.oracle.Connections()
	slices.SortFunc(got, byClient)
	slices.SortFunc(want, byClient)
	d.open = slices.DeleteFunc(slices.Clone(got), func(c lb.Connection) bool { return c.Template })
	if !slices.Equal(got, want) {
		d.rt.Fatalf("connections (-oracle +lvx):\n%s", gocmp.Diff(want, got, gocmp.Comparer(equal[netip.AddrPort])))
	}
	stats, err := d.serviceStats() // of Stats: it alone changes with every packet
	if err != nil {
		d.rt.Fatal(err)
	}
	counts := d.oracle.Stats()
	if d.unsure {
		for _, list := range [][]lb.ServiceStats{stats, counts} {
			for _, s := range list {
				for i := range s.Reals {
					s.Reals[i].Active, s.Reals[i].Inactive = 0, 0
				}
			}
		}
	}
	same := func(a, b lb.ServiceStats) bool {
		return a.Name == b.Name && a.Counters == b.Counters && slices.Equal(a.Reals, b.Reals)
	}
	if !slices.EqualFunc(stats, counts, same) {
		d.rt.Fatalf("counters (-oracle +lvx):\n%s", gocmp.Diff(counts, stats, gocmp.Comparer(equal[netip.Addr])))
	}
}

func equal[T comparable](a, b T) bool { return a == b }

func byClient(a, b lb.Connection) int {
	template := func(c lb.Connection) int {
		if c.Template {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(template(a), template(b)), cmp.Compare(a.Proto, b.Proto), a.Client.Compare(b.Client),
		a.Virtual.Compare(b.Virtual), cmp.Compare(a.Service, b.Service),
	)
}
