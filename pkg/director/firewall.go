package director

import (
	"context"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Firewall finds rules of the host's firewall that would drop packets which
// the backend forwards before the firewall sees them; [netfilter.Reader] is
// one.
//
// [netfilter.Reader]: https://pkg.go.dev/github.com/lvx-lb/lvx/pkg/netfilter
type Firewall interface {
	// Dropped describes the rules that would drop what clients send to the
	// listeners by these interfaces, a line for each.
	Dropped(served []lb.Listener, interfaces []string) ([]string, error)
}

// watchFirewall asks the firewall at the start, after every reload and with every
// drift pass, until ctx ends. It runs beside the loop: reading thousands of
// rules must not keep a takeover waiting.
func (d *Director) watchFirewall(ctx context.Context) {
	tick := time.NewTicker(driftInterval)
	defer tick.Stop()
	for {
		var served []lb.Listener
		var on []string
		if d.do(ctx, func(context.Context) error {
			observed, _ := d.opt.Backend.Observed() // without it, all of them are taken for XDP's
			served, on = directListeners(d.cfg, observed), d.cfg.Interfaces
			return nil
		}) != nil {
			return
		}
		found, err := d.opt.Firewall.Dropped(served, on)
		if d.do(ctx, func(context.Context) error {
			d.noteBypassed(found, err)
			return nil
		}) != nil {
			return
		}
		select {
		case <-tick.C:
		case <-d.configChanged:
		case <-ctx.Done():
			return
		}
	}
}

// directListeners lists the listeners whose packets XDP forwards; the others are
// the kernel's, behind its firewall.
func directListeners(cfg *config.Config, observed lb.Observed) []lb.Listener {
	isKernels := map[string]bool{}
	for _, svc := range observed.Services {
		isKernels[svc.Name] = svc.Backend == "ipvs"
	}
	var all []lb.Listener
	for _, svc := range cfg.Services {
		if !isKernels[svc.Name] {
			all = append(all, svc.Listeners...)
		}
	}
	return all
}

// noteBypassed notes which rules of the firewall the data path bypasses, and
// logs the new ones.
func (d *Director) noteBypassed(found []string, err error) {
	if err != nil {
		d.warnings.Put(warnings.Warning{
			Kind: "firewall-unread", Subject: "firewall", Note: true,
			Text: "not read, whether it means to drop packets to VIPs is not known: " + err.Error(),
		})
		return
	}
	d.warnings.End("firewall-unread", "firewall")
	var rules []warnings.Warning
	for _, rule := range found {
		rules = append(rules, warnings.Warning{
			Subject: "firewall", Text: rule, Cure: "use `deny` or `allow` of the service, which XDP obeys, or remove the rule",
		})
	}
	d.warnings.Replace("firewall", rules)
}
