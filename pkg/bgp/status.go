package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Status is what is announced to whom, for people and metrics.
type Status struct {
	Peers []PeerStatus `json:"peers"`
	Hook  []HookStatus `json:"hook,omitempty"` // instead of peers, where another daemon speaks BGP
	VIPs  []Decision   `json:"vips"`
}

// PeerStatus is what is known of a router.
type PeerStatus struct {
	Peer   netip.Addr `json:"peer"`
	ASN    uint32     `json:"asn"`
	IsUp   bool       `json:"up"`
	State  string     `json:"state"`            // of the session (RFC 4271 section 8.2.2): "established", "active" …
	Since  time.Time  `json:"since"`            // when it was established; zero if it is not
	Reason string     `json:"reason,omitempty"` // why it is not up, and that it flaps, for people
	BFD    string     `json:"bfd,omitempty"`    // "up", "down", …; "" without BFD
}

// Status reports on every router, in the order of the configuration.
func (s *Speaker) Status(ctx context.Context) (Status, error) {
	peers, err := s.peers(ctx)
	return Status{Peers: peers}, err
}

func (s *Speaker) peers(ctx context.Context) ([]PeerStatus, error) {
	s.mu.Lock()
	srv := s.server
	s.mu.Unlock()
	found := map[string]*api.Peer{}
	if srv != nil {
		if err := srv.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
			found[p.GetConf().GetNeighborAddress()] = p
		}); err != nil {
			return nil, fmt.Errorf("bgp: %w", err)
		}
	}
	status := make([]PeerStatus, 0, len(s.config.Peers))
	for _, c := range s.config.Peers {
		st := PeerStatus{Peer: c.Address, ASN: c.ASN, State: "idle", Reason: "not started"}
		if p := found[c.Address.String()]; p != nil {
			describe(&st, p)
		}
		if srv != nil {
			st.Reason = s.reason(c.Address, st.IsUp)
		}
		status = append(status, st)
	}
	return status, nil
}

func describe(st *PeerStatus, p *api.Peer) {
	state := p.GetState()
	st.State = word(state.GetSessionState().String(), "SESSION_STATE_")
	st.IsUp = state.GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED
	if p.GetBfd().GetEnabled() {
		st.BFD = word(state.GetBfdState().GetSessionState().String(), "BFD_SESSION_STATE_")
	}
	if up := p.GetTimers().GetState().GetUptime(); up != nil && st.IsUp {
		st.Since = up.AsTime()
	}
}

func word(name, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", " ")
}

// reason is why there is no session with a router, and that it flaps, for people.
func (s *Speaker) reason(peer netip.Addr, isUp bool) string {
	s.heard.Lock()
	defer s.heard.Unlock()
	text := s.renewals.flapping(peer, time.Now())
	switch why := s.failures[peer]; {
	case isUp:
		return text
	case why != "":
		return text + why
	}
	return text + "no answer to our connection yet"
}

// noteFailure keeps the reason of a session's end.
func (s *Speaker) noteFailure(e *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
	st := e.Peer.State
	s.heard.Lock()
	defer s.heard.Unlock()
	isReset := s.renewals.isUp[st.NeighborAddress] && s.renewals.isDue[st.NeighborAddress] // the reason is BFD's
	s.renewals.is(st.NeighborAddress, st.SessionState == wire.BGP_FSM_ESTABLISHED, at)
	if st.SessionState == wire.BGP_FSM_ESTABLISHED {
		delete(s.failures, st.NeighborAddress)
		return
	}
	if why := explain(st.DisconnectReason, st.DisconnectMessage); why != "" && !isReset {
		s.failures[st.NeighborAddress] = why
	}
}

func (s *Speaker) setFailure(peer netip.Addr, why string) {
	s.heard.Lock()
	defer s.heard.Unlock()
	s.failures[peer] = why
}

func (s *Speaker) noteReset(peer netip.Addr) {
	s.heard.Lock()
	defer s.heard.Unlock()
	if s.renewals.isUp[peer] {
		s.failures[peer] = badBFD
	}
	s.renewals.hasBeenReset(peer)
}

// Reasons that are heard in GoBGP's log.
const (
	badPeerAS = "the router has another AS number than the configuration gives it (asn of the peer)"
	badBFD    = "BFD is down: the router is silent, or has ended BFD"

	closedByRouter = "the router closed the connection: no session for us is configured there, or its BGP speaker ended"
)

// explainConnect says in words why there is no connection.
func explainConnect(err string) string {
	switch {
	case strings.HasSuffix(err, "connection refused"):
		return "the router refuses connections: no BGP speaker listens there"
	case strings.HasSuffix(err, "no route to host"), strings.HasSuffix(err, "network is unreachable"):
		return "the router is unreachable: " + err[strings.LastIndex(err, ": ")+len(": "):]
	case strings.HasSuffix(err, "timeout"):
		return "no answer to our connection: another password on one side, or the router is unreachable"
	}
	return "no connection: " + err
}

// explain says in words why a session is down; "" where nothing has happened.
func explain(reason api.PeerState_DisconnectReason, message string) string {
	switch {
	case reason == api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		return badPeerAS
	case reason == api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		// GoBGP reads no NOTIFICATION before the session stands.
		return "the router refused the session as it began: it expects another AS number of us (asn), or another capability"
	case reason == api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		return "the router was silent for the hold time"
	case reason == api.PeerState_DISCONNECT_REASON_NOTIFICATION_RECEIVED:
		return "the router ended the session: " + message
	case reason == api.PeerState_DISCONNECT_REASON_READ_FAILED:
		return closedByRouter
	case reason == api.PeerState_DISCONNECT_REASON_UNSPECIFIED, reason == api.PeerState_DISCONNECT_REASON_IDLE_TIMER_EXPIRED:
		return "" // another attempt begins
	}
	return word(reason.String(), "DISCONNECT_REASON_") + ": " + message
}
