package keepalived

import (
	"slices"
	"strconv"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// way is how packets get to a real server, in the output's words.
type way struct {
	word   string // of forward
	tunnel string // of tunnel, "" for none
}

// wayOf is the way to a real server of ipvsadm's.
func wayOf(s ipvsadm.Server) way {
	w := way{word: lb.Real{Forward: s.Forward, Encap: s.Tunnel}.Way()}
	switch s.Tunnel.Kind {
	case lb.GUE:
		w.tunnel = "{port: " + strconv.Itoa(int(s.Tunnel.Port)) + ", checksum: " + s.Tunnel.Checksum.String() + "}"
	case lb.GRE:
		w.tunnel = "{checksum: " + s.Tunnel.Checksum.String() + "}"
	}
	return w
}

// isTunnel reports whether packets travel in others.
func (w way) isTunnel() bool { return w.word != "dr" && w.word != "nat" }

// takesChecks reports whether a check can go the clients' way.
func (w way) takesChecks() bool { return w.word == "dr" || w.word == "tunnel" }

// putWay writes how packets get to a real server where it is not the usual way.
func (r *realOut) putWay(own, usual way) {
	if own == usual {
		return
	}
	r.put("forward", "%s", own.word)
	if own.tunnel != "" {
		r.put("tunnel", "%s", own.tunnel)
	}
}

// forwarding reads a forwarding method, for tunnels with what they are made of:
// "TUN type gue port 6080 csum".
func forwarding(c *Statement) *way {
	words := map[string]lb.Forward{"NAT": lb.NAT, "DR": lb.DR, "TUN": lb.Tunnel}
	forward, ok := words[c.arg(0)]
	if !ok {
		c.mark(Harmless, "keepalived does not know the method %s (it wants NAT, DR or TUN) and ignores it", quote(c.arg(0)))
		return nil
	}
	c.mark(Mapped, "")
	server := ipvsadm.Server{Forward: forward}
	if forward == lb.Tunnel {
		server.Tunnel = encapsulation(c)
	}
	return ptr(wayOf(server))
}

// encapsulation reads what follows TUN.
func encapsulation(c *Statement) (e lb.Encap) {
	for i := 1; i < len(c.Args); i++ {
		switch word := c.Args[i]; word {
		case "type":
			i++
			e.Kind = tunnelKind(c, c.arg(i))
		case "port":
			i++
			e.Port, _ = parsePort(c.arg(i))
		default:
			if sum := slices.Index(lb.EncapChecksums[:], word); sum >= 0 {
				e.Checksum = lb.EncapChecksum(sum)
			}
		}
	}
	switch {
	case e.Kind == lb.IPIP:
		return lb.Encap{}
	case e.Kind == lb.GUE && e.Port == 0:
		c.mark(Changed, "no port of the tunnel: %d", lb.GUEPort)
		e.Port = lb.GUEPort
	case e.Kind == lb.GRE:
		e.Port = 0
		if e.Checksum == lb.RemoteChecksum {
			c.mark(Changed, "remcsum is for gue: csum")
			e.Checksum = lb.WithChecksum
		}
	}
	return e
}

// tunnelKind is a type of tunnels.
func tunnelKind(c *Statement, word string) lb.EncapKind {
	if k := slices.Index(lb.EncapKinds[:], word); k >= 0 {
		return lb.EncapKind(k)
	}
	c.mark(Lost, "no tunnels of type %s: ipip", quote(word))
	return lb.IPIP
}
