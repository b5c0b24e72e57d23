package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// bfdWarning is of the ports of BFD.
const bfdWarning = "bfd"

// bfdRetry is the time between attempts to have the ports of BFD.
const bfdRetry = time.Second

// firstUp is how long a session that begins may take to come up: until then a
// check of it says nothing about its real server.
const firstUp = 5 * time.Second

// sessions are the BFD sessions of this host, and what follows them.
type sessions struct {
	want     []bfd.Session
	speaker  *bfd.Speaker
	monitor  *health.Monitor // set before run
	tracker  *vrrp.Router    // set before run
	warnings *warnings.Registry
	log      *slog.Logger
}

// newSessions makes the sessions of the file; they begin with run. Without any
// there are none.
func newSessions(cfg *config.Config, w *warnings.Registry, log *slog.Logger) *sessions {
	if len(cfg.BFD) == 0 {
		return nil
	}
	s := &sessions{want: cfg.BFD, warnings: w, log: log.With("component", "bfd")}
	s.speaker = bfd.NewSpeaker(s.follow)
	return s
}

// run has the sessions until ctx ends.
func (s *sessions) run(ctx context.Context) error {
	defer s.speaker.Close()
	ticker := time.NewTicker(bfdRetry)
	defer ticker.Stop()
	for {
		err := s.speaker.Apply(s.want)
		if err == nil {
			s.warnings.End(bfdWarning, "port")
			<-ctx.Done()
			return nil
		}
		s.warnings.Put(warnings.Warning{
			Kind: bfdWarning, Subject: "port", Text: err.Error() + "; sessions stay down", Cure: "stop the other BFD daemon of this host, or leave bfd out here",
		})
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// follow has everything that follows a session look at its new state. A session
// ends with the daemon alone: nothing is taken down for that, a successor may
// follow.
func (s *sessions) follow(st bfd.Status) {
	if st.State == bfd.AdminDown {
		return
	}
	log := s.log.Warn
	if st.State == bfd.Up || st.State == bfd.Init {
		log = s.log.Info
	}
	log("BFD session is "+st.State.String(), "session", st.Name, "reason", whyDown(st))
	s.tracker.SetBFD(st.Name, st.State == bfd.Up, whyDown(st))
	for t := range s.monitor.Snapshot() {
		if t.Spec.Type == health.BFD && t.Spec.Session == st.Name {
			s.monitor.AskNow(t.Real)
		}
	}
}

// find is how a check finds a session.
func (s *sessions) find(name string) error {
	st, isThere := s.speaker.Find(name)
	switch {
	case !isThere: // it has not begun
		return fmt.Errorf("%w: no session yet", health.ErrNotAsked)
	case st.State == bfd.Up:
		return nil
	case st.Diagnostic == bfd.NoDiagnostic && time.Since(st.Since) < firstUp:
		return fmt.Errorf("%w: %s, it has just begun", health.ErrNotAsked, st.State)
	}
	return errors.New(whyDown(st))
}

// whyDown is the state in words; "" if it is up.
func whyDown(st bfd.Status) string {
	switch {
	case st.State == bfd.Up:
		return ""
	case st.Err != nil:
		return fmt.Sprintf("%s: %v", st.State, st.Err)
	case st.Diagnostic == bfd.NeighborSignaledDown && st.NeighbourReason != bfd.NoDiagnostic:
		return fmt.Sprintf("%s: the neighbour says %s", st.State, st.NeighbourReason)
	case st.Diagnostic == bfd.NoDiagnostic:
		return st.State.String() + ": nothing heard of the neighbour"
	}
	return fmt.Sprintf("%s: %s", st.State, st.Diagnostic)
}
