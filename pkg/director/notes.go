package director

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Notes in state_dir help a later start. None of them is needed to serve: one
// that cannot be read or written is a warning, and nothing waits for a disk
// but a start, for a second.
const (
	overridesFile = "overrides.json"
	runtimeFile   = "runtime.json"
	memoryFile    = "memory.json"

	maintenanceFile = "maintenance.json"

	noteReadTime  = time.Second // that a start waits for a note
	noteWriteTime = time.Second // that an operator waits to hear whether an override is stored, and an end for the last write
)

// Kinds of warnings about notes.
const (
	notStored  = "not-stored"  // what a file should hold does not reach the disk
	brokenFile = "broken-file" // a file could not be understood and was moved aside
	notRead    = "not-read"    // a file is there and could not be read
)

// notes are the files of one director; all are nil without a state_dir.
type notes struct {
	overrides, runtime, memory, maintenance *jsonfile.Keeper
}

func (d *Director) openNotes() {
	dir := d.cfg.StateDir
	if dir == "" {
		return
	}
	keeper := func(name, lost string) *jsonfile.Keeper {
		path := filepath.Join(dir, name)
		return jsonfile.NewKeeper(path, 0o600, func(err error) { d.warnNotStored(path, lost, err) })
	}
	d.notes.overrides = keeper(overridesFile, "operators' overrides do not survive a restart")
	d.notes.runtime = keeper(runtimeFile, "edits by ipvsadm do not survive a restart")
	d.notes.maintenance = keeper(maintenanceFile, "a drain of the director does not survive a restart")
	d.notes.memory = keeper(memoryFile, "after a crash, checks begin anew")
}

func (d *Director) warnNotStored(path, lost string, err error) {
	if err == nil {
		d.warnings.End(notStored, path)
		return
	}
	d.warnings.Put(warnings.Warning{
		Kind: notStored, Subject: path, Text: fmt.Sprintf("not stored: %v; %s", err, lost),
		Cure: "make " + filepath.Dir(path) + " writable, with room (see state_dir)",
	})
}

// keepNotes writes notes until ctx ends.
func (d *Director) keepNotes(ctx context.Context, start func(func())) {
	for _, k := range []*jsonfile.Keeper{d.notes.overrides, d.notes.runtime, d.notes.memory, d.notes.maintenance} {
		if k != nil {
			start(func() { _ = k.Run(ctx, noteWriteTime) }) // it returns nil
		}
	}
	start(func() { d.watchBrokenFiles(ctx) })
}

// readNote reads a note, which the disk has a second for. A note that is of no use is
// a warning, and the zero value then.
func readNote[T any](d *Director, name string, decode func(text []byte) (T, error)) T {
	var none T
	if d.cfg.StateDir == "" {
		return none
	}
	path := filepath.Join(d.cfg.StateDir, name)
	text, err := jsonfile.Within(noteReadTime, func() ([]byte, error) { return jsonfile.Load(path) })
	if err == nil {
		note, broken := decode(text) // with thousands of services that takes longer than a disk may
		if broken == nil {
			return note
		}
		_, err = jsonfile.Within(noteReadTime, func() (T, error) { return none, jsonfile.SetAside(path, broken) })
	}
	d.warnNotRead(path, err)
	return none
}

func (d *Director) warnNotRead(path string, err error) {
	var broken *jsonfile.BrokenError
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.As(err, &broken):
		d.warnBroken(broken)
	default:
		d.warnings.Put(warnings.Warning{
			Kind: notRead, Subject: path, Text: fmt.Sprintf("not read: %v; lvx runs without what it holds", err),
			Cure: "repair or remove the file, then restart lvx",
		})
	}
}

func (d *Director) warnBroken(e *jsonfile.BrokenError) {
	w := warnings.Warning{Kind: brokenFile, Subject: e.Path, Text: e.Error() + "; lvx runs without what it held", Cure: "remove it"}
	at := e.Path
	if e.MovedTo != "" {
		at, w.Cure = e.MovedTo, "look at "+e.MovedTo+" and remove it"
	}
	d.warnings.Put(w)
	d.broken[e.Path] = at
}

// watchBrokenFiles ends the warning about a broken file once somebody has
// removed the file. It has a goroutine of its own, as disks may hang.
func (d *Director) watchBrokenFiles(ctx context.Context) {
	if len(d.broken) == 0 {
		return
	}
	tick := time.NewTicker(driftInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		setAside := make(chan string, len(d.broken))
		go func() {
			defer close(setAside)
			for path, at := range d.broken {
				if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
					setAside <- path
				}
			}
		}()
		for waiting := true; waiting; {
			select {
			case path, ok := <-setAside:
				if waiting = ok; ok {
					d.warnings.End(brokenFile, path)
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// Forget removes the memory of a director that has ended, if its data path
// ends as well: the next one starts with nothing.
func Forget(cfg *config.Config) error {
	if cfg.StateDir == "" {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- jsonfile.Remove(filepath.Join(cfg.StateDir, memoryFile)) }()
	select {
	case err := <-done:
		return err
	case <-time.After(noteWriteTime):
		return fmt.Errorf("%s is not removed yet: the disk has not answered for %v", memoryFile, noteWriteTime)
	}
}
