package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/config"
)

// Override is what an operator decided about one real. It wins over the
// configuration until it is cleared.
type Override struct {
	Service string         `json:"service"`
	Real    netip.AddrPort `json:"real"` // port 0 where the real has none of its own
	Weight  *uint16        `json:"weight,omitempty"`
	Drain   bool           `json:"drain,omitempty"`
}

// String is the override in words: "weight 5", "drain".
func (o Override) String() string {
	var words []string
	if o.Weight != nil {
		words = append(words, fmt.Sprintf("weight %d", *o.Weight))
	}
	if o.Drain {
		words = append(words, "drain")
	}
	return strings.Join(words, ", ")
}

// Overrides are all overrides, sorted by service and real, at most one for
// each real. The value is not changed in place: with and without make new
// ones.
type Overrides []Override

func (o Overrides) find(service string, real netip.AddrPort) int {
	return slices.IndexFunc(o, func(v Override) bool { return v.Service == service && v.Real == real })
}

// of are the overrides of one service.
func (o Overrides) of(service string) Overrides {
	if len(o) == 0 {
		return nil
	}
	at, _ := slices.BinarySearchFunc(o, service, func(v Override, name string) int { return strings.Compare(v.Service, name) })
	end := at
	for end < len(o) && o[end].Service == service {
		end++
	}
	return o[at:end]
}

// edit is o with one real's override changed; one that says nothing any
// more is dropped.
func (o Overrides) edit(service string, real netip.AddrPort, change func(*Override)) Overrides {
	v := Override{Service: service, Real: real}
	rest := slices.Clone(o)
	if i := o.find(service, real); i >= 0 {
		v = o[i]
		rest = slices.Delete(rest, i, i+1)
	}
	change(&v)
	if v.Weight != nil || v.Drain {
		rest = append(rest, v)
	}
	slices.SortFunc(rest, func(a, b Override) int {
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return a.Real.Compare(b.Real)
	})
	return rest
}

// apply applies what the operator decided about a real to its plan.
func (o Overrides) apply(service string, real netip.AddrPort, rp *RealPlan) {
	i := o.find(service, real)
	if i < 0 {
		return
	}
	if w := o[i].Weight; w != nil {
		rp.Weight, rp.Override = *w, true
	}
	if o[i].Drain {
		rp.Weight, rp.Drained = 0, true
	}
}

// stale lists the overrides that hit nothing in cfg.
func (o Overrides) stale(cfg *config.Config) []Override {
	if len(o) == 0 {
		return nil
	}
	overridden := map[string]bool{} // services: most have none
	for _, v := range o {
		overridden[v.Service] = true
	}
	type real struct {
		service string
		key     netip.AddrPort
	}
	known := map[real]bool{}
	for i := range cfg.Services {
		svc := &cfg.Services[i]
		if !overridden[svc.Name] {
			continue
		}
		for _, r := range svc.Reals {
			known[real{svc.Name, r.Key()}] = true
		}
	}
	var stale []Override
	for _, v := range o {
		if !known[real{v.Service, v.Real}] {
			stale = append(stale, v)
		}
	}
	return stale
}

// loadOverrides reads the overrides of an earlier daemon.
func (d *Director) loadOverrides() {
	d.overrides = readNote(d, overridesFile, readOverrides)
}

func readOverrides(text []byte) (Overrides, error) {
	var stored Overrides
	if err := jsonfile.Unmarshal(text, &stored); err != nil {
		return nil, err
	}
	return normalise(stored)
}

// normalise checks what was stored, and gives it its order.
func normalise(stored Overrides) (Overrides, error) {
	var o Overrides
	for _, v := range stored {
		if v.Service == "" || !v.Real.Addr().IsValid() {
			return nil, errors.New("an entry without service or real")
		}
		o = o.edit(v.Service, v.Real, func(w *Override) { w.Weight, w.Drain = v.Weight, v.Drain })
	}
	return o, nil
}
