package judge

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// edit changes one thing while everything runs.
func (t *trial) edit() error {
	before := t.state
	i := t.rnd.IntN(len(t.files))
	f := &t.files[i]
	what, rotates := t.change(f)
	t.report.Events[what]++
	if was, _ := before.Service(f.Name); counts(f.compile()) && !counts(was) {
		if err := t.outlive(f.Name); err != nil {
			return err
		}
	}
	known, err := t.view(t.kernel, false)
	if err != nil {
		return err
	}
	if what == "return" && t.state.ExpireNodestConn {
		if err := t.renounce(f); err != nil {
			return err
		}
	}
	t.compile()
	if err := t.apply(what + " of " + f.Name); err != nil {
		return err
	}
	t.leaveSorry(known)
	if !t.state.ExpireNodestConn {
		t.mute(known)
	} else if err := t.touch(before, known); err != nil {
		return err
	}
	return t.align(f, rotates)
}

// change edits one service, or a setting. rotates reports whether rr may begin
// its round elsewhere afterwards: the kernel's backend takes reals out and in
// again to keep the order of the file.
func (t *trial) change(f *file) (what string, rotates bool) {
	switch t.rnd.IntN(12) {
	case 0, 1, 2, 3:
		if len(f.Reals) > 0 {
			f.Reals = slices.Clone(f.Reals)
			f.Reals[t.rnd.IntN(len(f.Reals))].Weight = t.drawWeight()
			return "weight", false
		}
	case 4, 5:
		if len(f.Reals) > 0 {
			f.out[pick(t.rnd, f.Reals...).Addr] = true
			return "removal", false
		}
	case 6, 7, 8:
		if len(f.out) > 0 {
			delete(f.out, pick(t.rnd, slices.SortedFunc(maps.Keys(f.out), netip.Addr.Compare)...))
			f.hasReturned = true
			f.alignWeights()
			return "return", true
		}
	case 9:
		t.drawScheduler(&f.Service)
		f.alignWeights()
		return "scheduler", true
	case 10:
		t.state.SloppyTCP = !t.state.SloppyTCP
		return "sloppy", false
	case 11:
		t.state.ExpireQuiescentTempl = !t.state.ExpireQuiescentTempl
		return "expire quiescent template", false
	}
	r := t.drawReal(f, 1+t.rnd.IntN(most))
	if slices.ContainsFunc(f.Reals, func(o lb.Real) bool { return realNumber(o.Addr) == realNumber(r.Addr) }) {
		return "nothing", false
	}
	f.Reals = append(slices.Clone(f.Reals), r)
	return "addition", false
}

// touch sends a packet on every connection of reals that have been removed.
// With expire_nodest_conn the kernel has thrown them away at once; lvx does
// so now. Until then they could live on if the real came back.
func (t *trial) touch(before lb.State, known view) error {
	for _, k := range slices.Sorted(maps.Keys(known.conns)) {
		c := known.conns[k]
		if !removed(before, t.state, c) {
			continue
		}
		e := endpointsOf(c)
		if c.Template || t.strays[e] {
			continue
		}
		if err := t.send(e, onearm.Packet{Src: e.src, Dst: e.dst, UDP: e.proto == lb.UDP, Flags: "A"}); err != nil {
			return err
		}
	}
	return nil
}

// leaveSorry leaves connections to a sorry server alone once a real serves
// again: on the kernel they end, or wait, as the sorry server is taken out;
// with lvx they go on.
func (t *trial) leaveSorry(known view) {
	for _, c := range known.conns {
		s, ok := t.state.Service(c.Service)
		serving := slices.ContainsFunc(s.Reals, func(r lb.Real) bool { return r.Weight > 0 })
		if ok && serving && t.toSorry(c) {
			t.strays[endpointsOf(c)] = true
		}
	}
}

// A client of a persistent service, as a template names it.
type client struct {
	service string
	network netip.Prefix
}

func clientOf(s lb.Service, a netip.Addr) client {
	bits := s.Persistence.Prefix
	if bits == 0 {
		bits = a.BitLen()
	}
	return client{s.Name, netip.PrefixFrom(a, bits).Masked()}
}

// leaveWithoutTemplate leaves connections of a persistent service alone whose
// client has no template any more: no real could be used when the client came
// anew. As such a connection is established, lvx makes the client a template
// again, and one that the client gets later lives as long as the connection;
// on the kernel neither. So the client is left alone until both have ended.
func (t *trial) leaveWithoutTemplate() error {
	known, err := t.view(t.kernel, false)
	if err != nil {
		return err
	}
	for _, c := range known.conns {
		s, ok := t.state.Service(c.Service)
		if !ok || !s.Persistence.Enabled() || c.Template {
			continue
		}
		if who := clientOf(s, c.Client.Addr()); !hasTemplate(known, who) {
			t.strays[endpointsOf(c)] = true
			t.unbound[endpointsOf(c)] = who
		}
	}
	return nil
}

// hasTemplate reports whether a client has a valid template.
func hasTemplate(v view, who client) bool {
	for _, c := range v.conns {
		if c.Template && c.Service == who.service && !invalid(c) && who.network.Contains(c.Client.Addr()) {
			return true
		}
	}
	return false
}

// isUnbound reports whether a packet is of a client that is left alone.
func (t *trial) isUnbound(e endpoints) bool {
	for _, who := range t.unbound {
		s, ok := t.state.Service(who.service)
		if ok && who.network.Contains(e.src.Addr()) && slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool {
			return l.Proto == e.proto && l.Addr == e.dst.Addr() && l.Contains(e.dst.Port())
		}) {
			return true
		}
	}
	return false
}

// unboundOf are the connections of the client that a template is for, if it is
// left alone.
func (t *trial) unboundOf(c lb.Connection) (of []endpoints) {
	for e, who := range t.unbound {
		if who.service == c.Service && who.network.Contains(c.Client.Addr()) {
			of = append(of, e)
		}
	}
	return of
}

// mute keeps silent about connections of reals that are away, while the kernel
// waits for them to return: it sends ICMP errors after them, lvx does not, and
// lvx schedules the next packet of UDP anew.
func (t *trial) mute(known view) {
	t.away, t.muted = map[endpoints]bool{}, map[endpoints]bool{}
	for _, c := range known.conns {
		if removed(t.withAllReals(), t.state, c) {
			t.away[endpointsOf(c)] = true
			t.muted[endpointsOf(c)] = c.Proto == lb.UDP
		}
	}
}

// withAllReals is the state with all reals that are out.
func (t *trial) withAllReals() lb.State {
	var s lb.State
	for _, f := range t.files {
		s.Services = append(s.Services, f.Service)
	}
	return s
}

// renounce opens a connection for each template of a real that is away. With
// expire_nodest_conn the kernel threw them away with the real; lvx finds out
// now, and would follow them again once the real is back.
func (t *trial) renounce(f *file) error {
	known, err := t.view(t.xdp, false)
	if err != nil {
		return err
	}
	for _, c := range known.dead {
		if c.Service != f.Name {
			continue
		}
		t.serial++
		l := f.Listeners[0]
		e := endpoints{proto: l.Proto, src: netip.AddrPortFrom(c.Client.Addr(), uint16(50000+t.serial%10000)), dst: portOf(l)}
		if t.isUnbound(e) {
			continue
		}
		if err := t.send(e, onearm.Packet{Src: e.src, Dst: e.dst, UDP: e.proto == lb.UDP, Flags: "S"}); err != nil {
			return err
		}
	}
	return nil
}

// portOf is a port that only this listener takes.
func portOf(l lb.Listener) netip.AddrPort {
	if l.EveryPort() {
		return netip.AddrPortFrom(l.Addr, 1234)
	}
	return netip.AddrPortFrom(l.Addr, l.First)
}

// removed reports whether the real of a connection was there and is not now.
func removed(before, now lb.State, c lb.Connection) bool {
	has := func(s lb.State) bool {
		svc, ok := s.Service(c.Service)
		return ok && (svc.Sorry == c.Real.Addr() || slices.ContainsFunc(svc.Reals, func(r lb.Real) bool { return r.Addr == c.Real.Addr() }))
	}
	return has(before) && !has(now)
}

// align finds out by probes where rr and wrr stand in their round on both
// sides, and sends further probes to lvx until it stands where the kernel
// does. The rounds themselves must be the same.
func (t *trial) align(f *file, rotates bool) error {
	s := f.compile()
	round := roundOf(s)
	if round == 0 {
		return nil
	}
	want, err := t.probe(t.kernel, f, round)
	if err != nil {
		return err
	}
	got, err := t.probe(t.xdp, f, 2*round) // once more than all: the second is the first again
	if err != nil {
		return err
	}
	t.say("round of %s: kernel %v, lvx %v", s.Name, want, got)
	for r := range round {
		if !slices.Equal(got[r:r+round], want) {
			continue
		}
		if r > 0 && !rotates && s.Scheduler == lb.RR {
			return fmt.Errorf("rr stands elsewhere after the edit: lvx %v, kernel %v", got, want)
		}
		if r > 0 {
			t.report.Events["rotation"]++
		}
		_, err := t.probe(t.xdp, f, r)
		return err
	}
	return fmt.Errorf("not the same round: lvx %v, kernel %v", got, want)
}

// roundOf is after how many connections a scheduler with a position is where
// it was, 0 for others.
func roundOf(s lb.Service) int {
	sum, common, usable := 0, 0, 0
	for _, r := range s.Reals {
		if r.Weight > 0 {
			usable++
			sum += int(r.Weight)
			common = divisor(common, int(r.Weight))
		}
	}
	switch {
	case usable == 0:
		return 0
	case s.Scheduler == lb.RR:
		return usable
	case s.Scheduler == lb.WRR:
		return sum / common
	}
	return 0
}

// counts reports whether a service goes by the connections of its reals: its
// scheduler does, or a real has a threshold.
func counts(s lb.Service) bool {
	limited := func(r lb.Real) bool { return r.Upper != 0 }
	return slices.Contains([]lb.Scheduler{lb.LC, lb.WLC, lb.SED, lb.NQ}, s.Scheduler) ||
		slices.ContainsFunc(s.Reals, limited) || slices.ContainsFunc(s.Absent, limited)
}

func divisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// probe opens connections from clients of their own and returns who got them.
func (t *trial) probe(s *side, f *file, n int) ([]int, error) {
	l := f.Listeners[0]
	to := portOf(l)
	var got []int
	for range n {
		t.serial++
		p := onearm.Packet{Src: netip.AddrPortFrom(f.family.probe(t.serial), 40000), Dst: to, UDP: l.Proto == lb.UDP, Flags: "S"}
		frame, err := p.Bytes()
		if err != nil {
			return nil, err
		}
		o, err := s.send(frame)
		if err != nil {
			return nil, err
		}
		if o.real == 0 || strings.Contains(o.name, ",") {
			return nil, fmt.Errorf("%s: probe of %s: %s", s.name, f.Name, o.name)
		}
		got = append(got, o.real)
	}
	return got, nil
}
