package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
)

// A daemon that was killed is back within a second, while the data path goes
// on without it. If it then took every real for down until its first pass,
// the restart would be an outage that the crash was not. So the memory of
// the last plan is kept on disk, and believed if it is fresh.
const (
	memoryFile = "memory.json" // below state_dir
	memoryAge  = time.Minute   // older than that it says nothing
	maxLease   = 1023          // more instances than any configuration has
)

// storedMemory is a [Memory] as JSON.
type storedMemory struct {
	Up     []storedReal      `json:"up"` // reals that were up; all others were down
	Quorum map[string]bool   `json:"quorum"`
	Leases map[string]uint32 `json:"leases"`
	Active []string          `json:"active,omitempty"`
}

type storedReal struct {
	Service string         `json:"service"`
	Real    netip.AddrPort `json:"real"`
}

func encodeMemory(m Memory) ([]byte, error) {
	s := storedMemory{Up: []storedReal{}, Quorum: m.Quorum, Leases: m.Leases, Active: m.Active}
	for service, verdicts := range m.Up {
		for _, v := range verdicts {
			if v.Up {
				s.Up = append(s.Up, storedReal{service, v.Real})
			}
		}
	}
	slices.SortFunc(s.Up, func(a, b storedReal) int {
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return a.Real.Compare(b.Real)
	})
	return json.Marshal(s)
}

// decodeMemory reads what encodeMemory wrote. Leases that two instances
// share, or that nobody can have given, are nobody's.
func decodeMemory(b []byte) (Memory, error) {
	var s storedMemory
	if err := json.Unmarshal(b, &s); err != nil {
		return Memory{}, err
	}
	m := Memory{Up: map[string]Verdicts{}, Quorum: s.Quorum, Leases: s.Leases, Active: s.Active}
	for _, r := range s.Up {
		m.Up[r.Service] = append(m.Up[r.Service], Verdict{r.Real, true})
	}
	users := map[uint32]int{}
	for _, id := range m.Leases {
		users[id]++
	}
	maps.DeleteFunc(m.Leases, func(_ string, id uint32) bool { return users[id] > 1 || id > maxLease })
	return m, nil
}

// loadMemory reads the memory of a daemon that ended a moment ago. None is
// normal, a broken one no reason not to start.
func (d *Director) loadMemory() Memory {
	if d.cfg.StateDir == "" {
		return Memory{}
	}
	path := filepath.Join(d.cfg.StateDir, memoryFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Memory{}
	}
	var m Memory
	if err == nil && time.Since(info.ModTime()).Abs() < memoryAge {
		var b []byte
		if b, err = os.ReadFile(path); err == nil {
			m, err = decodeMemory(b)
		}
	}
	if err != nil {
		d.log.Warn("memory of the last run not readable, reals start down", "err", err)
		return Memory{}
	}
	return m
}

// saveMemory writes the memory if it changed, and keeps it fresh if not.
func (d *Director) saveMemory(before Memory) {
	if d.cfg.StateDir == "" {
		return
	}
	if err := d.writeMemory(before); err != nil {
		d.log.Debug("memory not written", "err", err)
	}
}

func (d *Director) writeMemory(before Memory) error {
	path := filepath.Join(d.cfg.StateDir, memoryFile)
	now := time.Now()
	m := d.out.Memory
	if maps.EqualFunc(m.Up, before.Up, slices.Equal[Verdicts]) && maps.Equal(m.Quorum, before.Quorum) && maps.Equal(m.Leases, before.Leases) &&
		slices.Equal(m.Active, before.Active) {
		if os.Chtimes(path, now, now) == nil {
			return nil
		}
	}
	b, err := encodeMemory(m)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := os.MkdirAll(d.cfg.StateDir, 0o755); err != nil {
		return err
	}
	if err := replaceFile(path, b); err != nil {
		return err
	}
	return os.Chtimes(path, now, now)
}

// Forget removes the memory: the data path ends with the daemon, so the next
// one starts with nothing. Call it after Run has returned.
func (d *Director) Forget() error {
	if d.cfg.StateDir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(d.cfg.StateDir, memoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// presetChecks lets checks go on where they were: a real that was up is up until
// it has failed as often as its check says.
func presetChecks(cfg *config.Config, probeVIP bool, m Memory, now time.Time) map[health.Target]health.Status {
	known := map[health.Target]health.Status{}
	for s := range cfg.Services {
		svc := &cfg.Services[s]
		verdicts := m.Up[svc.Name]
		for i, r := range svc.Reals {
			if up, _ := verdicts.lookup(i, r.Key()); !up {
				continue
			}
			for _, t := range targets(svc, i, probeVIP) {
				known[t] = health.Status{Known: true, Up: true, Since: now}
			}
		}
	}
	return known
}
