package doctor

import (
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// OffSegmentBFD is the kind of the finding that a BFD session of one hop has a
// neighbour that is further away, or this host itself.
const OffSegmentBFD = "bfd-off-segment"

// FindFarNeighbours lists the BFD sessions that cannot come up, because packets of
// their neighbours would be discarded.
func FindFarNeighbours(cfg *config.Config, h Host) (found []warnings.Warning) {
	for _, s := range cfg.BFD {
		if s.Multihop || s.MaxHops > 0 {
			continue
		}
		way, err := h.Route(s.Neighbour)
		w := warnings.Warning{Kind: OffSegmentBFD, Subject: "bfd " + s.Name}
		switch {
		case err != nil:
			w.Text, w.Cure = "no way to "+s.Neighbour.String()+": "+err.Error(), "give this host a route to it"
		case way.IsLocal:
			w.Text, w.Cure = s.Neighbour.String()+" is this host", "write the neighbour's address"
		case way.IsGateway:
			w.Text, w.Cure = s.Neighbour.String()+" is behind a router, and packets that come over one are discarded", "multihop: true on both sides"
		default:
			continue
		}
		found = append(found, w)
	}
	return found
}
