package bgp

import (
	"context"
	"log/slog"
	"net/netip"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// refusals passes GoBGP's log on, and hears in it why a session does not
// begin: of a router whose OPEN it refuses GoBGP tells nobody else.
type refusals struct {
	slog.Handler
	peer netip.Addr // that the log speaks of, if it does
	note func(peer netip.Addr, why string)
}

// peerKey is the attribute by which GoBGP's log names a peer.
const peerKey = "Key"

// Handle implements [slog.Handler].
func (h refusals) Handle(ctx context.Context, r slog.Record) error {
	peer := h.peer
	var code, subcode uint64
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case peerKey:
			peer, _ = netip.ParseAddr(a.Value.String())
		case "Code":
			code = number(a.Value)
		case "Subcode":
			subcode = number(a.Value)
		}
		return true
	})
	if r.Message == "sent notification" && code == wire.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == wire.BGP_ERROR_SUB_BAD_PEER_AS {
		h.note(peer, badPeerAS)
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h refusals) WithAttrs(attrs []slog.Attr) slog.Handler {
	peer := h.peer
	for _, a := range attrs {
		if a.Key == peerKey {
			peer, _ = netip.ParseAddr(a.Value.String())
		}
	}
	return refusals{h.Handler.WithAttrs(attrs), peer, h.note}
}

// WithGroup implements [slog.Handler].
func (h refusals) WithGroup(name string) slog.Handler {
	return refusals{h.Handler.WithGroup(name), h.peer, h.note}
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
