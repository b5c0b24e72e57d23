package daemon

import (
	"fmt"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// The kind of the warnings about connection sync, and the subject of those
// about all sessions.
const (
	syncWarning     = "sync"
	sessionsSubject = "sessions"
)

// warn keeps the warnings about peers.
func (s *connSync) warn() {
	const kind = syncWarning
	for _, p := range s.status().Peers {
		subject := "peer " + p.Peer.String()
		switch {
		case !p.IsUp:
			cure := p.Cure
			if cure == "" {
				cure = fmt.Sprintf("is lvx running there with sync:, and may TCP port %d pass?", s.cfg.Port)
			}
			s.warnings.Put(warnings.Warning{Kind: kind, Subject: subject, Text: "no session: " + p.Reason, Cure: cure})
		case len(p.Differs) > 0:
			s.warnings.Put(warnings.Warning{
				Kind: kind, Subject: subject, Text: fmt.Sprintf("has other services, reals or weights than this host: %s", first(p.Differs, 5)),
				Cure: "give both directors the same services",
			})
		default:
			s.warnings.End(kind, subject)
		}
	}
	if s.wire != nil {
		s.watch.look(s.wire.Status(), time.Now(), s.warnings.Put, s.warnings.End)
	}
}

// badTime is how long a warning of bad datagrams stays behind the last of them.
const badTime = time.Minute

// wireWatch warns of a wire that does not work, and of what comes on it that is
// none of kernel IPVS's: once, not with each datagram.
type wireWatch struct {
	bad, foreign, unsent     uint64
	badAt, otherAt, unsentAt time.Time
}

// look compares the counters of a wire with those of the last look.
func (w *wireWatch) look(st *connsync.WireStatus, now time.Time, put func(warnings.Warning), end func(kind, subject string)) {
	const kind = syncWarning
	wire := fmt.Sprintf("syncid %d", st.SyncID)
	set := func(isBad bool, subject, text, cure string) {
		if !isBad {
			end(kind, subject)
			return
		}
		put(warnings.Warning{Kind: kind, Subject: subject, Text: text, Cure: cure})
	}
	if bad := st.Malformed + st.Dropped; bad != w.bad {
		w.bad, w.badAt = bad, now
	}
	if st.Foreign != w.foreign {
		w.foreign, w.otherAt = st.Foreign, now
	}
	if st.Unsent != w.unsent {
		w.unsent, w.unsentAt = st.Unsent, now
	}
	set(st.Fault != "", wire, "connections are not shared: "+st.Fault, "see sync: in the configuration, and that the interface is up")
	set(!w.badAt.IsZero() && now.Sub(w.badAt) < badTime, wire+" datagrams", "datagrams come that kernel IPVS does not send, or too many: they are counted and dropped",
		"lvx sync status has the counters; let the other director alone send to the group")
	set(!w.otherAt.IsZero() && now.Sub(w.otherAt) < badTime, wire+" others", "datagrams of another syncid come: they are counted and dropped",
		"give both directors the same syncid, or the other pair another group")
	set(!w.unsentAt.IsZero() && now.Sub(w.unsentAt) < badTime, wire+" queue", "connections change faster than a kernel could be told of: some are not, until a third of their life is over",
		"directors that run lvx lose nothing: name them in sync.peers")
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
	if m := s.mesh.Load(); m != nil {
		st.Peers, st.Key = m.Status(), m.Key()
	}
	if s.wire != nil {
		st.Wire = s.wire.Status()
	}
	return st
}
