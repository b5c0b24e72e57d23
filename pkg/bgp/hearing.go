package bgp

import (
	"context"
	"log/slog"
	"net/netip"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// hearing passes GoBGP's log on, and hears in it what GoBGP tells nobody of
// otherwise: why a session does not begin, of a router that takes no connection or
// whose OPEN it refuses; and that BFD has a session reset.
type hearing struct {
	slog.Handler
	peer   netip.Addr // that the log speaks of, if it does
	failed func(peer netip.Addr, why string)
	reset  func(peer netip.Addr)
}

// peerKey is the attribute by which GoBGP's log names a peer.
const peerKey = "Key"

// Enabled implements [slog.Handler]: what nobody reads is heard all the same.
func (h hearing) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h hearing) Handle(ctx context.Context, r slog.Record) error {
	peer := h.peer
	var code, subcode uint64
	operation, failure := "", ""
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case peerKey:
			peer, _ = netip.ParseAddr(a.Value.String())
		case "Code":
			code = number(a.Value)
		case "Subcode":
			subcode = number(a.Value)
		case "Op":
			operation = a.Value.String()
		case "Error":
			failure = a.Value.String()
		}
		return true
	})
	switch {
	case r.Message == "sent notification" && code == wire.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == wire.BGP_ERROR_SUB_BAD_PEER_AS:
		h.failed(peer, badPeerAS)
	case r.Message == "failed to connect":
		h.failed(peer, explainConnect(failure))
	case r.Message == "outgoing connection IO error":
		h.failed(peer, closedByRouter)
	case r.Message == "Send operation notification" && operation == "Neighbor reset":
		h.reset(peer)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h hearing) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == peerKey {
			h.peer, _ = netip.ParseAddr(a.Value.String())
		}
	}
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

// WithGroup implements [slog.Handler].
func (h hearing) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}

func number(v slog.Value) uint64 {
	switch v := v.Any().(type) {
	case uint8:
		return uint64(v)
	case int64:
		return uint64(v)
	case uint64:
		return v
	}
	return 0
}
