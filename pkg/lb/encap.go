package lb

import (
	"fmt"
	"net/netip"
)

// EncapKind is what the packets for a real behind a [Tunnel] travel in (the
// kernel's IP_VS_CONN_F_TUNNEL_TYPE_*).
type EncapKind uint8

// The tunnels of the kernel's IPVS.
const (
	IPIP EncapKind = iota // an IP packet in an IP packet
	GUE                   // generic UDP encapsulation
	GRE                   // generic routing encapsulation
)

// EncapKinds are the words of the kinds: ipvsadm's (--tun-type), keepalived's, and
// those of the configuration file.
var EncapKinds = [...]string{IPIP: "ipip", GUE: "gue", GRE: "gre"}

// String is one of [EncapKinds].
func (k EncapKind) String() string { return EncapKinds[k] }

// Overhead is how many bytes longer a packet is in a tunnel of this kind to an
// address: the outer IP header, of GUE those of UDP and of GUE itself, of GRE its
// own (the kernel's __ip_vs_get_out_rt).
func (k EncapKind) Overhead(to netip.Addr) int {
	between := [...]int{IPIP: 0, GUE: 8 + 4, GRE: 4}[k]
	if to.Is6() {
		return 40 + between
	}
	return 20 + between
}

// EncapChecksum is how a tunnel's outer header is summed (the kernel's
// IP_VS_TUNNEL_ENCAP_FLAG_*).
type EncapChecksum uint8

// The checksums of tunnels.
const (
	NoChecksum     EncapChecksum = iota // none: --tun-nocsum
	WithChecksum                        // over the whole packet: --tun-csum
	RemoteChecksum                      // the real makes the inner one: --tun-remcsum, GUE only
)

// EncapChecksums are the words of the checksums: keepalived's, those of the
// configuration file, and behind "--tun-" ipvsadm's.
var EncapChecksums = [...]string{NoChecksum: "nocsum", WithChecksum: "csum", RemoteChecksum: "remcsum"}

// String is one of [EncapChecksums].
func (c EncapChecksum) String() string { return EncapChecksums[c] }

// GUEPort is the port of [GUE] where none is named, as IANA has it.
const GUEPort = 6080

// Encap says what the packets for a real behind a [Tunnel] travel in. The zero
// value is IPIP.
type Encap struct {
	Kind     EncapKind     `json:"kind,omitempty"`
	Port     uint16        `json:"port,omitempty"` // of [GUE]: where the real listens, 1-65535
	Checksum EncapChecksum `json:"checksum,omitempty"`
}

// String names all of it: "ipip", "gue port 6080 nocsum", "gre csum".
func (e Encap) String() string {
	switch e.Kind {
	case GUE:
		return fmt.Sprintf("gue port %d %s", e.Port, e.Checksum)
	case GRE:
		return "gre " + e.Checksum.String()
	}
	return e.Kind.String()
}
