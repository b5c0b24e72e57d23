package lb

import (
	"net/netip"
	"reflect"
	"slices"
)

// Op is the kind of a [Change].
type Op uint8

// The operations, in the order in which a [Diff] lists them: whatever is
// added is there before anything is taken away, so that no moment has less
// than both states have in common.
const (
	AddService Op = iota
	AddReal
	EditService
	EditReal
	RemoveReal
	RemoveService
)

// String names the operation for logs: "add service".
func (o Op) String() string {
	return [...]string{"add service", "add real", "edit service", "edit real", "remove real", "remove service"}[o]
}

// Change is one step from one [State] to another.
type Change struct {
	Op      Op
	Service string
	Real    netip.AddrPort // for the real operations
}

// Diff is for `lvx diff`, which says what a reload would change; backends
// compare for themselves. Diff lists the steps from old to new, ordered by [Op] and, within one
// operation, by the order of the services and reals in the state that holds
// them. The reals of an added service are part of its AddService, those of a
// removed one part of its RemoveService.
func Diff(old, new State) []Change {
	var steps []Change
	before, after := indexServices(old), indexServices(new)
	for i := range new.Services { // by reference: there may be ten thousand
		s := &new.Services[i]
		b := before[s.Name]
		if b == nil {
			steps = append(steps, Change{Op: AddService, Service: s.Name})
			continue
		}
		steps = append(steps, diffService(b, s)...)
	}
	for i := range old.Services {
		if name := old.Services[i].Name; after[name] == nil {
			steps = append(steps, Change{Op: RemoveService, Service: name})
		}
	}
	slices.SortStableFunc(steps, func(a, b Change) int { return int(a.Op) - int(b.Op) })
	return steps
}

func indexServices(s State) map[string]*Service {
	index := make(map[string]*Service, len(s.Services))
	for i := range s.Services {
		index[s.Services[i].Name] = &s.Services[i]
	}
	return index
}

func diffService(old, new *Service) []Change {
	var steps []Change
	if !sameService(*old, *new) {
		steps = append(steps, Change{Op: EditService, Service: new.Name})
	}
	for _, r := range new.Reals {
		i := slices.IndexFunc(old.Reals, r.Same)
		switch {
		case i < 0:
			steps = append(steps, Change{Op: AddReal, Service: new.Name, Real: r.Key()})
		case old.Reals[i] != r:
			steps = append(steps, Change{Op: EditReal, Service: new.Name, Real: r.Key()})
		}
	}
	for _, r := range old.Reals {
		if !slices.ContainsFunc(new.Reals, r.Same) {
			steps = append(steps, Change{Op: RemoveReal, Service: new.Name, Real: r.Key()})
		}
	}
	return steps
}

// sameService compares everything but the reals themselves; their order
// counts, because schedulers walk it.
func sameService(a, b Service) bool {
	common := func(rs []Real, other []Real) []netip.AddrPort {
		var keys []netip.AddrPort
		for _, r := range rs {
			if slices.ContainsFunc(other, r.Same) {
				keys = append(keys, r.Key())
			}
		}
		return keys
	}
	if !slices.Equal(common(a.Reals, b.Reals), common(b.Reals, a.Reals)) {
		return false
	}
	a.Reals, b.Reals = nil, nil
	a.Absent, b.Absent = nil, nil
	return reflect.DeepEqual(a, b)
}

// Key is the identity of r within its service.
func (r Real) Key() netip.AddrPort { return netip.AddrPortFrom(r.Addr, r.Port) }

// Same reports whether r and o are the same real server, whatever their
// weights.
func (r Real) Same(o Real) bool { return r.Addr == o.Addr && r.Port == o.Port }
