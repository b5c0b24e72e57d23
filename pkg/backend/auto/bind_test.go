package auto

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// binding is a data path that binds clients, and lets them go unless it cannot.
type binding struct {
	lb.Backend
	clients []netip.Prefix
	cannot  error
}

func (b *binding) Bound(_ string, _ netip.AddrPort, limit int) ([]netip.Prefix, int, error) {
	return b.clients[:min(limit, len(b.clients))], len(b.clients), b.cannot
}

func (b *binding) Unbind(string, netip.AddrPort) (int, error) {
	if b.cannot != nil {
		return 0, b.cannot
	}
	return len(b.clients), nil
}

// A service on its way from one data path to the other has clients on both, and
// what each says of them is said.
func TestClientsOfBothDataPaths(t *testing.T) {
	client := func(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 32) }
	web, other := []lb.Service{{Name: "web"}}, []lb.Service{{Name: "other"}}
	for name, test := range map[string]struct {
		onXDP, onIPVS []lb.Service
		cannot        error // of IPVS
		limit         int
		clients       []netip.Prefix
		n, ended      int
	}{
		"on XDP":        {web, other, errors.ErrUnsupported, 8, []netip.Prefix{client(1), client(2)}, 2, 2},
		"on IPVS":       {other, web, nil, 8, []netip.Prefix{client(2), client(3)}, 2, 2},
		"on both":       {web, web, errors.ErrUnsupported, 8, []netip.Prefix{client(1), client(2), client(3)}, 3, 2},
		"more than fit": {web, web, nil, 2, []netip.Prefix{client(1), client(2)}, 3, 4},
		"on neither":    {other, other, errors.ErrUnsupported, 8, nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := &Backend{
				xdp: &binding{clients: []netip.Prefix{client(1), client(2)}}, onXDP: test.onXDP,
				ipvs: &binding{clients: []netip.Prefix{client(2), client(3)}, cannot: test.cannot}, onIPVS: test.onIPVS,
			}
			want := test.cannot
			if test.onIPVS[0].Name != "web" {
				want = nil
			}
			clients, n, err := b.Bound("web", netip.AddrPort{}, test.limit)
			if !slices.Equal(clients, test.clients) || n != test.n || !errors.Is(err, want) {
				t.Errorf("%d clients are bound, %v, %v", n, clients, err)
			}
			if ended, err := b.Unbind("web", netip.AddrPort{}); ended != test.ended || !errors.Is(err, want) {
				t.Errorf("%d are let go, %v", ended, err)
			}
		})
	}
}
