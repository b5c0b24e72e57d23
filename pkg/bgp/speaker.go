package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326).
const gracefulShutdown = 0xffff0000

// Speaker tells routers which addresses to send here.
type Speaker struct {
	log    *slog.Logger
	config Config

	mu        sync.Mutex
	server    *server.BgpServer // nil: not running
	announced map[netip.Addr]Route
	wanted    []Route
	cancel    context.CancelFunc // ends the watch for failures, and renewals
	renewing  sync.WaitGroup

	heard    sync.Mutex            // of what GoBGP tells, which may be while mu is held: nobody calls it with heard
	failures map[netip.Addr]string // why a router's last session ended, or did not begin
	renewals renewals
}

// NewSpeaker makes a speaker; nothing is opened before [Speaker.Start].
func NewSpeaker(c Config, log *slog.Logger) *Speaker {
	return &Speaker{log: log, config: c, announced: map[netip.Addr]Route{}, failures: map[netip.Addr]string{}, renewals: newRenewals(len(c.Peers))}
}

// Start opens the sessions. Routes that were set before are announced as soon
// as a session stands.
func (s *Speaker) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := slog.New(hearing{Handler: s.log.Handler(), failed: s.setFailure, reset: s.noteReset})
	srv := server.NewBgpServer(server.LoggerOption(log, new(slog.LevelVar)))
	go srv.Serve()
	err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: s.config.ASN, RouterId: s.config.RouterID.String(), ListenPort: -1,
	}})
	if err == nil {
		err = setRules(ctx, srv, s.config)
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if err == nil {
		err = srv.WatchEvent(watch, server.WatchEventMessageCallbacks{OnPeerUpdate: s.noteFailure}, server.WatchPeer())
	}
	for _, p := range s.config.Peers {
		if err == nil {
			err = srv.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(p)})
		}
	}
	if err != nil {
		cancel()
		srv.Stop()
		return fmt.Errorf("bgp: %w", err)
	}
	s.server, s.cancel = srv, cancel
	s.renewing.Go(func() { s.renew(watch, srv) })
	return s.announce()
}

// family is what an address is announced as.
func family(a netip.Addr) wire.Family {
	if a.Is4() {
		return wire.RF_IPv4_UC
	}
	return wire.RF_IPv6_UC
}

// families is what is announced in a session: addresses of the family that the
// session itself has, so that the next hop is our end of it. A router that takes
// both has two sessions, or one of link-local addresses: it is told of IPv4 with a
// next hop of IPv6 (RFC 8950).
func families(peer netip.Addr) []wire.Family {
	if peer.IsLinkLocalUnicast() && peer.Is6() {
		return []wire.Family{wire.RF_IPv4_UC, wire.RF_IPv6_UC}
	}
	return []wire.Family{family(peer)}
}

func (s *Speaker) peer(p Peer) *api.Peer {
	hold := p.HoldTime
	if hold == 0 {
		hold = defaultHoldTime
	}
	peer := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Address.String(), PeerAsn: p.ASN, LocalAsn: s.config.ASN, AuthPassword: p.Password,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: uint64(hold / time.Second), KeepaliveInterval: uint64(hold / time.Second / 3),
			ConnectRetry: 5, IdleHoldTimeAfterReset: uint64(sessionHold / time.Second),
		}},
		Transport: &api.Transport{},
	}
	if p.Source.IsValid() {
		peer.Transport.LocalAddress = p.Source.String()
	}
	switch {
	case p.GTSM:
		peer.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - max(1, uint32(p.Multihop))}
	case p.Multihop > 1:
		peer.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(p.Multihop)}
	}
	if p.BFD.Interval > 0 {
		us := uint32(p.BFD.Interval / time.Microsecond)
		peer.Bfd = &api.BfdPeerConfig{
			Enabled: true, DesiredMinimumTxInterval: us, RequiredMinimumReceive: us,
			DetectionMultiplier: uint32(p.BFD.Multiplier),
		}
	}
	restarts := s.config.GracefulRestart > 0
	if restarts {
		peer.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(s.config.GracefulRestart / time.Second), NotificationEnabled: true,
		}
	}
	for _, f := range families(p.Address) {
		peer.AfiSafis = append(peer.AfiSafis, &api.AfiSafi{
			Config: &api.AfiSafiConfig{
				Family: &api.Family{Afi: api.Family_Afi(f.Afi()), Safi: api.Family_Safi(f.Safi())}, Enabled: true,
			},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: restarts}},
		})
	}
	return peer
}

// Set announces exactly these routes. It may be called at any time; setting
// the same again says nothing.
func (s *Speaker) Set(routes []Route) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = slices.Clone(routes)
	if s.server == nil {
		return nil
	}
	return s.announce()
}

// announce says what is wanted and was not said, and withdraws what is not
// wanted any more.
func (s *Speaker) announce() error {
	var errs []error
	wanted := make(map[netip.Addr]bool, len(s.wanted))
	for _, r := range s.wanted {
		wanted[r.Addr] = true
		if old, ok := s.announced[r.Addr]; ok && old == r {
			continue
		}
		path, err := s.path(r)
		if err == nil {
			_, err = s.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("bgp: announce %s: %w", r.Addr, err))
			continue
		}
		s.announced[r.Addr] = r
	}
	for addr, r := range s.announced {
		if wanted[addr] {
			continue
		}
		path, err := s.path(r)
		if err == nil {
			err = s.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("bgp: withdraw %s: %w", addr, err))
			continue
		}
		delete(s.announced, addr)
	}
	return errors.Join(errs...)
}

// path is a route with its attributes. The next hop is this host.
func (s *Speaker) path(r Route) (*apiutil.Path, error) {
	nlri, err := wire.NewIPAddrPrefix(netip.PrefixFrom(r.Addr, r.Addr.BitLen()))
	if err != nil {
		return nil, err
	}
	attrs := []wire.PathAttributeInterface{wire.NewPathAttributeOrigin(0)} // IGP
	communities, localPref := slices.Clone(s.config.Communities), s.config.LocalPref
	if r.IsDraining {
		communities, localPref = append(communities, gracefulShutdown), new(uint32)
	}
	if len(communities) > 0 {
		attrs = append(attrs, wire.NewPathAttributeCommunities(communities))
	}
	if s.config.MED != nil {
		attrs = append(attrs, wire.NewPathAttributeMultiExitDisc(*s.config.MED))
	}
	if localPref != nil {
		attrs = append(attrs, wire.NewPathAttributeLocalPref(*localPref))
	}
	var hop wire.PathAttributeInterface
	if r.Addr.Is4() {
		hop, err = wire.NewPathAttributeNextHop(netip.IPv4Unspecified())
	} else {
		hop, err = wire.NewPathAttributeMpReachNLRI(family(r.Addr), []wire.PathNLRI{{NLRI: nlri}}, netip.IPv6Unspecified())
	}
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{Family: family(r.Addr), Nlri: nlri, Attrs: append(attrs, hop)}, nil
}

// Settle returns at once: what was set has been handed to the sessions.
func (s *Speaker) Settle(context.Context) {}

// Stop ends the sessions with a NOTIFICATION; routers forget our routes at
// once.
func (s *Speaker) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.cancel()
		s.renewing.Wait()
		s.server.Stop()
		s.server = nil
	}
	clear(s.announced)
}
