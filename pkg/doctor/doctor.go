package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Kinds of findings.
const (
	RealAnswers   = "real-answers-arp"     // a real answers ARP for a VIP
	VIPElsewhere  = "vip-elsewhere"        // another host answers for a VIP that this one has
	VIPIsReal     = "vip-is-real"          // an address is a VIP and a real
	OffSegment    = "real-off-segment"     // a real is behind a gateway
	SmallMTU      = "small-mtu"            // the way to a real is narrower than the VIP's
	ReversePath   = "rp-filter"            // the kernel drops what clients send to this host itself
	LostFrames    = "lost-frames"          // frames that XDP sends do not arrive
	BypassedMark  = "bypassed-mark"        // a firewall mark is set too late
	NoForwarding  = "no-forwarding"        // this host is to pass on what reals by NAT send, and does not
	NotServed     = "not-served"           // replies of a real by NAT come by an interface without XDP
	BypassedNAT   = "bypassed-masquerade"  // a rule that hides clients from reals is passed by
	HiddenVIP     = "masqueraded-vip"      // a rule gives replies by NAT another source, where the kernel sends them
	NoMasquerade  = "no-masquerade"        // a note: what reals send of their own keeps its private address
	ForeignSource = "foreign-outer-source" // what is sent to an address that tunnels come from does not come here
	Merged        = "merged-packets"       // packets that are too long for a tunnel once they are merged
	Offload       = "offload"              // a note: what the NIC does to frames
	Unknown       = "not-examined"         // a note: what could not be asked
)

// Kinds lists all of them.
func Kinds() []string {
	return []string{RealAnswers, VIPElsewhere, VIPIsReal, OffSegment, SmallMTU, ReversePath, LostFrames, BypassedMark, BypassedNAT, HiddenVIP, NoMasquerade, ForeignSource, Merged, NoForwarding, NotServed, OffSegmentBFD, Offload, Unknown}
}

// Route is the way to an address.
type Route struct {
	Device    string
	IsGateway bool // a router is between
	IsLocal   bool // it is an address of this host
	MTU       int
}

// Interface is what is asked of an interface.
type Interface struct {
	MTU          int
	IsNative     bool   // an XDP program is attached to its driver
	LacksPeer    bool   // a veth, whose other end has no XDP program
	Bridge       string // that it is a port of
	IsGeneric    bool   // an XDP program is attached in generic mode
	HasLRO       bool
	HasGRO       bool
	HasVLANStrip bool   // VLAN tags are taken out of frames before XDP sees them
	Below        string // of a VLAN's: the interface below it,
	NotBelow     string // why XDP there cannot serve its frames, "" if it can,
	IsServed     bool   // and that it is to serve them
	IsDefault    bool   // the default route leaves by it, or there is none
}

// Host is what the doctor asks. [Live] is this one.
type Host interface {
	// Owners lists the stations other than this host that say they have an
	// address.
	Owners(ctx context.Context, iface string, addr netip.Addr) ([]neigh.MAC, error)
	Route(addr netip.Addr) (Route, error)
	Interface(name string) (Interface, error)
	Sysctl(key string) (string, error)
	// Marks describes the rules that mark packets to these listeners.
	Marks(served []lb.Listener, interfaces []string) ([]string, error)
	// Masquerading says which rules give packets that leave by an interface another source
	// address: those from an address, or to one. The other one is zero.
	Masquerading(from, to netip.Addr, iface string) ([]string, error)
}

// Case is what is examined.
type Case struct {
	Config *config.Config
	Has    func(vip netip.Addr) bool // whether this host has a VIP now
	MACs   map[neigh.MAC]netip.Addr  // reals whose MAC is known; others are asked
	OnIPVS map[string]bool           // services that the kernel's IPVS runs now
	IsDead bool                      // no daemon runs here: another host has the VIPs by right

	Directors []netip.Addr // other ones: where they are real servers as well, the master answers for the VIP

	IsSettled bool // no role has changed within [SettleTime]
}

// maxQuestions is how many addresses are asked about at a time, and so a bound
// of what an examination costs the segment: two frames for each in 300 ms.
const maxQuestions = 16

// exam is one examination.
type exam struct {
	Case
	host Host
	macs map[neigh.MAC]netip.Addr // of reals

	directors map[neigh.MAC]bool // reals that are directors as well

	mu    sync.Mutex
	found []warnings.Warning
}

// Examine looks at everything that the configuration names and lists what is
// wrong, notes last. What cannot be found out is a note.
func Examine(ctx context.Context, c Case, h Host) []warnings.Warning {
	e := &exam{Case: c, host: h, macs: map[neigh.MAC]netip.Addr{}, directors: map[neigh.MAC]bool{}}
	for mac, real := range c.MACs {
		e.noteMAC(real, mac)
	}
	e.examineReals(ctx)
	e.examineVIPs(ctx)
	e.examineInterfaces()
	e.examineLocalReals()
	e.examineMarks()
	e.examineNAT()
	e.examineOuterSources()
	for _, w := range FindFarNeighbours(e.Config, e.host) {
		e.put(w)
	}
	slices.SortStableFunc(e.found, func(a, b warnings.Warning) int {
		if a.Note != b.Note {
			if a.Note {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Subject, b.Subject)
	})
	return e.found
}

func (e *exam) add(kind, subject, text, cure string) {
	e.put(warnings.Warning{Kind: kind, Subject: subject, Text: text, Cure: cure})
}

func (e *exam) addNote(kind, subject, text, cure string) {
	e.put(warnings.Warning{Kind: kind, Subject: subject, Text: text, Cure: cure, Note: true})
}

func (e *exam) put(w warnings.Warning) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.found = append(e.found, w)
}

// question is an address, and the interface on whose segment it is.
type question struct {
	addr  netip.Addr
	iface string
}

// ask asks about addresses, several at a time, and hands every answer to
// heard, one after the other.
func (e *exam) ask(ctx context.Context, what string, questions []question, heard func(question, neigh.MAC)) {
	var all errgroup.Group
	all.SetLimit(maxQuestions)
	var mu sync.Mutex
	for _, q := range questions {
		all.Go(func() error {
			owners, err := e.host.Owners(ctx, q.iface, q.addr)
			if err != nil {
				e.addNote(Unknown, what+" "+q.addr.String(), "who answers for it is not known: "+err.Error(), "")
			}
			mu.Lock()
			defer mu.Unlock()
			for _, mac := range owners {
				heard(q, mac)
			}
			return nil
		})
	}
	_ = all.Wait()
}

// vips lists the VIPs with the interfaces on whose segment they are.
func (e *exam) vips() map[netip.Addr][]string {
	all := map[netip.Addr][]string{}
	for _, svc := range e.Config.Services {
		for _, l := range svc.Listeners {
			all[l.Addr] = e.Config.Interfaces
		}
	}
	for _, inst := range e.Config.VRRP {
		for _, a := range inst.Addresses {
			all[a.Addr()] = []string{inst.Interface}
		}
	}
	return all
}

// way is how packets get to a real.
type way struct {
	forward lb.Forward
	kind    lb.EncapKind
	isIPv6  bool // packets to VIPs of IPv6
}

// reals lists the reals, each address once, with the ways to it: services may share a
// real, and reach it in different ways.
func (e *exam) reals() map[netip.Addr][]way {
	all := map[netip.Addr][]way{}
	for i := range e.Config.Services {
		svc := &e.Config.Services[i]
		for _, r := range svc.Reals {
			if w := (way{r.Forward, r.Encap.Kind, svc.IsIPv6()}); !slices.Contains(all[r.Addr], w) {
				all[r.Addr] = append(all[r.Addr], w)
			}
		}
	}
	return all
}

func (e *exam) examineReals(ctx context.Context) {
	width := e.width()
	known := map[netip.Addr]bool{}
	for _, addr := range e.macs {
		known[addr] = true
	}
	var unknown []question
	for addr, ways := range e.reals() {
		route, err := e.host.Route(addr)
		if err != nil {
			e.add(OffSegment, "real "+addr.String(), "no way leads to it: "+err.Error(), "give this host an address on its segment")
			continue
		}
		for _, w := range ways {
			if w.forward == lb.Tunnel {
				e.judgeTunnel(addr, w, route, width)
			}
			if w.forward == lb.DR && e.judgeRoute(addr, route, width) && !known[addr] {
				unknown = append(unknown, question{addr, route.Device})
			}
		}
	}
	e.ask(ctx, "real", unknown, func(q question, mac neigh.MAC) { e.noteMAC(q.addr, mac) })
}

func (e *exam) noteMAC(real netip.Addr, mac neigh.MAC) {
	e.macs[mac] = real
	e.directors[mac] = e.directors[mac] || slices.Contains(e.Directors, real)
}

// judgeTunnel looks at the way of a tunnel to a real. What the outer header takes
// of the way is in what the real offers its clients, where `lvx real up --tunnel`
// has put it; a way that is narrower yet is not.
func (e *exam) judgeTunnel(real netip.Addr, w way, r Route, width int) {
	if r.IsLocal || r.MTU >= width {
		return
	}
	command, protocol, headers := "ip", "IPv4", 40 // of IP and TCP
	if w.isIPv6 {
		command, protocol, headers = "ip -6", "IPv6", 60
	}
	inside := r.MTU - w.kind.Overhead(real)
	e.add(SmallMTU, "real "+real.String(), fmt.Sprintf("the way to it takes %d bytes, %d of %s in the tunnel: longer packets are refused with ICMP", r.MTU, inside, protocol),
		fmt.Sprintf("on %s: %s route change default ... advmss %d", real, command, inside-headers))
}

// hasTunnels reports whether a real is reached by a tunnel.
func (e *exam) hasTunnels() bool {
	return slices.ContainsFunc(e.Config.Services, func(svc config.Service) bool {
		return slices.ContainsFunc(svc.Reals, func(r lb.Real) bool { return r.Forward == lb.Tunnel })
	})
}

// width is the MTU of the VIPs' segment.
func (e *exam) width() int {
	width := 0
	for _, name := range e.Config.Interfaces {
		if i, err := e.host.Interface(name); err == nil && (width == 0 || i.MTU < width) {
			width = i.MTU
		}
	}
	return width
}

// judgeRoute looks at the way to a real, and reports whether it is on a segment
// of this host's.
func (e *exam) judgeRoute(addr netip.Addr, r Route, width int) bool {
	subject := "real " + addr.String()
	switch {
	case r.IsLocal:
		return false
	case r.IsGateway:
		e.add(OffSegment, subject, "a gateway is between it and "+r.Device+": direct routing cannot reach it",
			"put it on a segment of this host, or use `forward: ipip`")
		return false
	case r.MTU < width:
		e.add(SmallMTU, subject, fmt.Sprintf("the way to it takes %d bytes, the VIP's segment %d: longer packets are refused with ICMP", r.MTU, width),
			fmt.Sprintf("ip link set dev %s mtu %d", r.Device, width))
	}
	return true
}

func (e *exam) examineVIPs(ctx context.Context) {
	reals := e.reals()
	var questions []question
	for vip, interfaces := range e.vips() {
		if _, ok := reals[vip]; ok {
			e.add(VIPIsReal, "VIP "+vip.String(), "is the address of a real, too: its packets would come back for ever", "give the VIP an address of its own")
			continue
		}
		for _, name := range interfaces {
			questions = append(questions, question{vip, name})
		}
	}
	e.ask(ctx, "VIP", questions, func(q question, mac neigh.MAC) { e.judgeOwner(q.addr, q.iface, mac) })
}

// judgeOwner says what it means that another station answers for a VIP.
func (e *exam) judgeOwner(vip netip.Addr, iface string, mac neigh.MAC) {
	if real, ok := e.macs[mac]; ok && !e.directors[mac] {
		e.add(RealAnswers, "real "+real.String(), fmt.Sprintf("answers %s for VIP %s (%s on %s): clients reach it past the director", neigh.Questions(vip), vip, mac, iface),
			"on "+real.String()+": "+cureOfAnswers(vip))
		return
	}
	if e.Has(vip) && !e.IsDead { // else it is the master that answers
		e.add(VIPElsewhere, "VIP "+vip.String(), fmt.Sprintf("another host (%s on %s) has it as well", mac, iface),
			"take it off that host; two directors need the same virtual_router_id and password")
	}
}

// cureOfAnswers is what to do on a real that answers for a VIP. For IPv6 there is no
// setting: another interface has the VIP, or answers for it.
func cureOfAnswers(vip netip.Addr) string {
	if vip.Is6() {
		return "lvx real status --vip " + vip.String() + " names the interface that answers; the VIP belongs on lo alone"
	}
	return "lvx real up --vip " + vip.String()
}

func (e *exam) examineInterfaces() {
	for _, name := range e.Config.Interfaces {
		subject := "interface " + name
		i, err := e.host.Interface(name)
		if err != nil {
			e.addNote(Unknown, subject, err.Error(), "")
			continue
		}
		if i.IsNative && i.LacksPeer {
			e.add(LostFrames, subject, "a veth whose other end has no XDP program: what the packet path sends in native mode is lost",
				"xdp_mode: generic, or attach a program that passes everything to the other end")
		}
		if i.IsNative && i.Bridge != "" {
			e.add(LostFrames, subject, "a port of "+i.Bridge+": frames leave by the bridge, which takes none from native XDP",
				"xdp_mode: generic, or auto and a fresh start: lvx stop --purge")
		}
		if i.IsGeneric && i.HasGRO && e.hasTunnels() {
			e.add(Merged, subject, "GRO is on, and XDP in generic mode sees packets that it has merged: they are too long for a tunnel",
				"ethtool -K "+name+" gro off")
		}
		if i.HasLRO && !i.IsNative {
			e.addNote(Offload, subject, "LRO is on: many drivers refuse native XDP then", "ethtool -K "+name+" lro off")
		}
		switch {
		case i.NotBelow != "" && i.IsServed:
			e.add(Offload, subject, "is served on "+i.Below+", which cannot see its frames: "+i.NotBelow, "undo that, or start lvx anew: it falls back to generic mode")
		case i.NotBelow != "":
			e.addNote(Offload, subject, "is served in generic mode, which is slower: "+i.NotBelow, "change that, and start lvx anew")
		}
		if i.HasVLANStrip {
			e.addNote(Offload, subject, "the NIC takes VLAN tags out of frames: VIPs on a tagged segment lose them",
				"if there are any: ethtool -K "+name+" rxvlan off")
		}
	}
}

// examineLocalReals looks at services that this host serves itself: their
// packets go through its own stack, which may refuse clients that it would
// answer by another interface.
func (e *exam) examineLocalReals() {
	if !e.isServer() {
		return
	}
	for _, name := range e.Config.Interfaces {
		i, err := e.host.Interface(name)
		if err != nil || i.IsDefault {
			continue
		}
		all, _ := e.host.Sysctl("net.ipv4.conf.all.rp_filter")
		own, _ := e.host.Sysctl("net.ipv4.conf." + strings.ReplaceAll(name, ".", "/") + ".rp_filter")
		if max(all, own) == "1" {
			e.add(ReversePath, "interface "+name, "rp_filter is strict and the default route leaves elsewhere: what clients send to this host as a real is dropped",
				"sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf."+name+".rp_filter=2")
		}
	}
}

// isServer reports whether this host is a real or a sorry server.
func (e *exam) isServer() bool {
	isLocal := func(a netip.Addr) bool {
		r, err := e.host.Route(a)
		return a.IsValid() && err == nil && r.IsLocal
	}
	for _, svc := range e.Config.Services {
		if isLocal(svc.Sorry) || slices.ContainsFunc(svc.Reals, func(r lb.Real) bool { return isLocal(r.Addr) }) {
			return true
		}
	}
	return false
}

// examineMarks looks for rules that set firewall marks on packets of services
// that do not stand for a mark themselves.
func (e *exam) examineMarks() {
	var served []lb.Listener
	for _, svc := range e.Config.Services {
		if svc.Mark == 0 && !e.OnIPVS[svc.Name] {
			served = append(served, svc.Listeners...)
		}
	}
	if len(served) == 0 || e.Config.Backend == config.BackendIPVS {
		return
	}
	rules, err := e.host.Marks(served, e.Config.Interfaces)
	if err != nil {
		e.addNote(Unknown, "firewall", "whether it marks packets to VIPs is not known: "+err.Error(), "")
	}
	for _, rule := range rules {
		e.add(BypassedMark, "firewall", rule, "write what the mark groups as several `listen:` of one service, with `mark:`")
	}
}
