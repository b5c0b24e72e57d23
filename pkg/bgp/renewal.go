package bgp

import (
	"context"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// renewals are sessions that have to begin anew from nothing. GoBGP keeps the
// reset that BFD asked of a session which was down by then, and gives it to the
// next session as soon as that stands; the router then takes BFD's session away,
// BFD asks for a reset again, and so on without an end. A peer that is made anew
// has none to give.
type renewals struct {
	isUp  map[netip.Addr]bool
	isDue map[netip.Addr]bool // once the session is down
	ask   chan netip.Addr
}

func newRenewals(peers int) renewals {
	return renewals{isUp: map[netip.Addr]bool{}, isDue: map[netip.Addr]bool{}, ask: make(chan netip.Addr, peers)}
}

// hasBeenReset notes that BFD has asked for a reset.
func (r *renewals) hasBeenReset(peer netip.Addr) {
	r.isDue[peer] = true
	r.begin(peer)
}

// is notes that a session is up, or is not.
func (r *renewals) is(peer netip.Addr, isUp bool) {
	r.isUp[peer] = isUp
	r.begin(peer)
}

// begin asks for a renewal that is due, if its time has come. Where as many are
// asked for already as there are peers, a later event asks again.
func (r *renewals) begin(peer netip.Addr) {
	if !r.isDue[peer] || r.isUp[peer] {
		return
	}
	select {
	case r.ask <- peer:
		delete(r.isDue, peer)
	default:
	}
}

// renew makes peers anew until ctx ends.
func (s *Speaker) renew(ctx context.Context, srv *server.BgpServer) {
	for {
		select {
		case <-ctx.Done():
			return
		case addr := <-s.renewals.ask:
			for _, p := range s.config.Peers {
				if p.Address != addr {
					continue
				}
				err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: addr.String()})
				if err == nil {
					err = srv.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(p)})
				}
				if err != nil && ctx.Err() == nil {
					s.log.Warn("session not made anew", "router", addr, "err", err)
				}
			}
		}
	}
}
