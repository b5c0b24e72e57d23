package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Diff says what a reload would change, a line for each change, with the
// connections that it would end. text is the configuration to compare with;
// nil is the file that a reload would read.
func (d *Director) Diff(ctx context.Context, text []byte) (lines []string, err error) {
	var cfg *config.Config
	switch {
	case text == nil:
		cfg, err = d.load()
	case d.opt.Parse == nil:
		err = errors.New("diff: no other file can be read here")
	default:
		cfg, err = d.opt.Parse(text)
	}
	if err != nil {
		return nil, err
	}
	err = d.do(ctx, func(context.Context) error {
		next, dropped := d.runtime.rebase(cfg)
		lines = append(d.diff(next.merge(cfg, d.marks)), next.describeAll(dropped)...)
		if err := d.refuseFixedKeys(cfg); err != nil {
			lines = append(lines, err.Error())
		} else {
			lines = append(lines, d.describeRenewal(cfg)...)
		}
		return nil
	})
	return lines, err
}

// load reads the file, not beside a reload.
func (d *Director) load() (*config.Config, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	return d.opt.Load()
}

// diff compares cfg with the running configuration.
func (d *Director) diff(cfg *config.Config) []string {
	lines := diffGlobals(d.cfg, cfg)
	old, next := servicesOf(d.cfg), servicesOf(cfg)
	renamed := lb.Renamed(old.Services, next.Services)
	before, after := indexServices(d.cfg), indexServices(cfg)
	for i := range next.Services {
		name := next.Services[i].Name
		if was, ok := renamed[name]; ok {
			lines = append(lines, fmt.Sprintf("service %s: renamed to %s", was, name))
			before[name] = before[was]
		}
	}
	renameAll(old.Services, renamed)
	changes := lb.Diff(old, next)
	ends := d.describeEnds(changes, ends{cfg, renamed, before, after})
	edited := map[string]bool{}
	for n, c := range changes {
		line := describeChange(c, before[c.Service], after[c.Service])
		if c.Op == lb.EditService {
			edited[c.Service] = true
		}
		lines = append(lines, line+ends[n])
	}
	for i := range cfg.Services {
		b, a := before[cfg.Services[i].Name], &cfg.Services[i]
		if b != nil && !edited[a.Name] {
			if words := diffChecks(b, a); words != "" {
				lines = append(lines, "service "+a.Name+": "+words)
			}
		}
	}
	return lines
}

// renameAll gives services their new names; renamed has the old ones by them.
func renameAll(services []lb.Service, renamed map[string]string) {
	names := make(map[string]string, len(renamed))
	for name, was := range renamed {
		names[was] = name
	}
	for i := range services {
		if name, ok := names[services[i].Name]; ok {
			services[i].Name = name
		}
	}
}

// servicesOf is a configuration's part of a state that [lb.Diff] compares.
func servicesOf(cfg *config.Config) lb.State {
	s := lb.State{Services: make([]lb.Service, 0, len(cfg.Services))}
	for i := range cfg.Services {
		s.Services = append(s.Services, cfg.Services[i].Service)
	}
	return s
}

func indexServices(cfg *config.Config) map[string]*config.Service {
	index := make(map[string]*config.Service, len(cfg.Services))
	for i := range cfg.Services {
		index[cfg.Services[i].Name] = &cfg.Services[i]
	}
	return index
}

// diffGlobals compares what is not of one service. Values are not shown: some
// are secrets.
func diffGlobals(a, b *config.Config) []string {
	lines := diffVRRP(a.VRRP, b.VRRP)
	for _, c := range []struct {
		key  string
		a, b any
	}{
		{"outer_source", a.OuterSources, b.OuterSources}, {"peers", a.Peers, b.Peers}, {"sloppy_tcp", a.SloppyTCP, b.SloppyTCP}, {"expire_nodest_conn", a.ExpireNodestConn, b.ExpireNodestConn},
		{"expire_quiescent_template", a.ExpireQuiescentTempl, b.ExpireQuiescentTempl},
		{"notify", a.Notify, b.Notify}, {"mac of reals", a.MACs, b.MACs}, {"runtime", a.RuntimeEdits, b.RuntimeEdits}, {"stop_grace", a.StopGrace, b.StopGrace},
		{"hooks of vrrp", a.RoleHooks, b.RoleHooks},
	} {
		if !reflect.DeepEqual(c.a, c.b) {
			lines = append(lines, c.key+": changed")
		}
	}
	for _, words := range []string{
		diffTimeouts(a.Timeouts.WithDefaults(), b.Timeouts.WithDefaults()), diffPrefixes("deny", a.Deny, b.Deny), diffPrefixes("allow", a.Allow, b.Allow),
	} {
		if words != "" {
			lines = append(lines, words)
		}
	}
	return lines
}

// diffTimeouts is "timeouts: tcp 15m0s -> 1m0s".
func diffTimeouts(a, b lb.Timeouts) string {
	var words []string
	for _, c := range []struct {
		key  string
		a, b time.Duration
	}{{"tcp", a.TCP, b.TCP}, {"tcp_fin", a.TCPFin, b.TCPFin}, {"udp", a.UDP, b.UDP}} {
		if c.a != c.b {
			words = append(words, fmt.Sprintf("%s %s -> %s", c.key, c.a, c.b))
		}
	}
	if len(words) == 0 {
		return ""
	}
	return "timeouts: " + strings.Join(words, ", ")
}

// diffPrefixes is "deny: add 198.51.100.0/24, remove 203.0.113.0/24".
func diffPrefixes(key string, a, b []netip.Prefix) string {
	var words []string
	for _, p := range b {
		if !slices.Contains(a, p) {
			words = append(words, "add "+p.String())
		}
	}
	for _, p := range a {
		if !slices.Contains(b, p) {
			words = append(words, "remove "+p.String())
		}
	}
	if len(words) == 0 {
		return ""
	}
	return key + ": " + listMost(words)
}

// listMost keeps a change of a long list on one line.
func listMost(words []string) string {
	const most = 10
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	return strings.Join(words, ", ")
}

// describeChange is a change in words; before and after are nil where the
// service is not configured.
func describeChange(c lb.Change, before, after *config.Service) string {
	real := RealName(c.Real)
	switch c.Op {
	case lb.AddService:
		return fmt.Sprintf("add service %s: %s %s, %d reals", c.Service, listenersOf(after), after.Scheduler, len(after.Reals))
	case lb.RemoveService:
		return fmt.Sprintf("remove service %s: %s", c.Service, listenersOf(before))
	case lb.AddReal:
		return fmt.Sprintf("service %s: add real %s", c.Service, real)
	case lb.RemoveReal:
		return fmt.Sprintf("service %s: remove real %s", c.Service, real)
	case lb.EditReal:
		return fmt.Sprintf("service %s: real %s: %s", c.Service, real, diffReal(findReal(before, c.Real), findReal(after, c.Real)))
	}
	return "service " + c.Service + ": " + strings.Join(diffService(before, after), ", ")
}

func listenersOf(s *config.Service) string {
	words := make([]string, 0, len(s.Listeners))
	for _, l := range s.Listeners {
		words = append(words, l.String())
	}
	return strings.Join(words, " ")
}

// sorryOf is the sorry server of a service with the way to it.
func sorryOf(s *config.Service) string {
	if !s.Sorry.IsValid() {
		return "none"
	}
	words := s.Sorry.String()
	if s.SorryPort != 0 {
		words = netip.AddrPortFrom(s.Sorry, s.SorryPort).String()
	}
	if s.SorryForward != lb.DR {
		words += " by " + forwardOf(lb.Real{Forward: s.SorryForward, Encap: s.SorryEncap})
	}
	if s.SorryInhibit {
		words += " inhibited"
	}
	return words
}

func findReal(s *config.Service, key netip.AddrPort) lb.Real {
	i := slices.IndexFunc(s.Reals, func(r lb.Real) bool { return r.Key() == key })
	return s.Reals[i]
}

func diffReal(a, b lb.Real) string {
	if a.Weight != b.Weight {
		return fmt.Sprintf("weight %d -> %d", a.Weight, b.Weight)
	}
	if from, to := forwardOf(a), forwardOf(b); from != to {
		return fmt.Sprintf("forward %s -> %s", from, to)
	}
	return "changed"
}

// forwardOf is how packets get to a real, with what tunnels are made of.
func forwardOf(r lb.Real) string {
	if r.Encap.Kind != lb.IPIP {
		return r.Encap.String()
	}
	return r.Forward.String()
}

// diffService names what is different about a service besides its reals.
func diffService(a, b *config.Service) []string {
	var words []string
	for _, c := range []struct {
		key  string
		a, b any
	}{
		{"listen", listenersOf(a), listenersOf(b)}, {"scheduler", a.Scheduler, b.Scheduler}, {"mark", a.Mark, b.Mark},
		{"stateless", a.Stateless, b.Stateless}, {"persistence", a.Persistence, b.Persistence}, {"sorry_server", sorryOf(a), sorryOf(b)},
	} {
		if c.a != c.b {
			words = append(words, fmt.Sprintf("%s %v -> %v", c.key, c.a, c.b))
		}
	}
	for _, lists := range []string{diffPrefixes("deny", a.Deny, b.Deny), diffPrefixes("allow", a.Allow, b.Allow)} {
		if lists != "" {
			words = append(words, lists)
		}
	}
	if checks := diffChecks(a, b); checks != "" {
		words = append(words, checks)
	}
	if len(words) == 0 {
		words = append(words, "changed")
	}
	return words
}

// diffChecks names what is different about a service that the data path does
// not know: checks, quorum, on_down.
func diffChecks(a, b *config.Service) string {
	var words []string
	for _, c := range []struct {
		key  string
		a, b any
	}{{"quorum", a.Quorum, b.Quorum}, {"hysteresis", a.Hysteresis, b.Hysteresis}, {"on_down", a.OnDown, b.OnDown}, {"claim by force", a.ForceClaim, b.ForceClaim}} {
		if c.a != c.b {
			words = append(words, fmt.Sprintf("%s %v -> %v", c.key, c.a, c.b))
		}
	}
	if !reflect.DeepEqual(a.Hooks, b.Hooks) {
		words = append(words, "hooks changed")
	}
	if len(a.Reals) == len(b.Reals) && !reflect.DeepEqual(a.Own, b.Own) {
		words = append(words, "on_down or hooks of reals changed")
	}
	if len(a.Reals) == len(b.Reals) && !reflect.DeepEqual(a.Checks, b.Checks) {
		words = append(words, "checks changed")
	}
	return strings.Join(words, ", ")
}
