package daemon

import (
	"fmt"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// warn keeps the warnings about peers.
func (s *connSync) warn() {
	const kind = "sync"
	for _, p := range s.status().Peers {
		subject := "peer " + p.Peer.String()
		switch {
		case !p.IsUp:
			s.warnings.Put(warnings.Warning{
				Kind: kind, Subject: subject, Text: "no session: " + p.Reason,
				Cure: fmt.Sprintf("is lvx running there with sync:, and may TCP port %d pass?", s.cfg.Port),
			})
		case len(p.Differs) > 0:
			s.warnings.Put(warnings.Warning{
				Kind: kind, Subject: subject, Text: fmt.Sprintf("has other services, reals or weights than this host: %s", first(p.Differs, 5)),
				Cure: "give both directors the same services",
			})
		default:
			s.warnings.End(kind, subject)
		}
	}
}

// first names at most n of names.
func first(names []string, n int) string {
	rest := ""
	if len(names) > n {
		rest = fmt.Sprintf(" and %d more", len(names)-n)
		names = names[:n]
	}
	out := ""
	for i, name := range names {
		if i > 0 {
			out += ", "
		}
		out += name
	}
	return out + rest
}

// status reports on every director that connections are shared with.
func (s *connSync) status() connsync.Status {
	var st connsync.Status
	if s.mesh != nil {
		st.Peers = s.mesh.Status()
	}
	if s.wire != nil {
		st.Wire = s.wire.Status()
	}
	return st
}
