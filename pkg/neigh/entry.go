package neigh

import (
	"net"
	"net/netip"
)

// MAC is an Ethernet address. The zero MAC means "not known".
type MAC [6]byte

// String formats the MAC as "02:00:ac:19:00:0c"; the zero MAC is "".
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return net.HardwareAddr(m[:]).String()
}

// macFrom copies a hardware address; ok is false if it is not one of a
// single Ethernet station.
func macFrom(b []byte) (m MAC, ok bool) {
	if copy(m[:], b) != len(m) || len(b) != len(m) {
		return MAC{}, false
	}
	group := m[0]&1 != 0
	return m, !group && m != MAC{}
}

// Entry says how frames reach one real server.
type Entry struct {
	MAC     MAC    // the real's, or that of its Gateway; zero while it is not resolved or Local
	IfIndex int    // the interface they leave by; 0 if there is none
	Device  string // its name
	SrcMAC  MAC    // its own MAC
	MTU     int    // of the way: the route's, if it has one, else the interface's; in bytes of IP
	Local   bool   // the real is this host

	// Gateway is the router that the real is behind, and whose MAC is given:
	// only packets to the real's own address get there. It is the zero Addr if
	// the real is on the segment.
	Gateway netip.Addr

	// SrcAddr is the address that this host should speak from to the real:
	// one of the interface that is no VIP, zero if there is none. (A real that
	// has the VIP itself does not answer one that speaks from it.)
	SrcAddr netip.Addr

	Err     string // why frames cannot reach the real now, in words; empty if they can
	Pending bool   // with Err: only because it is still being asked; what was known of it before may hold
	Silent  bool   // with Err: it was asked and does not answer
	OwnLink bool   // with Err: through no fault of the real; this host has no way to it, or nothing answers there
}

// Usable reports whether frames can reach the real.
func (e Entry) Usable() bool { return e.Err == "" }

// path is what the host's routing says about one real.
type path struct {
	ifindex int
	device  string
	mac     MAC
	mtu     int
	local   bool
	src     srcAddr    // the sender address of questions
	srcIP   netip.Addr // what to connect from
	noARP   bool       // the interface carries no questions (IFF_NOARP)
	err     string     // why the real cannot be reached this way
	isLink  bool       // with err: because of an interface of this host
	fixed   MAC        // the real's, by the user's word: it is never asked for
	gateway netip.Addr // the router that it is behind, which is asked instead of it

	routeSrc netip.Addr // with gateway: what the host would speak from
}

// sameWay reports whether a MAC that was learned on p is still good on q.
func (p path) sameWay(q path) bool {
	return p.ifindex == q.ifindex && p.local == q.local && p.fixed == q.fixed && p.gateway == q.gateway && (p.err == "") == (q.err == "")
}
