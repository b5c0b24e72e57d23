package xdp

import (
	"errors"
	"fmt"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Explain runs a packet through the packet path itself, built so that it
// stores nothing, and tells what it decided and why.
func (b *Backend) Explain(p lb.Packet) (lb.Explanation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.dp.Attachments) == 0 {
		return lb.Explanation{}, errors.New("explain: the packet path serves no interface")
	}
	at := b.dp.Attachments[0]
	f, err := buildFrame(p, b.dp.Interfaces[at.Slot].MAC)
	if err != nil {
		return lb.Explanation{}, err
	}
	if !at.IsUntagged {
		f, _ = retag(f, b.dp.Way(at.VLANs[0].Index))
	}
	x, err := b.dp.Explain(at.Name, f)
	if err != nil {
		return lb.Explanation{}, fmt.Errorf("explain %s > %s: %w", p.Src, p.Dst, err)
	}
	return b.explanationOf(x), nil
}
