package vrrp

import (
	"log/slog"
	"maps"
	"slices"
	"time"
)

// key is the identity of a virtual router on this host.
type key struct {
	iface string
	four  bool
	vrid  uint8
}

func (i Instance) key() key { return key{i.Interface, i.isIPv4(), i.VRID} }

// IsSameRouter reports whether i and o are one virtual router of this host, whatever
// else differs: a reload goes from one to the other without a handover.
func (i Instance) IsSameRouter(o Instance) bool {
	return len(i.Addresses) > 0 && len(o.Addresses) > 0 && i.key() == o.key()
}

// Renamed is which virtual routers of after have another name than in before: the old name
// by the new one.
func Renamed(before, after []Instance) map[string]string {
	oldNames := map[string]string{}
	for _, to := range after {
		isAsBefore := slices.ContainsFunc(before, func(o Instance) bool { return o.Name == to.Name && o.IsSameRouter(to) })
		if i := slices.IndexFunc(before, to.IsSameRouter); i >= 0 && !isAsBefore {
			oldNames[to.Name] = before[i].Name
		}
	}
	return oldNames
}

type connKey struct {
	iface string
	index int
	four  bool
}

// controller looks at the host and the wanted instances and gives the
// loop a plan. It opens and closes the sockets: joining a group takes a
// kernel lock that others may hold for long.
type controller struct {
	router   *Router
	loop     *loop
	trackers *trackers
	conns    map[connKey]*conn
}

// plan is everything the loop has to know about the outside.
type plan struct {
	seen     time.Time // when the host was looked at
	items    []item
	links    links // nil: not read, as no instance is wanted
	services map[string]bool
	tracked  readings
}

// item is one wanted instance and what it has on this host.
type item struct {
	cfg     Instance
	conn    *conn // nil: none, err says why
	err     error
	holding bool // the VIPs are on the interface
}

// settle is how long a burst of changes may go on before the plan is made.
const settle = 5 * time.Millisecond

// run looks whenever something has changed, until the loop has ended.
func (c *controller) run(ended <-chan struct{}) {
	repair := time.NewTicker(10 * time.Second) // for changes without a message
	defer repair.Stop()
	for {
		if err := c.updatePlan(); err != nil {
			c.loop.logLater(slog.LevelError, "interfaces are not readable", slog.Any("error", err))
		}
		select {
		case <-ended:
			for _, conn := range c.conns {
				conn.close()
			}
			c.trackers.set(nil)
			return
		case <-c.router.changed:
			time.Sleep(settle)
		case <-repair.C:
		}
	}
}

// updatePlan reads the host's interfaces and hands the loop a new plan.
func (c *controller) updatePlan() error {
	seen := time.Now()
	r := c.router
	r.mu.Lock()
	want := r.want
	services, sessions := maps.Clone(r.services), maps.Clone(r.sessions)
	r.mu.Unlock()
	c.trackers.set(want)
	var ls links
	if len(want) > 0 { // without instances nothing is read: a host may have ten thousand addresses
		var err error
		if ls, err = readLinks(); err != nil {
			return err
		}
		ls.putVIPsLast(want)
	}

	tracked := c.trackers.snapshot()
	maps.Copy(tracked, sessions)
	p := plan{seen: seen, links: ls, services: services, tracked: tracked}
	for _, i := range want {
		it := item{cfg: i}
		if own, ok := ls[i.Interface]; ok {
			it.holding = ls.hasVIPs(i)
			it.conn, it.err = c.openConn(i.Interface, own.index, i.isIPv4())
		}
		p.items = append(p.items, it)
	}
	var used map[*conn]bool
	if !c.loop.runAndWait(func() { used = c.loop.applyPlan(p) }) {
		return nil // ended
	}
	maps.DeleteFunc(c.conns, func(_ connKey, conn *conn) bool {
		if !used[conn] {
			conn.close()
		}
		return !used[conn]
	})
	return nil
}

// openConn finds or opens the socket for an interface and family.
func (c *controller) openConn(iface string, index int, four bool) (*conn, error) {
	k := connKey{iface, index, four}
	if found, ok := c.conns[k]; ok {
		return found, nil
	}
	opened, err := openConnOn(iface, index, !four)
	if err == nil {
		c.conns[k] = opened
	}
	return opened, err
}
