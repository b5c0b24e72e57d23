package judge

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

func service(sched lb.Scheduler, weights ...uint16) lb.Service {
	s := lb.Service{Name: "s0", Scheduler: sched}
	for i, w := range weights {
		s.Reals = append(s.Reals, lb.Real{Addr: onearm.Real(i + 1), Weight: w})
	}
	return s
}

func TestRound(t *testing.T) {
	for _, c := range []struct {
		s    lb.Service
		want int
	}{
		{service(lb.RR, 1, 0, 3), 2},
		{service(lb.WRR, 1, 0, 3), 4},
		{service(lb.WRR, 2, 4, 6), 6},
		{service(lb.RR, 0, 0), 0},
		{service(lb.WRR), 0},
		{service(lb.SH, 1, 1), 0},
	} {
		if got := roundOf(c.s); got != c.want {
			t.Errorf("%s %v: %d, want %d", c.s.Scheduler, c.s.Reals, got, c.want)
		}
	}
}

func connection(client, real string, state string, left time.Duration) lb.Connection {
	return lb.Connection{
		Service: "s0", Proto: lb.TCP, State: state, Expires: left, Client: netip.MustParseAddrPort(client),
		Virtual: netip.MustParseAddrPort("10.0.0.100:80"), Real: netip.MustParseAddrPort(real),
	}
}

func viewOf(text string, conns ...lb.Connection) view {
	v := view{conns: map[string]lb.Connection{}, text: text}
	for _, c := range conns {
		v.conns[connKey(c)] = c
	}
	return v
}

// TestDiffer: every difference that the judge is there for is seen.
func TestDiffer(t *testing.T) {
	base := connection("172.16.0.5:1000", "10.0.0.11:80", "ESTABLISHED", 900*time.Second)
	same := viewOf("text", base)
	if why := differ(same, viewOf("text", base)); why != "" {
		t.Errorf("equal tables: %s", why)
	}
	for name, other := range map[string]view{
		"no connection": viewOf("text"),
		"another real":  viewOf("text", connection("172.16.0.5:1000", "10.0.0.12:80", "ESTABLISHED", 900*time.Second)),
		"another state": viewOf("text", connection("172.16.0.5:1000", "10.0.0.11:80", "FIN_WAIT", 900*time.Second)),
		"another text":  viewOf("text\nmore", base),
	} {
		if why := differ(same, other); why == "" {
			t.Errorf("%s: no difference", name)
		}
		if why := differ(other, same); why == "" {
			t.Errorf("%s, the other way round: no difference", name)
		}
	}
	late := base
	late.Expires -= 5 * time.Second
	if timesDiffer(same, viewOf("text", late)) == nil || timesDiffer(viewOf("text", late), same) == nil {
		t.Error("five seconds were taken for nothing")
	}
	late.Expires += 4 * time.Second
	if err := timesDiffer(same, viewOf("text", late)); err != nil {
		t.Errorf("a second: %v", err)
	}
}

// TestDiscount takes left-out connections out of the numbers.
func TestDiscount(t *testing.T) {
	st := lb.Stats{Services: []lb.ServiceStats{{Name: "s0", Reals: []lb.RealStats{{Addr: onearm.Real(1), Active: 2, Inactive: 2}}}}}
	template := connection("172.16.0.5:0", "10.0.0.11:80", "NONE", time.Minute)
	template.Template = true
	for _, c := range []lb.Connection{
		connection("172.16.0.5:1", "10.0.0.11:80", "SYN_RECV", time.Minute), connection("172.16.0.5:2", "10.0.0.11:80", "CLOSE", time.Minute),
		template, connection("172.16.0.5:3", "10.0.0.12:80", "CLOSE", time.Minute),
	} {
		discount(&st, c)
	}
	if r := st.Services[0].Reals[0]; r.Active != 1 || r.Inactive != 1 {
		t.Errorf("%+v", r)
	}
}

// TestComparable: padding and the identification of answers mean nothing, a
// wrong checksum and everything of a forwarded frame do.
func TestComparable(t *testing.T) {
	frame := icmpAbout(endpoints{proto: lb.TCP, src: netip.MustParseAddrPort("172.16.0.5:1000"), dst: netip.MustParseAddrPort("10.0.0.100:80")}, 3, 3, 64)
	seen := func(real int, change func([]byte)) string {
		b := append(slices.Clone(frame), make([]byte, 10)...)
		change(b)
		return string(comparable(onearm.Seen{Real: real, Frame: gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)}))
	}
	identify := func(b []byte) { // and keep the checksum right
		b[18], b[19], b[24], b[25] = 1, 2, 0, 0
		sum := ipChecksum(b[14:34])
		b[24], b[25] = byte(sum>>8), byte(sum)
	}
	unchanged := seen(0, func([]byte) {})
	if unchanged != seen(0, func(b []byte) { b[len(b)-1] = 1 }) || unchanged != seen(0, identify) {
		t.Error("padding or identification made a difference")
	}
	if unchanged == seen(0, func(b []byte) { b[19] = 1 }) {
		t.Error("a wrong checksum made none")
	}
	if seen(3, func([]byte) {}) == seen(3, identify) {
		t.Error("the identification of a forwarded packet made none")
	}
}

// TestRemoved: connections of reals that are away are told from others.
func TestRemoved(t *testing.T) {
	before, now := lb.State{ExpireNodestConn: true, Services: []lb.Service{service(lb.RR, 1, 1)}}, lb.State{ExpireNodestConn: true, Services: []lb.Service{service(lb.RR, 1)}}
	if removed(before, now, connection("172.16.0.5:1", "10.0.0.11:80", "CLOSE", 0)) {
		t.Error("rs1 is there")
	}
	if !removed(before, now, connection("172.16.0.5:1", "10.0.0.12:80", "CLOSE", 0)) {
		t.Error("rs2 is not")
	}
	text := describe(before)
	if !strings.Contains(text, "rs1=1 rs2=1") {
		t.Errorf("description %q", text)
	}
}

// Whoever counts may not begin while probes are left, of which lvx has more.
func TestCounts(t *testing.T) {
	limited := func(sched lb.Scheduler) *file {
		s := service(sched, 1, 1)
		s.Reals[1].Upper = 3
		return &file{Service: s}
	}
	away := limited(lb.SH)
	away.out = map[netip.Addr]bool{away.Reals[1].Addr: true}
	for name, c := range map[string]struct {
		f    *file
		want bool
	}{
		"wlc":                                {&file{Service: service(lb.WLC, 1)}, true},
		"sh":                                 {&file{Service: service(lb.SH, 1)}, false},
		"sh with a threshold":                {limited(lb.SH), true},
		"sh, the real with a threshold away": {away, true},
		"rr, which gets none":                {limited(lb.RR), false},
	} {
		if got := counts(c.f.compile()); got != c.want {
			t.Errorf("%s: counts %v, want %v", name, got, c.want)
		}
	}
}

// mh gives a quiesced real the part of the table that its last weight was worth,
// which the kernel forgets as its backend takes the real out and in again.
func TestAlignWeights(t *testing.T) {
	for _, c := range []struct {
		sched       lb.Scheduler
		hasReturned bool
		want        uint16
	}{
		{lb.MH, true, 1},
		{lb.MH, false, 0},
		{lb.RR, true, 0},
	} {
		f := file{Service: service(c.sched, 3, 0), hasReturned: c.hasReturned}
		before := f.Reals
		f.alignWeights()
		if f.Reals[0].Weight != 3 || f.Reals[1].Weight != c.want || before[1].Weight != 0 {
			t.Errorf("%s, returned %v: weights %d and %d, want 3 and %d; before %d", c.sched, c.hasReturned, f.Reals[0].Weight, f.Reals[1].Weight, c.want, before[1].Weight)
		}
	}
}
