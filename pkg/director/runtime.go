package director

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Runtime is the runtime layer: what commands of ipvsadm made of the file.
// It holds values, not commands, and is not changed in place.
type Runtime struct {
	Services []RuntimeService `json:"services,omitempty"` // beside those of the file, in the order in which they were added
	Patches  []Patch          `json:"patches,omitempty"`  // on services of the file, in its order
	Timeouts [3]int           `json:"timeouts,omitzero"`  // tcp, tcp_fin, udp in seconds; 0 = the file's
	Zeroed   []ZeroedService  `json:"zeroed,omitempty"`   // counters that ipvsadm -Z has hidden
	Daemons  []ipvsadm.Daemon `json:"daemons,omitempty"`  // of connection sync
}

// RuntimeService is a service that the file does not have.
type RuntimeService struct {
	Name string `json:"name"`
	ipvsadm.Entry
}

// Patch is what differs from a service of the file.
type Patch struct {
	Service  string           `json:"service"`
	Removed  bool             `json:"removed,omitempty"`  // the service is not served
	Settings *ipvsadm.Service `json:"settings,omitempty"` // instead of the file's
	Added    []ipvsadm.Server `json:"added,omitempty"`
	Changed  []ipvsadm.Server `json:"changed,omitempty"`
	Dropped  []netip.AddrPort `json:"dropped,omitempty"` // reals of the file
}

// IsEmpty reports whether the layer leaves the file as it is.
func (rt *Runtime) IsEmpty() bool {
	return len(rt.Services) == 0 && len(rt.Patches) == 0 && rt.Timeouts == [3]int{} && len(rt.Zeroed) == 0 && len(rt.Daemons) == 0
}

// Changes is how many services the layer adds, changes and removes.
func (rt *Runtime) Changes() int { return len(rt.Services) + len(rt.Patches) }

// layerIndex finds what the layer does to a service.
type layerIndex struct {
	added   map[string]bool
	patches map[string]*Patch
}

func (rt *Runtime) index() layerIndex {
	x := layerIndex{make(map[string]bool, len(rt.Services)), make(map[string]*Patch, len(rt.Patches))}
	for i := range rt.Services {
		x.added[rt.Services[i].Name] = true
	}
	for i := range rt.Patches {
		x.patches[rt.Patches[i].Service] = &rt.Patches[i]
	}
	return x
}

const textAdded = "added by ipvsadm"

// describe says what the layer does to a service, "" for nothing.
func (x layerIndex) describe(service string) string {
	if x.added[service] {
		return textAdded
	}
	if p := x.patches[service]; p != nil {
		return "differs from the file: " + p.String()
	}
	return ""
}

// describeAll says what of the layer a reload would leave in force, and what
// it would drop.
func (rt *Runtime) describeAll(dropped []string) (lines []string) {
	for _, s := range rt.Services {
		lines = append(lines, "runtime layer, kept: service "+s.Name+": "+textAdded)
	}
	for _, p := range rt.Patches {
		lines = append(lines, "runtime layer, kept: service "+p.Service+": "+p.String())
	}
	for _, d := range rt.daemonTexts() {
		lines = append(lines, "runtime layer, kept: "+d.service+": "+d.text)
	}
	for _, name := range dropped {
		lines = append(lines, "runtime layer, dropped: service "+name)
	}
	return lines
}

// layerChange is what became of a service in the layer.
type layerChange struct{ service, text string }

// changesSince compares two layers, service by service. Of a large layer one edit
// changes next to nothing: only what differs is put into words.
func (rt *Runtime) changesSince(old *Runtime) (all []layerChange) {
	now, then := rt.without(old), old.without(rt)
	before := then.texts()
	for _, now := range now.sortedTexts() {
		if before[now.service] != now.text {
			all = append(all, now)
		}
		delete(before, now.service)
	}
	for _, was := range then.sortedTexts() {
		if _, ok := before[was.service]; ok {
			all = append(all, layerChange{was.service, "as the file has it"})
		}
	}
	return all
}

// without is rt without the services and patches that o has, too.
func (rt *Runtime) without(o *Runtime) *Runtime {
	services := make(map[string]*RuntimeService, len(o.Services))
	for i := range o.Services {
		services[o.Services[i].Name] = &o.Services[i]
	}
	patches := make(map[string]*Patch, len(o.Patches))
	for i := range o.Patches {
		patches[o.Patches[i].Service] = &o.Patches[i]
	}
	own := Runtime{Daemons: rt.Daemons}
	for _, s := range rt.Services {
		if same := services[s.Name]; same == nil || same.Key != s.Key || same.Service != s.Service || !slices.Equal(same.Servers, s.Servers) {
			own.Services = append(own.Services, s)
		}
	}
	for _, p := range rt.Patches {
		if same := patches[p.Service]; same == nil || !reflect.DeepEqual(*same, p) {
			own.Patches = append(own.Patches, p)
		}
	}
	return &own
}

// sortedTexts are the services of the layer in its order, in words.
func (rt *Runtime) sortedTexts() (all []layerChange) {
	for _, s := range rt.Services {
		words := []string{"ipvsadm: scheduler " + s.Scheduler}
		for _, r := range s.Servers {
			words = append(words, fmt.Sprintf("%s weight %d", r.Addr, r.Weight))
		}
		all = append(all, layerChange{s.Name, strings.Join(words, "; ")})
	}
	for _, p := range rt.Patches {
		all = append(all, layerChange{p.Service, "ipvsadm: " + p.String()})
	}
	return append(all, rt.daemonTexts()...)
}

// daemonTexts are the daemons of connection sync, in words.
func (rt *Runtime) daemonTexts() (all []layerChange) {
	for _, d := range rt.Daemons {
		role := "backup"
		if d.Master {
			role = "master"
		}
		all = append(all, layerChange{"sync daemon " + role, fmt.Sprintf("ipvsadm: on %s, syncid %d", d.Interface, d.ID)})
	}
	return all
}

func (rt *Runtime) texts() map[string]string {
	texts := map[string]string{}
	for _, c := range rt.sortedTexts() {
		texts[c.service] = c.text
	}
	return texts
}

// String says what a patch changes: "scheduler rr; added 192.0.2.1".
func (p Patch) String() string {
	if p.Removed {
		return "removed"
	}
	var words []string
	if p.Settings != nil {
		words = append(words, "settings (scheduler "+p.Settings.Scheduler+")")
	}
	for _, s := range p.Added {
		words = append(words, fmt.Sprintf("added %s weight %d", s.Addr, s.Weight))
	}
	for _, s := range p.Changed {
		words = append(words, fmt.Sprintf("%s weight %d", s.Addr, s.Weight))
	}
	for _, k := range p.Dropped {
		words = append(words, "removed "+k.Addr().String())
	}
	return strings.Join(words, "; ")
}

// merge is the configuration that runs: the file's with the layer. Neither is
// changed; what did not change is shared. A file that refuses edits has its say,
// and the layer waits. Services by mark listen where the marks' rules say.
func (rt *Runtime) merge(file *config.Config, m marks) *config.Config {
	if rt.IsEmpty() || file.RuntimeEdits == config.RefuseEdits {
		return file
	}
	cfg := *file
	patches := make(map[string]*Patch, len(rt.Patches))
	for i := range rt.Patches {
		patches[rt.Patches[i].Service] = &rt.Patches[i]
	}
	cfg.Services = make([]config.Service, 0, len(file.Services)+len(rt.Services))
	for _, svc := range file.Services {
		switch p := patches[svc.Name]; {
		case p == nil:
			cfg.Services = append(cfg.Services, svc)
		case !p.Removed:
			cfg.Services = append(cfg.Services, p.apply(svc))
		}
	}
	for i := range rt.Services {
		cfg.Services = append(cfg.Services, rt.Services[i].config())
	}
	m.addListeners(cfg.Services, rt)
	for i, to := range []*time.Duration{&cfg.Timeouts.TCP, &cfg.Timeouts.TCPFin, &cfg.Timeouts.UDP} {
		if n := rt.Timeouts[i]; n != 0 {
			*to = time.Duration(n) * time.Second
		}
	}
	return &cfg
}

// apply is the service with the patch.
func (p *Patch) apply(svc config.Service) config.Service {
	key := keyOf(&svc)
	if p.Settings != nil {
		applySettings(&svc.Service, *p.Settings, key)
	}
	servers := make(map[netip.AddrPort]ipvsadm.Server, len(p.Changed)+len(p.Added))
	for _, s := range slices.Concat(p.Changed, p.Added) {
		servers[netip.AddrPortFrom(s.Addr, s.Port)] = s
	}
	var reals []lb.Real
	var from []int
	for i, r := range svc.Reals {
		at := portOf(r, key)
		if slices.Contains(p.Dropped, at) {
			continue
		}
		if s, ok := servers[at]; ok {
			r.Weight, r.Forward, r.Encap, r.Upper, r.Lower = uint16(s.Weight), s.Forward, s.Tunnel, s.Upper, s.Lower
			delete(servers, at) // a real that was added may be the file's by now
		}
		reals, from = append(reals, r), append(from, i)
	}
	for _, s := range p.Added {
		if _, ok := servers[netip.AddrPortFrom(s.Addr, s.Port)]; ok {
			reals, from = append(reals, realOf(s, key)), append(from, -1)
		}
	}
	edited := svc.WithReals(reals, from)
	edited.Stateless = edited.KeepsNoFlows() // an edit may ask for what needs connections
	return edited
}

// config is the service as the file would have it. Its reals have no checks:
// they are up once their MAC is known.
func (s *RuntimeService) config() config.Service {
	svc := config.Service{Service: lb.Service{Name: s.Name, Mark: s.Mark}, OnDown: config.Remove, Quorum: 1}
	if s.Mark == 0 {
		svc.Listeners = []lb.Listener{{Addr: s.Addr, Proto: s.Proto, First: s.Port, Last: s.Port}}
	}
	applySettings(&svc.Service, s.Service, s.Key)
	reals, from := make([]lb.Real, 0, len(s.Servers)), make([]int, 0, len(s.Servers))
	for _, server := range s.Servers {
		reals, from = append(reals, realOf(server, s.Key)), append(from, -1)
	}
	return svc.WithReals(reals, from)
}

// keyOf is what ipvsadm knows a service by.
func keyOf(svc *config.Service) ipvsadm.Key {
	is6 := len(svc.Listeners) > 0 && svc.Listeners[0].Addr.Is6()
	if svc.Mark != 0 || len(svc.Listeners) == 0 {
		return ipvsadm.Key{Mark: svc.Mark, IPv6: is6}
	}
	l := svc.Listeners[0]
	return ipvsadm.Key{Proto: l.Proto, Addr: l.Addr, Port: l.First}
}

// portOf is a real with the port that ipvsadm shows.
func portOf(r lb.Real, key ipvsadm.Key) netip.AddrPort {
	if r.Port == 0 {
		return netip.AddrPortFrom(r.Addr, key.Port)
	}
	return r.Key()
}

// realOf is a real as the file would have it: only masquerading has ports of
// its own.
func realOf(s ipvsadm.Server, key ipvsadm.Key) lb.Real {
	r := lb.Real{Addr: s.Addr, Weight: uint16(s.Weight), Forward: s.Forward, Encap: s.Tunnel, Upper: s.Upper, Lower: s.Lower}
	if s.Forward == lb.NAT && s.Port != key.Port {
		r.Port = s.Port
	}
	return r
}

// flagBits are the scheduler flags that ipvsadm calls flag-1 and flag-2.
var flagBits = map[lb.Scheduler][2]lb.SchedFlags{lb.SH: {lb.SHFallback, lb.SHPort}, lb.MH: {lb.MHFallback, lb.MHPort}}

func applySettings(svc *lb.Service, s ipvsadm.Service, key ipvsadm.Key) {
	svc.Scheduler, svc.OnePacket, svc.Flags = lb.Scheduler(s.Scheduler), s.OnePacket, 0
	for bit, flag := range flagBits[svc.Scheduler] {
		if s.Flags>>bit&1 != 0 {
			svc.Flags |= flag
		}
	}
	svc.Persistence = lb.Persistence{Timeout: time.Duration(s.Persistent) * time.Second, Prefix: s.Prefix}
	if s.Mask.IsValid() && !key.Is6() {
		svc.Persistence.Prefix, _ = net.IPMask(s.Mask.AsSlice()).Size()
	}
}

// settingsOf are a service's settings in ipvsadm's words.
func settingsOf(svc *lb.Service, key ipvsadm.Key) ipvsadm.Service {
	s := ipvsadm.Service{Scheduler: string(svc.Scheduler), OnePacket: svc.OnePacket}
	for bit, flag := range flagBits[svc.Scheduler] {
		if svc.Flags&flag != 0 {
			s.Flags |= 1 << bit
		}
	}
	p := svc.Persistence
	if !p.Enabled() {
		return s
	}
	s.Persistent = int(p.Timeout / time.Second)
	switch {
	case key.Is6() && p.Prefix != 128:
		s.Prefix = p.Prefix
	case !key.Is6() && p.Prefix != 0 && p.Prefix != 32:
		s.Mask, _ = netip.AddrFromSlice(net.CIDRMask(p.Prefix, 32))
	}
	return s
}

// entryOf is a service of the file as ipvsadm's table holds it.
func entryOf(svc *config.Service) *ipvsadm.Entry {
	e := &ipvsadm.Entry{Key: keyOf(svc)}
	e.Service = settingsOf(&svc.Service, e.Key)
	for _, r := range svc.Reals {
		at := portOf(r, e.Key)
		e.Servers = append(e.Servers, ipvsadm.Server{
			Addr: at.Addr(), Port: at.Port(), Forward: r.Forward, Tunnel: r.Encap, Weight: int32(r.Weight), Upper: r.Upper, Lower: r.Lower,
		})
	}
	return e
}

// patchOf is what of an entry differs from a service of the file; nil if
// nothing does. A nil entry is a removed service.
func patchOf(svc *config.Service, e *ipvsadm.Entry) *Patch {
	if e == nil {
		return &Patch{Service: svc.Name, Removed: true}
	}
	p := Patch{Service: svc.Name}
	file := entryOf(svc)
	if e.Service != file.Service {
		p.Settings = &e.Service
	}
	had := make(map[netip.AddrPort]bool, len(file.Servers))
	for _, s := range file.Servers {
		had[netip.AddrPortFrom(s.Addr, s.Port)] = true
	}
	now := make(map[netip.AddrPort]ipvsadm.Server, len(e.Servers))
	for _, s := range e.Servers {
		k := netip.AddrPortFrom(s.Addr, s.Port)
		if now[k] = s; !had[k] {
			p.Added = append(p.Added, s)
		}
	}
	for _, was := range file.Servers { // in its order: that is the one that they are served in
		k := netip.AddrPortFrom(was.Addr, was.Port)
		switch s, isThere := now[k]; {
		case !isThere:
			p.Dropped = append(p.Dropped, k)
		case s != was:
			p.Changed = append(p.Changed, s)
		}
	}
	if p.Settings == nil && p.Added == nil && p.Changed == nil && p.Dropped == nil {
		return nil
	}
	return &p
}
