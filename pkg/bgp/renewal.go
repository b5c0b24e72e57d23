package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// renewals are sessions that have to begin anew from nothing. GoBGP keeps the
// reset that BFD asked of a session which was down by then, and gives it to the
// next session as soon as that stands; the router then takes BFD's session away,
// BFD asks for a reset again, and so on without an end. A peer that is made anew
// has none to give. One that flaps is made anew after a time: GoBGP's own wait
// never grows.
type renewals struct {
	isUp  map[netip.Addr]bool
	isDue map[netip.Addr]bool // once the session is down
	ends  map[netip.Addr]flaps
	ask   chan renewal
}

// renewal is a session that begins anew after a time.
type renewal struct {
	peer  netip.Addr
	after time.Duration
}

// sessionHold is what GoBGP waits after a session's end: waits grow from there.
const sessionHold = time.Second

func newRenewals(peers int) renewals {
	return renewals{
		isUp: map[netip.Addr]bool{}, isDue: map[netip.Addr]bool{}, ends: map[netip.Addr]flaps{}, ask: make(chan renewal, peers),
	}
}

// hasBeenReset notes that BFD has asked for a reset.
func (r *renewals) hasBeenReset(peer netip.Addr) {
	r.isDue[peer] = true
	r.begin(peer)
}

// is notes that a session is up, or is not, at a time.
func (r *renewals) is(peer netip.Addr, isUp bool, at time.Time) {
	if r.isUp[peer] && !isUp {
		ends := append(r.ends[peer], at)
		ends.forget(at)
		r.ends[peer] = ends
		r.isDue[peer] = r.isDue[peer] || ends.isFlapping()
	}
	r.isUp[peer] = isUp
	r.begin(peer)
}

// flapping is what is to be said of a peer's session that flaps; "" if it does
// not.
func (r *renewals) flapping(peer netip.Addr, now time.Time) string {
	ends := slices.Clone(r.ends[peer])
	ends.forget(now)
	if !ends.isFlapping() {
		return ""
	}
	text := ends.describe("ended")
	if !r.isUp[peer] {
		text += fmt.Sprintf(": begins again after %s; ended last because ", r.hold(peer))
	}
	return text
}

// hold is how long a peer's session is to rest.
func (r *renewals) hold(peer netip.Addr) time.Duration {
	if ends := r.ends[peer]; ends.isFlapping() {
		return ends.hold(sessionHold)
	}
	return 0
}

// begin asks for a renewal that is due, if its time has come. Where as many are
// asked for already as there are peers, a later event asks again.
func (r *renewals) begin(peer netip.Addr) {
	if !r.isDue[peer] || r.isUp[peer] {
		return
	}
	select {
	case r.ask <- renewal{peer, r.hold(peer)}:
		delete(r.isDue, peer)
	default:
	}
}

// renew makes peers anew, and begins their BFD anew, until ctx ends.
func (s *Speaker) renew(ctx context.Context, srv *server.BgpServer) {
	sources := bfdSources{}
	look := time.NewTicker(bfdLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			s.restartBFD(ctx, srv, sources)
		case r := <-s.renewals.ask:
			for _, p := range s.config.Peers {
				if p.Address == r.peer {
					s.beginAnew(ctx, srv, p, r.after)
				}
			}
		}
	}
}

// beginAnew takes a peer away, and makes it anew after a time.
func (s *Speaker) beginAnew(ctx context.Context, srv *server.BgpServer, p Peer, after time.Duration) {
	warn := func(err error) {
		if err != nil && ctx.Err() == nil {
			s.log.Warn("session not made anew", "router", p.Address, "err", err)
		}
	}
	if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Address.String()}); err != nil {
		warn(err)
		return
	}
	s.renewing.Go(func() {
		select {
		case <-ctx.Done():
		case <-time.After(after):
			warn(srv.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(p)}))
		}
	})
}
