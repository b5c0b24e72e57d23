package realserver

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon's notes are no precondition: with a file that can be neither read
// nor written what was changed is remembered, and said not to be kept; a
// successor finds what could be written.
func TestFault02NotesOfADaemon(t *testing.T) {
	vip := netip.MustParseAddr("192.0.2.100")
	remember := func(n *Notes) {
		t.Helper()
		if _, err := n.change(func(s *state) ([]string, error) {
			s.VIPs = append(s.VIPs, record{Addr: vip, Interface: "eth0"})
			return nil, s.save()
		}); err != nil {
			t.Fatal(err)
		}
	}
	knows := func(n *Notes) bool {
		s, err := (Options{Notes: n}).remembered()
		return err == nil && s.find(vip) >= 0
	}
	write := func(n *Notes) {
		ctx, end := context.WithCancel(t.Context())
		end()
		_ = n.Run(ctx)
	}
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file", "below", "silent.json")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var said []error
	n := NewNotes(blocked, func(err error) { said = append(said, err) })
	remember(n)
	write(n)
	if !knows(n) || len(said) == 0 || said[len(said)-1] == nil {
		t.Errorf("remembered: %t, said %v", knows(n), said)
	}

	said = nil
	file := filepath.Join(dir, "silent.json")
	report := func(err error) { said = append(said, err) }
	n = NewNotes(file, report)
	remember(n)
	write(n)
	if again := NewNotes(file, report); !knows(again) || len(said) != 0 {
		t.Errorf("a successor does not know what was changed; said %v", said)
	}
	if err := os.WriteFile(file, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	if after := NewNotes(file, report); knows(after) || len(said) != 1 {
		t.Errorf("broken notes: said %v", said)
	}

	// A disk that hangs: nobody writes into the pipe that is read.
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	n = NewNotes(pipe, report)
	remember(n)
	if !knows(n) || time.Since(begin) > 10*time.Second {
		t.Errorf("remembered: %t, after %v", knows(n), time.Since(begin))
	}
}
