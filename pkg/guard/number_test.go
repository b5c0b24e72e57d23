package guard_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// A file that is none, such as a pipe that somebody holds open, is refused
// without waiting.
func TestReadNumber(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"good": " -17\n", "empty": "", "word": "up", "large": "65536", "long": strings.Repeat("1", 65)} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(at("pipe"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { writer.Close() }) // which ends a read that hangs
	for name, c := range map[string]struct {
		want int
		err  string
	}{
		"good": {-17, ""}, "empty": {0, ""}, "none": {0, ""},
		"word": {0, "want a whole number"}, "large": {0, "want a whole number"}, "long": {0, "more than 64 bytes"},
		"pipe": {0, "not a regular file"},
	} {
		var got int
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = guard.ReadNumber(t.Context(), at(name))
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("%s hangs", name)
		}
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d, %v, want %d, %q", name, got, err, c.want, c.err)
		}
	}
}
