package lb

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that a listener can name. SCTP runs on kernel IPVS.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// Protocols that no service listens on, but [Packet] may have.
const (
	ICMP   Protocol = 1
	ICMPv6 Protocol = 58
)

// String gives the name that the configuration file uses: "tcp", "udp", "sctp".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	case ICMP:
		return "icmp"
	case ICMPv6:
		return "icmp6"
	}
	return strconv.Itoa(int(p))
}

// Listener is one address, protocol and port range that a service answers
// on. First = Last = 0 means every port of the protocol. An exact port wins
// over a range, a range over every port; two listeners of equal width must
// not overlap.
type Listener struct {
	Addr  netip.Addr // the VIP, never an IPv4-mapped IPv6 address
	Proto Protocol
	First uint16 // first port, 0 for every port
	Last  uint16 // last port, inclusive; equals First for one port
}

// EveryPort reports whether l takes every port of its protocol.
func (l Listener) EveryPort() bool { return l.First == 0 && l.Last == 0 }

// Contains reports whether l takes packets for the given port.
func (l Listener) Contains(port uint16) bool {
	return l.EveryPort() || (l.First <= port && port <= l.Last)
}

// Width is the number of ports that l takes: 1 to 65536. The narrowest
// listener that contains a port gets its packets.
func (l Listener) Width() int {
	if l.EveryPort() {
		return 65536
	}
	return int(l.Last) - int(l.First) + 1
}

// String writes l as the configuration file does: "192.0.2.1:80/tcp",
// "192.0.2.1:8000-8100/udp", "[2001:db8::1]:*/tcp".
func (l Listener) String() string {
	host := l.Addr.String()
	if l.Addr.Is6() {
		host = "[" + host + "]"
	}
	port := "*"
	switch {
	case l.EveryPort():
	case l.First == l.Last:
		port = strconv.Itoa(int(l.First))
	default:
		port = fmt.Sprintf("%d-%d", l.First, l.Last)
	}
	return host + ":" + port + "/" + l.Proto.String()
}

// Scheduler is the kernel's name of a scheduling algorithm (ip_vs_*.c).
type Scheduler string

// The schedulers that lvx knows.
const (
	RR  Scheduler = "rr"  // round robin
	WRR Scheduler = "wrr" // weighted round robin
	SH  Scheduler = "sh"  // source hashing
	DH  Scheduler = "dh"  // destination hashing
	MH  Scheduler = "mh"  // Maglev hashing
	LC  Scheduler = "lc"  // least connection
	WLC Scheduler = "wlc" // weighted least connection, the kernel's default
	SED Scheduler = "sed" // shortest expected delay
	NQ  Scheduler = "nq"  // never queue
	FO  Scheduler = "fo"  // weighted failover: the heaviest
	OVF Scheduler = "ovf" // weighted overflow: the heaviest until it is full

	TWOS  Scheduler = "twos"  // the less loaded of two that are drawn
	LBLC  Scheduler = "lblc"  // locality-based least connection
	LBLCR Scheduler = "lblcr" // the same, with a set of reals for each destination
)

// Schedulers lists every [Scheduler] in the order documentation shows them.
func Schedulers() []Scheduler {
	return []Scheduler{RR, WRR, SH, DH, MH, LC, WLC, SED, NQ, FO, OVF, TWOS, LBLC, LBLCR}
}

// SchedFlags are IP_VS_SVC_F_SCHED1..3 under the names that ipvsadm -b takes.
type SchedFlags uint8

// Scheduler flags. SHPort and MHPort add the client's port to the hash,
// SHFallback and MHFallback try other buckets when the chosen real is not
// usable (kernel: ip_vs_sh_get_fallback, ip_vs_mh_get_fallback).
const (
	SHFallback SchedFlags = 1 << iota
	SHPort
	MHFallback
	MHPort
)

// Forward is how a packet gets to the real server.
type Forward uint8

// Forwarding methods. XDP does [DR] for both families, the others for IPv4.
const (
	DR     Forward = iota // direct routing: the frame's MAC is rewritten
	NAT                   // masquerading
	Tunnel                // the packet goes inside another one, see [Encap]
)

// String gives the configuration file's word: "dr", "nat", "tunnel".
func (f Forward) String() string { return [...]string{"dr", "nat", "tunnel"}[f] }

// Persistence binds a client to the real of its first connection. The zero
// value means none.
type Persistence struct {
	Timeout time.Duration // lifetime of a template after the last new connection; 0 = not persistent; whole seconds
	Prefix  int           // netmask of the client's address as a prefix length: 1-32 (IPv4), 1-128 (IPv6); 0 = the whole address
}

// Enabled reports whether connections are persistent.
func (p Persistence) Enabled() bool { return p.Timeout > 0 }

// Real is a real server of one service. Its identity within a service is
// Addr and Port.
type Real struct {
	Addr      netip.Addr
	Port      uint16 // 0 = the listener's port; direct routing cannot translate ports
	Weight    uint16 // 0 = quiesced: keeps its connections, gets no new ones
	Forward   Forward
	Encap     Encap  // of a [Tunnel]
	Upper     uint32 // upper connection threshold, 0 = none (ipvsadm -x)
	Lower     uint32 // lower connection threshold, 0 = none (ipvsadm -y)
	Unchecked bool   // of those that are absent: only because it has not been checked yet, so that its connections wait and are not reset
}

// IsIPv6 reports whether a service is of IPv6: one service has one family.
func (s *Service) IsIPv6() bool {
	if len(s.Listeners) > 0 {
		return s.Listeners[0].Addr.Is6()
	}
	return len(s.Reals) > 0 && s.Reals[0].Addr.Is6()
}

// Way is the configuration file's word for how packets get to r: "dr", "nat",
// "tunnel", which is IPIP, "gue" or "gre".
func (r Real) Way() string {
	if r.Forward == Tunnel && r.Encap.Kind != IPIP {
		return r.Encap.Kind.String()
	}
	return r.Forward.String()
}

// TunnelName is what `lvx real up --tunnel` calls the tunnel that leads to r, "" where
// none does: "ipip", "gre6", "gue6:5555".
func (r Real) TunnelName() string {
	if r.Forward != Tunnel {
		return ""
	}
	name := r.Encap.Kind.String()
	if r.Addr.Is6() {
		name += "6"
	}
	if r.Encap.Kind == GUE && r.Encap.Port != 0 && r.Encap.Port != GUEPort {
		name += fmt.Sprintf(":%d", r.Encap.Port)
	}
	return name
}

// Service is a virtual service: all its listeners are scheduled, persisted
// and counted as one. Its identity is Name, which is unique in a [State].
type Service struct {
	Name         string
	Listeners    []Listener
	Condition    string // what the firewall asks of the mark's packets and no listener can express, "" for nothing
	Mark         uint32 // firewall mark; 0 only where the service is listed by address (see [Service.ByMark])
	Scheduler    Scheduler
	Flags        SchedFlags
	OnePacket    bool // ipvsadm -o: every UDP packet is scheduled on its own
	Stateless    bool // mh and sh in XDP: what a client's hash says alone decides, and no connection is kept; see [Service.KeepsNoFlows]
	Persistence  Persistence
	Reals        []Real         // in the order of the file; schedulers walk the list last-first, as the kernel does
	Absent       []Real         // of the file too, but out for now: they get nothing; what they need decides where the service can run
	Sorry        netip.Addr     // sorry server, used while no real is usable; the zero Addr = none
	SorryPort    uint16         // where the sorry server listens, 0 = the listener's port; only NAT can change it
	SorryForward Forward        // how packets get to the sorry server
	SorryEncap   Encap          // of a sorry server behind a [Tunnel]
	SorryInhibit bool           // kernel IPVS: one that has served stays, with weight 0, and keeps its connections; XDP's always do
	Deny         []netip.Prefix // clients whose packets are dropped; the longest prefix of Deny and Allow decides
	Allow        []netip.Prefix // if not empty, clients outside of it are dropped
}

// Clone copies s so deeply that the copy can be changed.
func (s Service) Clone() Service {
	s.Listeners = slices.Clone(s.Listeners)
	s.Reals, s.Absent = slices.Clone(s.Reals), slices.Clone(s.Absent)
	s.Deny, s.Allow = slices.Clone(s.Deny), slices.Clone(s.Allow)
	return s
}

// KeepsNoFlows reports whether the service is stateless and can be: what binds
// a client, or counts connections, needs them.
func (s *Service) KeepsNoFlows() bool {
	if !s.Stateless || s.Scheduler != MH && s.Scheduler != SH || s.Persistence.Enabled() || s.OnePacket {
		return false
	}
	for _, rs := range [][]Real{s.Reals, s.Absent} {
		for i := range rs {
			if rs[i].Forward == NAT || rs[i].Upper != 0 {
				return false
			}
		}
	}
	return true
}

// HashesPort reports whether the scheduler hashes the client's port, too.
func (s *Service) HashesPort() bool { return s.Flags&(SHPort|MHPort) != 0 }

// ByMark reports whether the service is listed as "FWM n" rather than by its
// address: it names a mark, or has more than what one address service of
// IPVS can express.
func (s Service) ByMark() bool {
	if s.Mark != 0 {
		return true
	}
	if len(s.Listeners) != 1 {
		return true
	}
	l := s.Listeners[0]
	return l.Width() != 1 && !l.EveryPort()
}
