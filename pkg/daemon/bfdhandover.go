package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/vip"
)

// Times of a handover: how long neighbours have to agree to a silence, and the
// disk to answer.
const (
	bfdAgreeTime = time.Second
	bfdDiskTime  = time.Second
)

// bfdNote is what a daemon leaves its successor.
type bfdNote struct {
	Boot     string        `json:"boot"`
	At       time.Duration `json:"at_ns"` // since the boot
	Sessions []bfd.Memory  `json:"sessions"`
}

// bfdNotes is the file of [bfdNote], below state_dir.
func bfdNotes(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "bfd.json") }

// sinceBoot is the time since the boot, also that of a host that slept.
func sinceBoot() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano()), err
}

func (s *sessions) hasNotes() bool {
	_, err := os.Lstat(s.notes)
	return err == nil
}

// end ends the sessions. A successor that is known to come carries them on: their
// neighbours wait for it as long as the packet path does. Otherwise they hear that
// this host leaves.
func (s *sessions) end() {
	if !s.hasSuccessor || s.grace == 0 {
		s.speaker.Close()
		return
	}
	note := bfdNote{Sessions: s.speaker.Suspend(s.grace, bfdAgreeTime)}
	err := note.stamp()
	if err == nil && len(note.Sessions) > 0 {
		_, err = jsonfile.Within(bfdDiskTime, func() (struct{}, error) { return struct{}{}, jsonfile.Write(s.notes, note, 0o600) })
	}
	if err != nil {
		s.log.Warn("a successor cannot carry on the sessions, their neighbours will see them down", "err", err)
	}
}

// stamp says when a note is written.
func (n *bfdNote) stamp() (err error) {
	if n.Boot, err = vip.BootID(); err == nil {
		n.At, err = sinceBoot()
	}
	return err
}

// valid lists the sessions whose neighbours still wait at the time of another
// note.
func (n *bfdNote) valid(now bfdNote) (sessions []bfd.Memory) {
	for _, m := range n.Sessions {
		if n.Boot == now.Boot && now.At >= n.At && now.At < n.At+m.Silence {
			sessions = append(sessions, m)
		}
	}
	return sessions
}

// resume carries on the sessions that a predecessor has left.
func (s *sessions) resume() {
	left, err := jsonfile.Within(bfdDiskTime, func() (n bfdNote, err error) {
		if err = jsonfile.Read(s.notes, &n); err == nil {
			err = os.Remove(s.notes)
		}
		return n, err
	})
	var now bfdNote
	if err == nil {
		err = now.stamp()
	}
	if err == nil {
		err = s.speaker.Resume(left.valid(now))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("sessions begin anew", "err", fmt.Errorf("those of the daemon before: %w", err))
	}
}
