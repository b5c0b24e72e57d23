package daemon

import (
	"context"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// keyFile is the file of the keys of sessions, which is read again when it has
// changed.
type keyFile struct {
	path string
	used fileMark // of what was read last
	seen fileMark // at the last look
}

// newKeyFile is a file that is about to be read.
func newKeyFile(path string) keyFile {
	now := markFile(path)
	return keyFile{path: path, used: now, seen: now}
}

// fileMark is what differs in a file that was written again.
type fileMark struct {
	changed time.Time
	size    int64
	mode    fs.FileMode
}

func markFile(path string) fileMark {
	info, err := os.Stat(path)
	if err != nil {
		return fileMark{}
	}
	return fileMark{info.ModTime(), info.Size(), info.Mode()}
}

// look reports whether the file has to be read again: it has changed, and not
// since the last look, so that nobody is still writing it.
func (k *keyFile) look() bool {
	now := markFile(k.path)
	isSettled := now == k.seen
	k.seen = now
	if !isSettled || now == k.used {
		return false
	}
	k.used = now
	return true
}

// keyLook is the time between looks at the file of the keys.
const keyLook = time.Second

// every calls f again and again until stop is called, which waits.
func every(ctx context.Context, pause time.Duration, f func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// refreshKeys puts the keys of a changed file into force. Those that were in
// force stay so if the file cannot be used.
func (s *connSync) refreshKeys(m *connsync.Mesh, file *keyFile) {
	if !file.look() {
		return
	}
	subject := "key file " + file.path
	keys, err := connsync.ReadKeys(file.path)
	if err == nil {
		err = m.SetKeys(keys)
	}
	if err != nil {
		s.warnings.Put(warnings.Warning{
			Kind: syncWarning, Subject: subject, Text: "not used, the keys before it are in force: " + err.Error(), Cure: "correct the file",
		})
		return
	}
	s.warnings.End(syncWarning, subject)
	s.log.Info("keys of connection sync were read again", "component", "sync", "keys", len(keys), "signs_with", m.Key())
}
