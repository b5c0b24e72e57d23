package daemon

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/doctor"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// firstUp is how long a session that begins may take to come up: until then a
// check of it says nothing about its real server.
const firstUp = 5 * time.Second

// forDirector lists the sessions; nil without any.
func (s *sessions) forDirector() func() []director.BFDStatus {
	if s == nil {
		return nil
	}
	return s.list
}

// list implements [director.Options.BFD].
func (s *sessions) list() (all []director.BFDStatus) {
	for _, st := range s.speaker.Status() {
		all = append(all, director.BFDStatus{
			Session: st.Name, Neighbour: st.Neighbour, IsUp: st.State == bfd.Up, State: st.State.String(), Since: st.Since,
			Reason: whyDown(st), Diagnostic: st.Diagnostic.String(), NeighbourState: st.NeighbourState.String(),
			Downs: st.Downs, Interval: st.Interval, Detection: st.Detection,
		})
	}
	return all
}

// bfdTroubles is what keeps BFD sessions down from the start. What a running lvx
// holds is no trouble.
func bfdTroubles(cfg *config.Config) (all []string) {
	if !answers(cfg.Admin.Socket) {
		if err := bfd.TryPorts(cfg.BFD); err != nil {
			all = append(all, fmt.Sprintf("bfd: sessions stay down: %v (stop the other BFD daemon of this host, or leave bfd out)", err))
		}
	}
	for _, w := range doctor.FindFarNeighbours(cfg, new(doctor.Live)) {
		all = append(all, fmt.Sprintf("%s: %s (%s)", w.Subject, w.Text, w.Cure))
	}
	return all
}

// silence is the error of a session whose neighbour is not heard.
type silence string

func (s silence) Error() string { return string(s) }

// Is has it be [health.ErrSilent].
func (s silence) Is(target error) bool { return target == health.ErrSilent }

// find is how a check finds a session.
func (s *sessions) find(name string) error {
	st, isThere := s.speaker.Find(name)
	switch {
	case !isThere: // it has not begun
		return fmt.Errorf("%w: no session yet", health.ErrNotAsked)
	case st.State == bfd.Up:
		return nil
	case ownFailure(st) != nil:
		return fmt.Errorf("%w: %s", health.ErrNotAsked, whyDown(st))
	case st.Diagnostic == bfd.NoDiagnostic && time.Since(st.Since) < firstUp:
		return fmt.Errorf("%w: %s, it has just begun", health.ErrNotAsked, st.State)
	case st.Diagnostic == bfd.NeighborSignaledDown || st.Refused != nil:
		return errors.New(whyDown(st))
	}
	return silence(whyDown(st))
}

// ownFailure is why this host can send nothing, nil if it can: a neighbour that
// does not answer ARP, or whose port is closed, is none.
func ownFailure(st bfd.Status) error {
	if errors.Is(st.Err, unix.EHOSTUNREACH) || errors.Is(st.Err, unix.ECONNREFUSED) {
		return nil
	}
	return st.Err
}

// whyDown is the state in words; "" if it is up.
func whyDown(st bfd.Status) string {
	switch {
	case st.State == bfd.Up:
		return ""
	case ownFailure(st) != nil:
		return fmt.Sprintf("%s: nothing can be sent: %v", st.State, st.Err)
	case st.Refused != nil:
		return fmt.Sprintf("%s: packets of the neighbour are discarded: %v", st.State, st.Refused)
	case st.Diagnostic == bfd.NeighborSignaledDown && st.NeighbourReason != bfd.NoDiagnostic:
		return fmt.Sprintf("%s: the neighbour says %s", st.State, st.NeighbourReason)
	case st.Diagnostic == bfd.NoDiagnostic:
		return st.State.String() + ": nothing heard of the neighbour"
	}
	return fmt.Sprintf("%s: %s", st.State, st.Diagnostic)
}

// warn keeps the warnings about sessions that this host's or the neighbour's
// configuration keeps down. One whose neighbour is dead is no warning: what
// follows it says so.
func (s *sessions) warn() {
	for _, st := range s.speaker.Status() {
		subject, cure := "session "+st.Name, ""
		switch {
		case st.State == bfd.Up:
		case ownFailure(st) != nil:
			cure = "see source and the routes to " + st.Neighbour.String()
		case st.Refused != nil:
			cure = "compare multihop, ttl and max_hops with the neighbour's, which must not authenticate"
		}
		if cure == "" {
			s.warnings.End(bfdWarning, subject)
			continue
		}
		s.warnings.Put(warnings.Warning{Kind: bfdWarning, Subject: subject, Text: whyDown(st), Cure: cure})
	}
}
