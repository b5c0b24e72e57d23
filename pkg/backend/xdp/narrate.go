package xdp

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// narrator puts into words what a recording says.
type narrator struct {
	b     *Backend
	rec   *bpf.Recording
	now   uint64
	steps []string
	service,
	real string
}

func (b *Backend) explanationOf(x loader.Explanation) lb.Explanation {
	return b.newNarrator(x.Recording).explanation()
}

func (b *Backend) newNarrator(rec *bpf.Recording) *narrator {
	return &narrator{b: b, rec: rec, now: b.now()}
}

func (t *narrator) note(format string, args ...any) {
	t.steps = append(t.steps, fmt.Sprintf(format, args...))
}

func (t *narrator) client() netip.AddrPort {
	return netip.AddrPortFrom(t.rec.Source.Addr(), bpf.PortWord(t.rec.SourcePort))
}

func (t *narrator) destination() netip.AddrPort {
	return netip.AddrPortFrom(t.rec.Destination.Addr(), bpf.PortWord(t.rec.DestinationPort))
}

func (t *narrator) explanation() lb.Explanation {
	verdict := bpf.Verdict(t.rec.Verdict)
	for i := range min(t.rec.Steps, bpf.StepsMost) {
		t.addStep(bpf.Step(t.rec.Step[i].Step), t.rec.Step[i].Value)
	}
	t.addEnd(verdict)
	t.note("%s", verdict.Meaning())
	return lb.Explanation{Verdict: verdict.String(), Service: t.service, Real: t.real, Steps: t.steps}
}

// addEnd adds to a verdict what the packet path need not know.
func (t *narrator) addEnd(v bpf.Verdict) {
	switch v {
	case bpf.NotOurs:
		t.note("%s is not a VIP", t.destination().Addr())
	case bpf.NoListener:
		if t.service == "" {
			t.note("no service listens on %s/%s", t.destination(), lb.Protocol(t.rec.Protocol))
		}
	case bpf.Denied:
		t.note("the lists of %s deny %s", t.denier(), t.client().Addr())
	case bpf.AnsweredUnreachable:
		if s := t.b.services[t.service]; s != nil {
			for _, r := range s.listed() {
				why := fmt.Sprintf("weight %d", r.conf.Weight)
				if r.near.Err != "" {
					why += ", " + r.near.Err
				}
				t.note("real %s is not usable: %s", r.conf.Addr, why)
			}
		}
	}
}

// denier is whose lists deny the client: the longest prefix decides.
func (t *narrator) denier() string {
	k := filterKey(bpf.FilterGlobal, netip.PrefixFrom(t.client().Addr(), t.client().Addr().BitLen()))
	var action bpf.FilterAction
	if t.b.dp.Maps.Filters.Lookup(k, &action) == nil && action == bpf.FilterDeny {
		return "all services"
	}
	return t.service
}

func (t *narrator) addStep(step bpf.Step, value uint64) {
	switch step {
	case bpf.StepVIP:
		t.note("%s is a VIP", t.destination().Addr())
		if value&bpf.VIPPeers != 0 {
			t.note("a fellow director's frame ends here: this host is a real server (from_peer)")
		}
	case bpf.StepNoFlow:
		t.note("no connection %s > %s is known", t.client(), t.destination())
	case bpf.StepFlow:
		t.addFlow(bpf.FlowValue(value))
	case bpf.StepFlowExpired:
		t.note("its connection (%s) has expired", stateNames[bpf.FlowValue(value).State()])
	case bpf.StepRealRemoved:
		t.note("its real was removed: it is scheduled anew")
	case bpf.StepRescheduled:
		t.note("%s: it is scheduled anew", t.whyRescheduled(bpf.FlowValue(value)))
	case bpf.StepQuoted:
		t.useFlow(bpf.FlowValue(value))
		t.note("an ICMP error that quotes a connection of service %q (%s)", t.service, stateNames[bpf.FlowValue(value).State()])
	case bpf.StepNote:
		t.noteFragment(uint32(value))
	case bpf.StepNoNote:
		t.note("a later fragment, whose first has not come")
	case bpf.StepReply:
		t.addReply(bpf.FlowValue(value))
	case bpf.StepRoute:
		t.addRoute(uint32(value), bpf.RouteKind(value>>32))
	case bpf.StepMTU:
		t.note("the packet is longer than the %d bytes that its way takes", value)
	case bpf.StepReal:
		t.addReal(uint32(value))
	default:
		t.addChoice(step, value)
	}
}

// addChoice is about how a new connection gets its real.
func (t *narrator) addChoice(step bpf.Step, value uint64) {
	switch step {
	case bpf.StepService:
		if s := t.b.byIndex[value%bpf.Services]; s != nil {
			t.service = s.conf.Name
			t.note("service %q listens there, scheduler %s", s.conf.Name, s.conf.Scheduler)
		}
	case bpf.StepOpensNothing:
		t.note("flags %q do not open a connection", flagLetters(uint8(value)))
	case bpf.StepTemplate:
		v := bpf.TemplateValue(value)
		t.note("persistence template: real %s, %s left", t.realAt(v.Real()), shown(int64(v.Left(t.now))))
	case bpf.StepNoTemplate:
		t.note("no persistence template of this client")
	case bpf.StepSorry:
		if value != bpf.NoSlot {
			t.note("no usable real: the sorry server answers")
		}
	case bpf.StepInTurn:
		t.note("next of the rotation (changes with every new connection)")
	case bpf.StepHashed:
		if s := t.b.services[t.service]; s != nil && s.conf.Scheduler == lb.DH {
			t.note("hash of the VIP")
		} else {
			t.note("hash of the client")
		}
	case bpf.StepFallback:
		t.note("the real that the hash names, %s, is not usable", t.realAt(uint32(value)))
	case bpf.StepLeast:
		t.note("%s", t.whyLeast())
	case bpf.StepRow:
		t.addRow(bpf.RowValue(value))
	}
}

// addRow is about how a stateless service has decided.
func (t *narrator) addRow(row bpf.RowValue) {
	switch {
	case row.State() == bpf.RowSettled:
		t.note("stateless: the hash of the client names %s, and no connection is looked up", t.realAt(row.Real()))
	case row.Settled() == bpf.RowNone:
		t.note("stateless: the hash of the client names %s; connections are kept until all of them are there", t.realAt(row.Real()))
	default:
		ago := ticksDuration(int64(uint16(t.now) - row.Since()))
		t.note("stateless: the hash of the client names %s now, and named %s until %s ago, which keeps its connections", t.realAt(row.Real()), t.realAt(row.Settled()), ago)
	}
}

func (t *narrator) whyLeast() string {
	var scheduler lb.Scheduler
	if s := t.b.services[t.service]; s != nil {
		scheduler = s.conf.Scheduler
	}
	switch scheduler {
	case lb.FO:
		return "the heaviest that is not overloaded"
	case lb.OVF:
		return "the heaviest that has no more active connections than weight (changes with every connection)"
	}
	return "the least loaded now (changes with every connection)"
}

func (t *narrator) realAt(slot uint32) string {
	if slot >= uint32(len(t.b.dp.Reals)) {
		return "none"
	}
	return t.b.addressOf(slot).String()
}

// useFlow makes the service of a flow the one that is talked of.
func (t *narrator) useFlow(v bpf.FlowValue) *service {
	s := t.b.byIndex[t.b.dp.Reals[v.Real()].Service%bpf.Services]
	if s != nil {
		t.service = s.conf.Name
	}
	return s
}

func (t *narrator) addFlow(v bpf.FlowValue) {
	s := t.useFlow(v)
	t.note("known connection of service %q: %s, seen %s ago, real %s", t.service, stateNames[v.State()],
		ticksDuration(int64(age(v, t.now))), t.realAt(v.Real()))
	if s != nil {
		t.note("%s", t.whyChosen(s, v))
	}
}

// whyChosen is why a connection that is known has its real, as far as that
// can be known now.
func (t *narrator) whyChosen(s *service, v bpf.FlowValue) string {
	raw := &t.b.dp.Reals[v.Real()]
	if p, tv := t.b.findTemplate(s, t.client().Addr()); s.conf.Persistence.Enabled() && p != nil && tv.Real() == v.Real() {
		return "its real is the one of the client's persistence template"
	}
	if raw.Flags&bpf.RealSorry != 0 {
		return "its real is the sorry server: no real was usable when it was opened"
	}
	if s.ring == nil {
		return "its real was chosen before this daemon began"
	}
	usable := func(id uint32) bool { return t.b.dp.Reals[id].Flags&bpf.RealUsable != 0 }
	var today uint32
	switch s.conf.Scheduler {
	case lb.SH, lb.MH:
		today = s.ring.PickHash(t.client().Addr(), t.client().Port(), usable)
	case lb.DH:
		today = s.ring.PickHash(t.destination().Addr(), 0, usable)
	case lb.RR, lb.WRR:
		return "its real had its turn when the connection was opened"
	case lb.FO, lb.OVF:
		return "its real was the heaviest that could take the connection when it was opened"
	default:
		return "its real had the least connections when the connection was opened"
	}
	if today == v.Real() {
		return "its real is the one that the hash names"
	}
	return fmt.Sprintf("the hash names %s now: the reals or their weights were others when the connection was opened", t.realAt(today))
}

func (t *narrator) whyRescheduled(v bpf.FlowValue) string {
	switch state := v.State(); {
	case lb.Protocol(t.rec.Protocol) != lb.TCP:
		return "its real does not answer " + resolutionOf(t.client().Addr())
	case state == bpf.StateTimeWait || state == bpf.StateClose:
		return "a SYN on a closed connection"
	}
	return "a SYN to a real that gets no new connections"
}

// resolutionOf is the protocol by which the family of an address finds MACs.
func resolutionOf(a netip.Addr) string {
	if a.Is4() {
		return "ARP"
	}
	return "neighbour discovery"
}

// noteFragment says what the note of a datagram's first fragment says.
func (t *narrator) noteFragment(slot uint32) {
	switch slot {
	case bpf.NoSlot:
		t.note("a later fragment: its first was passed up")
	case bpf.NoteDropped:
		t.note("a later fragment: its first was not sent on")
	default:
		t.note("a later fragment: its first went to real %s", t.realAt(slot))
	}
}

func (t *narrator) addReal(slot uint32) {
	raw := &t.b.dp.Reals[slot]
	t.real = t.realAt(slot)
	if raw.Flags&bpf.RealLocal != 0 {
		t.note("%s is this host", t.real)
		return
	}
	t.note("to real %s, MAC %s, by %s", t.real, macString(raw.MAC), t.b.interfaceName(raw.Ifindex))
	switch raw.Method() {
	case bpf.ForwardNat:
		port := cmp.Or(bpf.PortWord(raw.Port), t.destination().Port())
		t.note("by NAT: addressed to %s from there on", netip.AddrPortFrom(t.b.addressOf(slot), port))
	case bpf.ForwardIpip, bpf.ForwardGue, bpf.ForwardGre:
		made := &t.b.dp.Tunnels[slot]
		within := map[bpf.ForwardMethod]string{bpf.ForwardGue: fmt.Sprintf(", in GUE for port %d", bpf.PortWord(made.Port)), bpf.ForwardGre: ", in GRE"}
		t.note("inside an IP packet from %s to %s%s", sourceWords(made), made.Destination.Addr(), within[raw.Method()])
	}
}

// sourceWords say where outer headers come from: "192.0.2.1", or "one address of
// 192.0.2.0/24, by its connection".
func sourceWords(t *bpf.Tunnel) string {
	if t.Spread == 0 {
		return t.Source.Addr().String()
	}
	from := t.Source.Addr()
	return "one address of " + netip.PrefixFrom(from, from.BitLen()-bits.OnesCount32(t.Spread)).String() + ", by its connection,"
}

// addReply is about a packet that a real sends to a client.
func (t *narrator) addReply(v bpf.FlowValue) {
	t.useFlow(v)
	t.real = t.realAt(v.Real())
	t.note("a reply of real %s by NAT, of a connection of service %q (%s)", t.real, t.service, stateNames[v.State()])
	t.note("it comes from port %d of the VIP from here on", v.Port())
}

func (t *narrator) addRoute(ifindex uint32, kind bpf.RouteKind) {
	if kind == bpf.RouteGateway {
		t.note("to the client by a gateway, by %s", t.b.interfaceName(ifindex))
		return
	}
	t.note("to the client as the kernel's routes and neighbours have it, by %s", t.b.interfaceName(ifindex))
}

// flagLetters are TCP flags as letters.
func flagLetters(flags uint8) string {
	var s strings.Builder
	for i, c := range "FSRPAU" {
		if flags>>i&1 != 0 {
			s.WriteRune(c)
		}
	}
	return s.String()
}
