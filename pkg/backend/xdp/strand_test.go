package xdp

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Reals behind dead links of this host stay as they were only if no other real
// of the service can be reached, and if it is known where they were.
func TestStrand(t *testing.T) {
	up := Neighbor{MAC: [6]byte{2, 1}}
	dead := Neighbor{MAC: [6]byte{2, 2}, Err: "eth0 has no carrier", OwnLink: true}
	silent := Neighbor{MAC: [6]byte{2, 3}, Err: "does not answer ARP"}
	unknown := Neighbor{Err: "eth0 has no carrier", OwnLink: true}
	for name, c := range map[string]struct {
		near []Neighbor
		want []bool // reachable
	}{
		"all up":                  {[]Neighbor{up, up}, []bool{true, true}},
		"all behind a dead link":  {[]Neighbor{dead, dead}, []bool{true, true}},
		"one within reach":        {[]Neighbor{dead, up}, []bool{false, true}},
		"one silent by itself":    {[]Neighbor{dead, silent}, []bool{false, false}},
		"one that was never seen": {[]Neighbor{dead, unknown}, []bool{false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{reals: map[netip.AddrPort]*real{}}
			for i, n := range c.near {
				conf := lb.Real{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Weight: 1}
				s.conf.Reals = append(s.conf.Reals, conf)
				s.reals[conf.Key()] = &real{conf: conf, isThere: true, near: n}
			}
			s.strand()
			for i, conf := range s.conf.Reals {
				if got := s.reals[conf.Key()].usable(); got != c.want[i] {
					t.Errorf("real %d: usable %v, want %v", i, got, c.want[i])
				}
			}
		})
	}
}
