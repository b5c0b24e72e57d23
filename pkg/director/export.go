package director

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/config"
)

// loadedText is the text of the file that was loaded last, nil if it is not known.
func loadedText(o Options) []byte {
	if o.Text == nil {
		return nil
	}
	return o.Text()
}

// Export writes what runs as the configuration's text: the file with the
// runtime layer and operators' overrides. runtimeOnly leaves out the services
// that the layer does not touch, and everything that is not of services. A
// service that no file can have is a comment.
func (d *Director) Export(ctx context.Context, runtimeOnly bool) (text string, err error) {
	var file, running *config.Config
	var source []byte
	var touched map[string]bool
	if err := d.do(ctx, func(context.Context) error {
		file, running, source = d.file, d.overridden(), d.text
		touched = d.runtime.touched()
		return nil
	}); err != nil {
		return "", err
	}
	running, left := withoutUnlisted(running)
	var out []byte
	switch {
	case runtimeOnly && source != nil:
		if out, err = config.Rewrite(source, file, running); err == nil {
			out, err = config.ServicesOf(out, touched)
		}
	case runtimeOnly:
		for _, s := range file.Services {
			if touched[s.Name] {
				left += fmt.Sprintf("# service %s is here without what ipvsadm does not know of it (checks, hooks, quorum, clients, sorry server)\n", s.Name)
			}
		}
		only := slices.DeleteFunc(slices.Clone(running.Services), func(s config.Service) bool { return !touched[s.Name] })
		out, err = config.Services(only)
	case source == nil:
		err = errors.New("the configuration is no lvx.yaml (lvx import writes it as one; lvx export --runtime writes the rest)")
	default:
		out, err = config.Rewrite(source, file, running)
	}
	return left + string(out), err
}

// overridden is the running configuration with the overrides in it.
func (d *Director) overridden() *config.Config {
	if len(d.overrides) == 0 {
		return d.cfg
	}
	cfg := *d.cfg
	cfg.Services = slices.Clone(cfg.Services)
	for i := range cfg.Services {
		s := &cfg.Services[i]
		overrides := d.overrides.of(s.Name)
		if len(overrides) == 0 {
			continue
		}
		s.Reals = slices.Clone(s.Reals)
		for k := range s.Reals {
			plan := RealPlan{Weight: s.Reals[k].Weight}
			overrides.apply(s.Name, s.Reals[k].Key(), &plan)
			s.Reals[k].Weight = plan.Weight
		}
	}
	return &cfg
}

// withoutUnlisted leaves out services without a listener, and says so.
func withoutUnlisted(cfg *config.Config) (rest *config.Config, comment string) {
	var lines strings.Builder
	kept := make([]config.Service, 0, len(cfg.Services))
	for _, s := range cfg.Services {
		if len(s.Listeners) > 0 {
			kept = append(kept, s)
			continue
		}
		why := s.Condition
		if why == "" {
			why = "no rule of the firewall sets it"
		}
		fmt.Fprintf(&lines, "# service %s is not here: mark %d has no listeners (%s)\n", s.Name, s.Mark, why)
	}
	if len(kept) == len(cfg.Services) {
		return cfg, ""
	}
	c := *cfg
	c.Services = kept
	return &c, lines.String()
}

// touched are the services that the layer adds or changes.
func (rt *Runtime) touched() map[string]bool {
	names := map[string]bool{}
	for _, s := range rt.Services {
		names[s.Name] = true
	}
	for _, p := range rt.Patches {
		names[p.Service] = true
	}
	return names
}
