package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// bfdWarning is the kind of the warnings about BFD.
const bfdWarning = "bfd"

// bfdLook is the time between looks at the sessions, and between attempts to
// have the ports of BFD.
const bfdLook = time.Second

// sessions are the BFD sessions of this host, and what follows them.
type sessions struct {
	want     []bfd.Session
	notes    string        // the file that a successor reads
	grace    time.Duration // for which neighbours wait for a successor
	speaker  *bfd.Speaker
	monitor  *health.Monitor // set before run
	tracker  *vrrp.Router    // set before run
	warnings *warnings.Registry
	history  *history.Log
	log      *slog.Logger

	hasSuccessor bool // written before run's context ends
}

// newSessions makes the sessions of the file; they begin with run. Without any
// there are none.
func newSessions(cfg *config.Config, w *warnings.Registry, h *history.Log, log *slog.Logger) *sessions {
	s := &sessions{
		want: cfg.BFD, notes: bfdNotes(cfg), grace: cfg.StopGrace,
		warnings: w, history: h, log: log.With("component", "bfd"),
	}
	if len(cfg.BFD) == 0 && !s.hasNotes() {
		return nil
	}
	s.speaker = bfd.NewSpeaker(s.follow)
	return s
}

// connect says what follows the sessions.
func (s *sessions) connect(m *health.Monitor, r *vrrp.Router) {
	if s != nil {
		s.monitor, s.tracker = m, r
	}
}

// start carries on a predecessor's sessions, and begins the file's as a part of a
// circle. What follows a session that goes on knows of it from now on.
func (s *sessions) start(in *circle) {
	if s != nil {
		s.resume()
		in.start("bfd", s.run)
	}
}

// foresee says, before run's context ends, whether a successor will carry the
// sessions on.
func (s *sessions) foresee(hasSuccessor bool) {
	if s != nil {
		s.hasSuccessor = hasSuccessor
	}
}

// run has the sessions until ctx ends.
func (s *sessions) run(ctx context.Context) error {
	defer s.end()
	ticker := time.NewTicker(bfdLook)
	defer ticker.Stop()
	for isMissing := true; ; {
		if isMissing {
			isMissing = !s.apply()
		}
		s.warn()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// apply has exactly the sessions of the file, and reports whether it could.
func (s *sessions) apply() bool {
	const subject = "port"
	if err := s.speaker.Apply(s.want); err != nil {
		s.warnings.Put(warnings.Warning{
			Kind: bfdWarning, Subject: subject, Text: err.Error() + "; sessions stay down",
			Cure: "stop the other BFD daemon of this host, or leave bfd out here",
		})
		return false
	}
	s.warnings.End(bfdWarning, subject)
	return true
}

// follow has everything that follows a session look at its new state. A session
// ends with the daemon alone: nothing is taken down for that, a successor may
// follow.
func (s *sessions) follow(st bfd.Status) {
	if st.State == bfd.AdminDown {
		return
	}
	why := whyDown(st)
	switch isNew := st.Downs == 0 && st.Diagnostic == bfd.NoDiagnostic; {
	case st.State == bfd.Up:
		s.log.Info("session is up", "session", st.Name, "neighbour", st.Neighbour)
		s.history.Add(history.Event{Kind: history.BFD, Subject: st.Name, Text: "up"})
	case st.State == bfd.Down && !isNew:
		s.log.Warn("session is down", "session", st.Name, "neighbour", st.Neighbour, "reason", why)
		s.history.Add(history.Event{Kind: history.BFD, Subject: st.Name, Text: why})
	}
	s.tracker.SetBFD(st.Name, st.State == bfd.Up, why)
	for t := range s.monitor.Snapshot() {
		if t.Spec.Type == health.BFD && t.Spec.Session == st.Name {
			s.monitor.AskNow(t.Real)
		}
	}
}
