package director

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Marks finds which packets the host's firewall gives which marks;
// [netfilter.Reader] is one. It is used by one goroutine at a time.
//
// [netfilter.Reader]: https://pkg.go.dev/github.com/lvx-lb/lvx/pkg/netfilter
type Marks interface {
	Marks() ([]lb.MarkRules, error)
}

// markInterval is how often changes of the rules are looked for: asking costs
// one message to the kernel as long as there are none.
const markInterval = time.Second

// marks is what the firewall says, by mark. It is not changed in place.
type marks map[uint32]lb.MarkRules

// hasMarks reports whether a service of the layer is one by mark.
func (rt *Runtime) hasMarks() bool {
	return slices.ContainsFunc(rt.Services, func(s RuntimeService) bool { return s.Mark != 0 })
}

// readMarks asks the firewall. It may take its time, and is not for the loop.
// What cannot be read is a warning, and no mark then.
func (d *Director) readMarks() marks {
	d.markReading.Lock()
	defer d.markReading.Unlock()
	all, err := d.opt.Marks.Marks()
	if err != nil {
		d.warnings.Put(warnings.Warning{
			Kind: "marks-unread", Subject: "firewall", Text: "its rules are not read, services by mark listen nowhere: " + err.Error(),
			Cure: "name the listeners in the configuration (listen)",
		})
		return marks{}
	}
	d.warnings.End("marks-unread", "firewall")
	m := marks{}
	for _, rules := range all {
		m[rules.Mark] = rules
	}
	return m
}

// watchMarks follows the firewall's rules as long as there are services by
// mark, until ctx ends.
func (d *Director) watchMarks(ctx context.Context) {
	tick := time.NewTicker(markInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		needed := false
		if d.do(ctx, func(context.Context) error { needed = d.runtime.hasMarks(); return nil }) != nil {
			return
		}
		if !needed {
			continue
		}
		now := d.readMarks()
		if d.do(ctx, func(ctx context.Context) error { d.takeMarks(ctx, now); return nil }) != nil {
			return
		}
	}
}

// takeMarks brings what the firewall says into force.
func (d *Director) takeMarks(ctx context.Context, now marks) {
	if reflect.DeepEqual(d.marks, now) {
		return
	}
	before := d.marks
	d.marks = now
	if err := d.adoptConfig(ctx, d.runtime.merge(d.file, now)); err != nil {
		d.marks = before // and again with the next look
		d.log.Warn("the firewall's marks have changed, their listeners not", "err", err)
		return
	}
	d.log.Info("the firewall's marks have changed", "marks", len(now))
}

// addListeners gives services by mark without listeners those of the mark's
// rules. A mark of which a rule asks more than a listener can express has none:
// the kernel's IPVS serves it, by the mark that the rules set.
func (m marks) addListeners(services []config.Service, rt *Runtime) {
	var used map[lb.Listener]bool
	for i := range services {
		s := &services[i]
		rules, ok := m[s.Mark]
		if s.Mark == 0 || len(s.Listeners) > 0 || !ok {
			continue
		}
		if s.Condition = rules.Condition; s.Condition != "" {
			continue
		}
		if used == nil {
			used = listenersOfAll(services)
		}
		for _, l := range rules.Listeners {
			if !used[l] && l.Addr.Is6() == rt.isIPv6(s.Name) {
				s.Listeners = append(s.Listeners, l)
			}
		}
	}
}

func listenersOfAll(services []config.Service) map[lb.Listener]bool {
	used := map[lb.Listener]bool{}
	for i := range services {
		for _, l := range services[i].Listeners {
			used[l] = true
		}
	}
	return used
}

// isIPv6 reports whether a service of the layer is a mark of IPv6.
func (rt *Runtime) isIPv6(service string) bool {
	return slices.ContainsFunc(rt.Services, func(s RuntimeService) bool { return s.Name == service && s.IPv6 })
}

// describe says where the listeners of a service by mark come from.
func (m marks) describe(svc *config.Service, isAdded bool) string {
	if svc.Mark == 0 || !isAdded {
		return ""
	}
	rules, ok := m[svc.Mark]
	switch {
	case !ok:
		return fmt.Sprintf("; no rule of the firewall sets mark %d", svc.Mark)
	case svc.Condition != "":
		return "; " + svc.Condition
	}
	var words []string
	for i, l := range rules.Listeners {
		what := rules.Origins[i]
		if !slices.Contains(svc.Listeners, l) {
			what = "another service's, or of the other family"
		}
		words = append(words, fmt.Sprintf("%s: %s", l, what))
	}
	return "; " + strings.Join(words, "; ")
}
