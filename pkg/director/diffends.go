package director

import (
	"fmt"
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// ends is what decides which connections a change ends.
type ends struct {
	cfg           *config.Config    // that is to come
	renamed       map[string]string // names that services had, by those they get
	before, after map[string]*config.Service
}

// describeEnds says of each change which connections it would end, "" if none:
// those of what is removed, and those of a stateless service that are not stored
// and that nothing else keeps at their reals. The connections of a removed real
// stay, silent, if they may wait for its return.
func (d *Director) describeEnds(changes []lb.Change, e ends) []string {
	words := make([]string, len(changes))
	st, err := d.opt.Backend.Stats()
	if err != nil {
		return words
	}
	isXDP := map[string]bool{}
	if seen, err := d.opt.Backend.Observed(); err == nil {
		for _, s := range seen.Services {
			isXDP[s.Name] = s.Backend == "xdp"
		}
	}
	index := make(map[string]*lb.ServiceStats, len(st.Services))
	for i := range st.Services {
		index[st.Services[i].Name] = &st.Services[i]
	}
	for n, c := range changes {
		s := index[c.Service]
		if was, ok := e.renamed[c.Service]; ok {
			s = index[was]
		}
		switch {
		case s == nil || c.Op == lb.RemoveReal && !e.cfg.ExpireNodestConn:
		case c.Op == lb.EditService && !isXDP[s.Name]: // IPVS keeps connections
		case c.Op == lb.EditService:
			words[n] = describeStatelessEdit(&e.before[c.Service].Service, &e.after[c.Service].Service, s)
		default:
			words[n] = describeRemoval(c, s)
		}
	}
	return words
}

// describeRemoval is ": ends 4 connections".
func describeRemoval(c lb.Change, s *lb.ServiceStats) string {
	stored, isRemoved := uint64(0), false
	for _, r := range s.Reals {
		if c.Op == lb.RemoveService || c.Op == lb.RemoveReal && netip.AddrPortFrom(r.Addr, r.Port) == c.Real {
			stored += uint64(r.Active) + uint64(r.Inactive)
			isRemoved = true
		}
	}
	switch {
	case isRemoved && s.Rows > 0:
		return fmt.Sprintf(": ends %d connections and those that are not stored", stored)
	case stored > 0:
		return fmt.Sprintf(": ends %d connections", stored)
	}
	return ""
}

// describeStatelessEdit says what becomes of the connections of a service that
// begins or ceases to keep them, or whose hash names other rows.
func describeStatelessEdit(before, after *lb.Service, s *lb.ServiceStats) string {
	stored := uint64(0)
	for _, r := range s.Reals {
		stored += uint64(r.Active) + uint64(r.Inactive)
	}
	hasSameRows := after.KeepsNoFlows() && after.Scheduler == before.Scheduler && after.HashesPort() == before.HashesPort()
	switch {
	case s.Rows > 0 && !hasSameRows:
		return fmt.Sprintf(": ends the connections that are not stored; %d are stored, of %d opened so far", stored, s.Conns)
	case s.Rows == 0 && after.KeepsNoFlows() && !before.KeepsNoFlows():
		return fmt.Sprintf(": %d connections stay stored until they end, new ones are not", stored)
	}
	return ""
}
