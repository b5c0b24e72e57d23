package director

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// A daemon that was killed is back within a second or an hour, while the data
// path goes on without it. If it then took every real for down until its
// first pass, the restart would be an outage that the crash was not. So the
// memory of the last plan is kept on disk, besides what the data path itself
// still holds, and believed as long as the kernel
// that held the data path runs: time does not make it worse, as reals are
// asked at once and each answer counts.
const maxLease = 1023 // more than any configuration has: see maxRouters of package config

// storedMemory is a [Memory] as JSON.
type storedMemory struct {
	Boot     string            `json:"boot"` // the kernel's boot_id: the data path ends with its kernel
	Up       []storedReal      `json:"up"`   // reals that were up; all others were down
	Quorum   map[string]bool   `json:"quorum"`
	LeaseIDs map[string]uint32 `json:"leases"`
	Active   []string          `json:"active,omitempty"`
}

type storedReal struct {
	Service string         `json:"service"`
	Real    netip.AddrPort `json:"real"`
}

func storeMemory(m Memory, boot string) storedMemory {
	s := storedMemory{Boot: boot, Up: []storedReal{}, Quorum: m.Quorum, LeaseIDs: m.Leases, Active: m.Active}
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
	return s
}

// restoreMemory is the memory that was stored. A lease that two instances
// share, or a number that cannot have been given, is left out.
func restoreMemory(s storedMemory) Memory {
	m := Memory{Up: map[string]Verdicts{}, Quorum: s.Quorum, Leases: s.LeaseIDs, Active: s.Active}
	for _, r := range s.Up {
		m.Up[r.Service] = append(m.Up[r.Service], Verdict{r.Real, true})
	}
	users := map[uint32]int{}
	for _, id := range m.Leases {
		users[id]++
	}
	maps.DeleteFunc(m.Leases, func(_ string, id uint32) bool { return users[id] > 1 || id > maxLease })
	return m
}

// loadMemory reads the memory of an earlier daemon. Where the file says
// nothing, what that daemon left in force does: a real that new connections
// went to was up.
func (d *Director) loadMemory() Memory {
	s := readNote(d, memoryFile, func(text []byte) (s storedMemory, err error) {
		err = jsonfile.Unmarshal(text, &s)
		return s, err
	})
	if s.Boot != d.opt.Boot || s.Up == nil {
		return inheritMemory(d.opt.Backend)
	}
	return restoreMemory(s)
}

// inheritMemory is what a data path that has outlived its daemon says about
// reals.
func inheritMemory(b lb.Backend) Memory {
	i, ok := b.(lb.Inheritor)
	if !ok {
		return Memory{}
	}
	m := Memory{Up: map[string]Verdicts{}}
	for _, s := range i.Inherited() {
		for _, r := range s.Reals {
			m.Up[s.Name] = append(m.Up[s.Name], Verdict{netip.AddrPortFrom(r.Addr, r.Port), true})
		}
	}
	return m
}

// inheritRoles lists the VRRP instances that a data path which has outlived its
// daemon forwards for. The VIPs of a daemon that was killed are still on this
// host: on standby they would be the kernel's, which resets their connections.
// A note on a disk may be older than the role.
func inheritRoles(cfg *config.Config, b lb.Backend) (instances []string) {
	i, ok := b.(lb.Inheritor)
	if !ok {
		return nil
	}
	left := i.InheritedVIPs()
	for _, inst := range cfg.VRRP {
		if slices.ContainsFunc(inst.Addresses, func(p netip.Prefix) bool { return slices.Contains(left, p.Addr()) }) {
			instances = append(instances, inst.Name)
		}
	}
	return instances
}

// saveMemory has the memory written if it has changed.
func (d *Director) saveMemory(before Memory) {
	m := d.out.Memory
	if d.notes.memory == nil ||
		maps.EqualFunc(m.Up, before.Up, slices.Equal[Verdicts]) && maps.Equal(m.Quorum, before.Quorum) && maps.Equal(m.Leases, before.Leases) &&
			slices.Equal(m.Active, before.Active) {
		return
	}
	_ = d.notes.memory.Put(storeMemory(m, d.opt.Boot)) // plain values: they can be encoded
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
