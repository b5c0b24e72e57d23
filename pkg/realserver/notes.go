package realserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
)

// Times of [Notes].
const (
	noteReadTime  = time.Second // that reading may take
	noteWriteTime = time.Second // that the last write may take
)

// Notes remember for a daemon what [Up] has changed, in its own memory, and
// in a file for its successor. Nothing waits for the disk but the first use, for
// a second: a file that cannot be read or written costs what it says, and
// keeps nobody from being a real server.
type Notes struct {
	file   string
	keeper *jsonfile.Keeper
	report func(error)

	mu    sync.Mutex
	state *state // nil: not read yet
}

// NewNotes makes notes in a file. It calls report with an error when the file
// cannot be read or written, and with nil when it can be written again.
func NewNotes(file string, report func(error)) *Notes {
	return &Notes{file: file, keeper: jsonfile.NewKeeper(file, 0o644, report), report: report}
}

// Run writes the file until ctx ends.
func (n *Notes) Run(ctx context.Context) error { return n.keeper.Run(ctx, noteWriteTime) }

// change lets f change the state.
func (n *Notes) change(f func(*state) ([]string, error)) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := n.read()
	if err != nil {
		return nil, err
	}
	return f(s)
}

// read is the state that is remembered.
func (n *Notes) read() (*state, error) {
	if n.state != nil {
		return n.state, nil
	}
	s, err := emptyState(n.file)
	if err != nil {
		return nil, err
	}
	type found struct {
		s    *state
		lost *jsonfile.BrokenError
	}
	read, err := jsonfile.Within(noteReadTime, func() (f found, err error) {
		f.s, f.lost, err = load(n.file)
		return f, err
	})
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		n.report(fmt.Errorf("%s: %w; what an earlier lvx has changed stays", n.file, err))
	case read.lost != nil:
		n.report(fmt.Errorf("%w; what an earlier lvx has changed stays", read.lost))
	case err == nil:
		s = read.s
	}
	s.notes = n
	n.state = s
	return s, nil
}

// store has the state written, without waiting.
func (n *Notes) store(s *state) error {
	if s.isEmpty() {
		n.keeper.Clear()
		return nil
	}
	return n.keeper.Put(s)
}
