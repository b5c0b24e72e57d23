package web

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

// ServeUDP answers every datagram on p with the server's name and a line
// feed, from the address that p is bound to, until p is closed. The log shows
// them with the method "UDP".
func (s *Server) ServeUDP(p net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		a := Access{At: time.Now(), Method: "UDP", Bytes: int64(n)}
		a.Client, _ = netip.ParseAddrPort(from.String())
		a.Local, _ = netip.ParseAddrPort(p.LocalAddr().String())
		s.mu.Lock()
		s.log = append(s.log, a)
		s.mu.Unlock()
		// After that: who has its answer may look. An unreachable client is its
		// own problem.
		_, _ = p.WriteTo([]byte(s.name+"\n"), from)
	}
}
