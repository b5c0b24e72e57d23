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

// A file that is named in the configuration is read whole or refused; nothing
// hangs on it, and nothing is read without end.
func TestFault02FilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, mode := range map[string]os.FileMode{"good": 0o600, "shown": 0o644, "group": 0o640} {
		if err := os.WriteFile(at(name), []byte("12345678"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("good", at("link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path             string
		longest          int64
		asFile, asSecret string // what is wrong
	}{
		{at("good"), 8, "", ""},
		{at("link"), 8, "", ""},
		{at("good"), 7, "more than 7 bytes", "more than 7 bytes"},
		{at("shown"), 8, "", "others can read it (chmod 600 " + at("shown") + ")"},
		{at("group"), 8, "", "others can read it"},
		{at("pipe"), 8, "not a regular file", "not a regular file"},
		{"/dev/zero", 8, "not a regular file", "not a regular file"},
		{dir, 8, "not a regular file", "not a regular file"},
		{at("none"), 8, "no such file", "no such file"},
	} {
		for want, read := range map[*string]func(string, int64) ([]byte, error){&c.asFile: guard.ReadFile, &c.asSecret: guard.ReadSecret} {
			var b []byte
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				b, err = read(c.path, c.longest)
			}()
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatalf("%s hangs", c.path)
			}
			switch {
			case *want == "" && (err != nil || string(b) != "12345678"):
				t.Errorf("%s: %q, %v", c.path, b, err)
			case *want != "" && (err == nil || !strings.Contains(err.Error(), *want)):
				t.Errorf("%s, at most %d: %q, %v, want %q", c.path, c.longest, b, err, *want)
			}
		}
	}
}
