package xdp

import (
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// work is what an Apply has to do.
type work struct {
	services     []*service // whose reals are to be written
	all          bool       // they are all, and VIPs and ports are to be laid out even if they are the same
	neighVersion uint64     // the neighbours' version
	undo         undo       // takes the preparation back
	refused      []error    // a service each, which stays as it was
}

// prepareServices claims indices, places reals and lays rings: of the
// services that changed, or, when none did, of all. That is the periodic pass,
// which mends what somebody else broke. A service that cannot be prepared stays
// in b.state as it was before, or is left out if it is new.
func (b *Backend) prepareServices(before *lb.State) work {
	// Asked first: what changes meanwhile changes it.
	todo := work{neighVersion: b.neigh.Version()}
	b.applies++
	resourced := !slices.Equal(before.OuterSources, b.state.OuterSources)
	relaid := !equalVIPsAndPeers(before, &b.state) || len(before.Services) != len(b.state.Services)
	services := make([]*service, 0, len(b.state.Services))
	refused := map[string]bool{}
	for i := range b.state.Services {
		conf := &b.state.Services[i]
		s, err := b.findOrAddService(i, conf, &todo.undo)
		if err != nil {
			todo.refused = append(todo.refused, err)
			refused[conf.Name] = true
			continue
		}
		s.inApply = b.applies
		services = append(services, s)
		relaid = relaid || before.Services[i].Name != conf.Name
		if !resourced && b.isUnchanged(s, conf, todo.neighVersion) {
			s.conf = *conf // keep the new slices: the next compare can then stop at equal pointers
			continue
		}
		relaid = relaid || !slices.Equal(before.Services[i].Listeners, conf.Listeners) ||
			before.Services[i].KeepsNoFlows() != conf.KeepsNoFlows()
		s.wanted = *conf
		todo.services = append(todo.services, s)
	}
	if len(todo.services) == 0 {
		todo.services, todo.all = slices.Clone(services), true
		for _, s := range services {
			s.wanted = s.conf
		}
	}
	relaid = b.prepareAll(&todo, refused) || relaid
	b.keepRefused(refused)
	b.order = slices.DeleteFunc(services, func(s *service) bool { return b.byIndex[s.index] != s })
	if relaid || len(refused) > 0 {
		b.revision++
	}
	return todo
}

// prepareAll prepares the services of todo, takes out those that cannot be,
// and reports whether VIPs have to be laid out because of the others.
func (b *Backend) prepareAll(todo *work, refused map[string]bool) (relaid bool) {
	prepared := todo.services[:0]
	for _, s := range todo.services {
		wasLocal, name := s.local, s.wanted.Name
		restore := b.remember(s)
		if err := b.prepare(s); err != nil {
			restore()
			s.isWritten = false
			todo.refused = append(todo.refused, err)
			refused[name] = true
			continue
		}
		todo.undo.add(restore)
		prepared = append(prepared, s)
		relaid = relaid || wasLocal != s.local
	}
	todo.services = prepared
	return relaid
}

// keepRefused gives the refused services of b.state their former
// configuration, and drops those that have none.
func (b *Backend) keepRefused(refused map[string]bool) {
	if len(refused) == 0 {
		return
	}
	kept := b.state.Services[:0]
	for _, conf := range b.state.Services {
		if !refused[conf.Name] {
			kept = append(kept, conf)
			continue
		}
		if s := b.services[conf.Name]; s != nil && s.isThere {
			kept = append(kept, s.conf)
		} else if s != nil && s.isNew {
			b.forget(conf.Name, s)
		}
	}
	b.state.Services = kept
}

// prepare brings the record of a service in line with s.wanted.
func (b *Backend) prepare(s *service) error {
	s.conf = s.wanted
	if !s.isThere { // a service that returns has its flows, but starts anew
		s.ring, s.inRing = nil, nil
	}
	s.isThere, s.isWritten, s.isFresh, s.isNew = true, false, s.isNew, false
	if err := b.placeReals(s); err != nil {
		return err
	}
	if err := b.layRing(s); err != nil {
		return err
	}
	b.describe(s)
	s.filtered, s.local = b.filtered(&s.conf), b.hasLocal(s)
	return nil
}

// equalVIPsAndPeers reports whether all is the same that VIPs are laid out by, besides
// the services.
func equalVIPsAndPeers(a, b *lb.State) bool {
	return slices.Equal(a.VIPs, b.VIPs) && slices.Equal(a.Peers, b.Peers)
}

// isUnchanged reports whether preparing a service again would change nothing: of
// ten thousand services, few do. It looks up its reals' MACs if some real's
// may have changed.
func (b *Backend) isUnchanged(s *service, conf *lb.Service, neighVersion uint64) bool {
	if !s.isWritten || !s.isThere || s.filtered != b.filtered(conf) || !s.conf.Equal(conf) {
		return false
	}
	if neighVersion == b.neighVersion {
		return true
	}
	for _, r := range s.reals {
		if r.isThere && r.near != b.findWay(r.conf) {
			return false
		}
	}
	return s.local == b.hasLocal(s)
}

// hasLocal reports whether this host is one of the service's reals: also one
// that is ill by our own judgement, a peer's may be another.
func (b *Backend) hasLocal(s *service) bool {
	// Not s.reals: those that leave now are there, too.
	configured := func(c lb.Real) bool { return s.reals[c.Key()].near.Local }
	absent := func(c lb.Real) bool { return b.neigh.Lookup(c.Addr).Local }
	return slices.ContainsFunc(s.conf.Reals, configured) || slices.ContainsFunc(s.conf.Absent, absent)
}
