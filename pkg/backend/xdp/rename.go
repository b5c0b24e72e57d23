package xdp

import "github.com/lvx-lb/lvx/pkg/lb"

// renameServices gives services that are to have another name that name: their
// connections, templates and counters are the next state's then. restore takes it
// back.
func (b *Backend) renameServices(next []lb.Service) (restore func()) {
	renamed := lb.Renamed(b.state.Services, next)
	for name, was := range renamed {
		b.renameService(was, name)
	}
	return func() {
		for name, was := range renamed {
			b.renameService(name, was)
		}
	}
}

func (b *Backend) renameService(from, to string) {
	s := b.services[from]
	if s == nil || b.services[to] != nil {
		return
	}
	delete(b.services, from)
	b.services[to] = s
	s.conf.Name = to
	b.dp.Labels[s.index].Name = labelOf(to)
}

// labelOf is a service's name as the map of labels has it: cut, if need be.
func labelOf(name string) (label [56]int8) {
	for i := 0; i < min(len(name), len(label)-1); i++ {
		label[i] = int8(name[i])
	}
	return label
}
