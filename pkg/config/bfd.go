package config

import (
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// defaultSessionTTL is what a session of `bfd:` sends with.
const defaultSessionTTL = 255

// readBFDSession reads one entry of `bfd:`.
func readBFDSession(c *cursor) bfd.Session {
	o := c.object()
	s := bfd.Session{
		Name:      need(o, "name", "a name that no other session has", name),
		Neighbour: need(o, "neighbour", "the neighbour's address", address),
		Source:    get(o, "source", netip.Addr{}, address),
		Timing: bfd.Timing{
			MinTx:      get(o, "min_tx", defaultBFD, duration(bfd.MinInterval, bfd.MaxInterval, time.Millisecond)),
			MinRx:      get(o, "min_rx", defaultBFD, duration(bfd.MinInterval, bfd.MaxInterval, time.Millisecond)),
			IdleTx:     get(o, "idle_tx", bfd.MinIdle, duration(bfd.MinIdle, bfd.MaxIdle, time.Millisecond)),
			Multiplier: get(o, "multiplier", defaultBFDMissing, number[uint8](1, 255)),
		},
		IsPassive: get(o, "passive", false, boolean),
		Multihop:  get(o, "multihop", false, boolean),
		TTL:       get(o, "ttl", defaultSessionTTL, number[uint8](1, 255)),
	}
	usual := uint8(0)
	if s.Multihop {
		usual = s.TTL
	}
	s.MaxHops = get(o, "max_hops", usual, number[uint8](0, 255))
	if !o.done() {
		return s
	}
	if s.Source.IsValid() && s.Source.Is4() != s.Neighbour.Is4() {
		o.at("source").errorf("%s for the neighbour %s (want both IPv4, or both IPv6)", s.Source, s.Neighbour)
	}
	c.unique("BFD session", s.Name, s.Name)
	kind := "neighbour on the segment"
	if s.Multihop {
		kind = "neighbour behind routers"
	}
	c.unique(kind, s.Neighbour.String(), s.Neighbour.String())
	return s
}

// trackBFD reads a BFD session that must be up.
func trackBFD(c *cursor) vrrp.TrackBFD {
	o := c.object()
	t := vrrp.TrackBFD{
		Name:   need(o, "name", "the name of a session of bfd", name),
		Weight: get(o, "weight", 0, number(-maxTracked, maxTracked)), IsReversed: get(o, "reverse", false, boolean),
	}
	if o.done() {
		o.at("name").usesBFD(t.Name)
	}
	return t
}

// bfdUse is a place that names a BFD session.
type bfdUse struct {
	name string
	at   *cursor
}

func (c *cursor) usesBFD(name string) { c.d.bfdUses = append(c.d.bfdUses, bfdUse{name, c}) }

// compareBFD looks at what names sessions, and at who else speaks BFD.
func (d *decoder) compareBFD(o *object, cfg *Config) {
	for _, use := range d.unknownSessions(cfg) {
		use.at.errorf("%s is no session of bfd (want the name of one)", quoted(use.name))
	}
	for _, p := range cfg.BGP.Peers {
		if p.BFDInterval > 0 && len(cfg.BFD) > 0 {
			o.at("bfd").onKey().errorf("beside bfd of the BGP peer %s (want one of the two: both need UDP port 3784 of this host)", p.Address)
			return
		}
	}
}

// unknownSessions are the places that name a session which there is not.
func (d *decoder) unknownSessions(cfg *Config) (uses []bfdUse) {
	known := map[string]bool{}
	for _, s := range cfg.BFD {
		known[s.Name] = true
	}
	for _, use := range d.bfdUses {
		if !known[use.name] {
			uses = append(uses, use)
		}
	}
	return uses
}
