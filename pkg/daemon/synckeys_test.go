package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A changed file is read once, and not while somebody writes it.
func TestKeyFileIsReadOnceItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sync.key")
	write := func(text string, at int) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(at), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write("one", 1)
	k := newKeyFile(path)
	for i, step := range []struct {
		do   func()
		want bool
	}{
		{func() {}, false},
		{func() { write("half of two", 2) }, false},
		{func() { write("the whole of two", 3) }, false}, // still being written
		{func() {}, true},
		{func() {}, false},
		{func() { _ = os.Remove(path) }, false},
		{func() {}, true}, // reading it says that it is gone
		{func() { write("one", 1) }, false},
		{func() {}, true},
	} {
		step.do()
		if got := k.look(); got != step.want {
			t.Errorf("look %d: to be read: %t, want %t", i, got, step.want)
		}
	}
}
