package bgp

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// bfdLook is the time between looks at where BFD comes from.
const bfdLook = time.Second

// bfdSources are the addresses that the routes have had BFD with routers come from. GoBGP
// opens its socket once, which keeps its source address: that of another interface, where a
// default route was the only one at that time. The kernel asks for the router's MAC in the name of that
// address, too: a router that does not answer there gets no session either.
type bfdSources map[netip.Addr]netip.Addr

// mustRestart reports whether BFD is to begin anew, since it is not up and would come
// from another address by now; the zero address is no route.
func (b bfdSources) mustRestart(router, source netip.Addr, isUp bool) bool {
	before := b[router]
	if !source.IsValid() || isUp && before.IsValid() {
		return false
	}
	b[router] = source
	return before.IsValid() && before != source
}

// restartBFD begins BFD anew with the routers where it must.
func (s *Speaker) restartBFD(ctx context.Context, srv *server.BgpServer, sources bfdSources) {
	for _, p := range s.config.Peers {
		if p.BFD.Interval == 0 {
			continue
		}
		st := PeerStatus{BFD: "up"} // of a router that is taken away at the moment
		_ = srv.ListPeer(ctx, &api.ListPeerRequest{Address: p.Address.String()}, func(known *api.Peer) { describe(&st, known) })
		if !sources.mustRestart(p.Address, sourceTo(p.Address), st.BFD == "up") {
			continue
		}
		without := p
		without.BFD = BFD{}
		for _, next := range []Peer{without, p} {
			if _, err := srv.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: s.peer(next)}); err != nil {
				s.log.Warn("BFD not begun anew", "router", p.Address, "err", err)
			}
		}
	}
}

// sourceTo is the address that the routes have packets to a router come from; the zero
// address: there is no route.
func sourceTo(router netip.Addr) netip.Addr {
	const bfdPort = 3784
	c, err := net.Dial("udp", net.JoinHostPort(router.String(), strconv.Itoa(bfdPort)))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
}
