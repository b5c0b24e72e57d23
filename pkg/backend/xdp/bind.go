package xdp

import (
	"net/netip"

	"github.com/lvx-lb/lvx/bpf"
)

// Bound implements [lb.Binder].
func (b *Backend) Bound(service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.services[service]
	if s == nil || s.reals[real] == nil {
		return nil, 0, nil
	}
	slot := s.reals[real].slot
	now := b.now()
	b.eachTemplate(func(e entry, t bpf.TemplateValue) bool {
		if t.Real() != slot || t.Left(now) < 0 {
			return true
		}
		if n++; n <= limit {
			network := e.client()
			bits := s.conf.Persistence.Prefix
			if bits == 0 || bits > network.BitLen() {
				bits = network.BitLen()
			}
			clients = append(clients, netip.PrefixFrom(network, bits))
		}
		return true
	})
	return clients, n, nil
}

// Unbind implements [lb.Binder]. A packet that has found its template a moment
// ago may follow it still; it does not bring the template back.
func (b *Backend) Unbind(service string, real netip.AddrPort) (ended int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.services[service]
	if s == nil || s.reals[real] == nil {
		return 0, nil
	}
	slot := s.reals[real].slot
	now := b.now()
	b.eachTemplate(func(e entry, t bpf.TemplateValue) bool {
		for t.IsLive() && t.Real() == slot {
			if compareAndSwap64(e.value, uint64(t), uint64(t.Ended())) {
				if t.Left(now) >= 0 {
					ended++
				}
				break
			}
			t = bpf.TemplateValue(load64(e.value)) // a packet has re-armed it
		}
		return true
	})
	return ended, nil
}
