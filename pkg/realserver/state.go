package realserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// state is what the state file holds.
type state struct {
	// Boot is the kernel's boot_id: neither addresses nor settings survive a
	// restart of the machine, so what was remembered is void then.
	Boot   string            `json:"boot"`
	VIPs   []record          `json:"vips"`
	Before map[string]string `json:"before"` // settings, with the values they had

	file string
}

// record is one VIP that is up.
type record struct {
	Addr      netip.Addr `json:"address"`
	Interface string     `json:"interface"` // the one that faces the segment; an IPv6 VIP may have none
	Before    bool       `json:"before"`    // it was on lo already
}

func (s *state) find(vip netip.Addr) int {
	return slices.IndexFunc(s.VIPs, func(r record) bool { return r.Addr == vip })
}

// needs lists the settings that the VIPs need. Only IPv4 has the problem: an
// address on lo is not answered for in neighbour discovery.
func (s *state) needs() []key {
	var needed []key
	for _, v := range s.VIPs {
		if !v.Addr.Is4() {
			continue
		}
		for _, k := range keys("all", lo, v.Interface) {
			if !slices.Contains(needed, k) {
				needed = append(needed, k)
			}
		}
	}
	return needed
}

// sorted goes through the remembered settings, while they may be deleted.
func (s *state) sorted() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, name := range slices.Sorted(maps.Keys(s.Before)) {
			if !yield(name, s.Before[name]) {
				return
			}
		}
	}
}

// locked runs f with the state, while no other process changes it.
func locked(file string, f func(*state) ([]string, error)) ([]string, error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	defer d.Close() // and with it the lock
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock of %s: %w", dir, err)
	}
	s, err := load(file)
	if err != nil {
		return nil, err
	}
	return f(s)
}

// load reads the state file. One that is missing or of an earlier boot is an
// empty state.
func load(file string) (*state, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot identifier: %w", err)
	}
	empty := &state{Boot: strings.TrimSpace(string(boot)), Before: map[string]string{}, file: file}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	s := &state{file: file}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("state file %s: %w (remove it; what was there before is then not known)", file, err)
	}
	if s.Boot != empty.Boot {
		return empty, nil
	}
	if s.Before == nil {
		s.Before = map[string]string{}
	}
	return s, nil
}

// save writes the state file, or removes it if there is nothing to remember.
func (s *state) save() error {
	if len(s.VIPs) == 0 && len(s.Before) == 0 {
		if err := os.Remove(s.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("state file: %w", err)
		}
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	// A rename leaves either the old state or the new, whenever we are killed.
	if err := os.WriteFile(s.file+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}
