package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/jsonfile"
)

// running runs a history until stop is called.
func running(t *testing.T, l *Log) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

func TestHistorySurvivesRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.json")
	for run := range 3 {
		l := New(path, func(err error) { t.Error(err) })
		stop := running(t, l)
		for i := range 600 {
			l.Add(Event{Kind: Health, Subject: "web", Text: fmt.Sprintf("%d.%d", run, i)})
		}
		stop()
	}
	l := New(path, nil)
	l.load()
	all := l.List(Filter{})
	if len(all) != Size || all[0].Text != "1.200" || all[Size-1].Text != "2.599" {
		t.Errorf("%d events, from %+v to %+v", len(all), all[0], all[len(all)-1])
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", st, err)
	}
}

func TestFilter(t *testing.T) {
	l := New("", nil)
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	l.Add(Event{Time: at, Kind: Health, Subject: "web", Text: "a"})
	l.Add(Event{Time: at.Add(time.Minute), Kind: Role, Subject: "VI_1", Text: "b"})
	l.Add(Event{Time: at.Add(time.Hour), Kind: Health, Subject: "mail", Text: "c\x1b[31m" + strings.Repeat("x", 500)})
	for _, c := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "abc"},
		{Filter{Kind: Health}, "ac"},
		{Filter{Subject: "web"}, "a"},
		{Filter{Since: at.Add(time.Minute)}, "bc"},
		{Filter{Since: at.Add(time.Minute), Kind: Health}, "c"},
		{Filter{Kind: Reload}, ""},
	} {
		got := ""
		for _, e := range l.List(c.f) {
			got += e.Text[:1]
		}
		if got != c.want {
			t.Errorf("%+v lists %q, want %q", c.f, got, c.want)
		}
	}
	if last := l.List(Filter{Subject: "mail"})[0].Text; len(last) > 200 || strings.Contains(last, "\x1b") {
		t.Errorf("text is not cleaned: %q", last)
	}
}

// A disk that hangs, a file that is broken: adding goes on, and it is said.
func TestHistoryWithoutDisk(t *testing.T) {
	t.Run("broken", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "history.json")
		if err := os.WriteFile(path, []byte("\x00\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
		reported := make(chan error, 1)
		l := New(path, func(err error) { reported <- err })
		stop := running(t, l)
		if err := <-reported; !errors.As(err, new(*jsonfile.BrokenError)) {
			t.Errorf("reported %v", err)
		}
		l.Add(Event{Text: "after"})
		stop()
		again := New(path, func(err error) { t.Error(err) })
		again.load()
		if got := again.List(Filter{}); len(got) != 1 || got[0].Text != "after" {
			t.Errorf("kept %+v", got)
		}
	})
	t.Run("no room", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var said error
		l := New(filepath.Join(dir, "history.json"), func(err error) { mu.Lock(); said = err; mu.Unlock() })
		stop := running(t, l)
		l.Add(Event{Text: "kept in memory"})
		stop()
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(said, unix.ENOTDIR) || len(l.List(Filter{})) != 1 {
			t.Errorf("reported %v, %d events", said, len(l.List(Filter{})))
		}
	})
}
