package bgp

import (
	"net/netip"
	"time"
)

// defaultHoldTime is that of a peer that names none (RFC 4271 section 10).
const defaultHoldTime = 90 * time.Second

// Config says who is told what.
type Config struct {
	ASN      uint32     // ours
	RouterID netip.Addr // IPv4; must differ between directors
	Peers    []Peer

	MED         *uint32  // MULTI_EXIT_DISC, nil: none
	LocalPref   *uint32  // to peers of our own AS, nil: none
	Communities []uint32 // RFC 1997

	// GracefulRestart is how long routers may keep our paths after a session
	// was lost; 0: not at all. Only with BFD does a dead host not keep them.
	GracefulRestart time.Duration
}

// Peer is a router.
type Peer struct {
	Address  netip.Addr
	ASN      uint32
	Password string // TCP MD5 (RFC 2385), "": none
	HoldTime time.Duration
	Multihop uint8 // hops to a router that is not on the segment; 0 or 1: it is
	GTSM     bool  // only from a router that is so many hops away at most (RFC 5082)
	BFD      BFD
	Source   netip.Addr // our address of the session; zero: the kernel chooses
}

// BFD says how a dead peer is found (RFC 5880, RFC 5881). Interval 0: not by
// BFD.
type BFD struct {
	Interval   time.Duration // between packets, in both directions
	Multiplier uint8         // packets that may be missing
}

// Route is an address that is announced.
type Route struct {
	Addr       netip.Addr
	IsDraining bool // routers are asked to prefer others: GRACEFUL_SHUTDOWN (RFC 8326) and a longer AS path
}
