package config

import (
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// way is how packets get to a real, in a word.
type way struct {
	forward lb.Forward
	kind    lb.EncapKind // of a tunnel
}

// wayWords are the words of forward; those of tunnels are the kinds', and tunnel is
// ipip.
var wayWords = slices.Concat([]string{"dr", "nat", "tunnel"}, lb.EncapKinds[:])

// forwarding reads how packets get to the reals.
func forwarding(c *cursor) way {
	switch word := oneOf("a way of forwarding", wayWords...)(c); word {
	case "", "dr":
		return way{}
	case "nat":
		return way{forward: lb.NAT}
	case "tunnel":
		return way{forward: lb.Tunnel}
	default:
		return way{lb.Tunnel, lb.EncapKind(slices.Index(lb.EncapKinds[:], word))}
	}
}

// tunnel reads what tunnels that are not IPIP are made of.
func tunnel(c *cursor) *lb.Encap {
	o := c.object()
	e := &lb.Encap{Port: get(o, "port", 0, number[uint16](1, 65535))}
	sum := get(o, "checksum", lb.NoChecksum.String(), oneOf("a checksum of tunnels", lb.EncapChecksums[:]...))
	if o.done() {
		e.Checksum = lb.EncapChecksum(slices.Index(lb.EncapChecksums[:], sum))
	}
	return e
}

// encapsulation is what the packets of a way travel in. Made is what tunnel says,
// nil without it; o may have it itself, forwards is where the way is.
func encapsulation(o *object, w way, made *lb.Encap, forwards *cursor) (e lb.Encap) {
	at := forwards
	if o.has("tunnel") {
		at = o.at("tunnel")
	}
	if w.kind == lb.IPIP {
		if o.has("tunnel") {
			at.errorf("tunnel without forward: gue or gre (want it with one of them)")
		}
		return lb.Encap{}
	}
	e.Kind = w.kind
	if made != nil {
		e.Port, e.Checksum = made.Port, made.Checksum
	}
	switch {
	case e.Kind == lb.GUE && e.Port == 0:
		e.Port = lb.GUEPort
	case e.Kind == lb.GRE && e.Port != 0:
		at.errorf("port %d of a gre tunnel (want no port: gue has one)", e.Port)
	case e.Kind == lb.GRE && e.Checksum == lb.RemoteChecksum:
		at.errorf("%s of a gre tunnel (want nocsum or csum: gue has it)", e.Checksum)
	}
	return e
}
