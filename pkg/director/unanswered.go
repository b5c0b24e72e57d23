package director

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// noReplies is the kind of these warnings.
const noReplies = "no-replies"

// A real by NAT is said to leave connections unanswered once it has been sent
// so many without a reply, for so long.
const (
	unansweredConnections = 3
	unansweredTime        = 10 * time.Second
)

// unansweredReals finds reals by NAT whose replies do not come back through this
// director: their gateway is another. Health checks do not show it, as the
// director's own packets come back by the segment. The zero value has seen
// nothing.
type unansweredReals map[realOfService]replyCount

type realOfService struct {
	service string
	real    netip.AddrPort
}

// replyCount is what was counted when a reply of a real was seen last.
type replyCount struct {
	connections uint64
	replies     uint64
	asked       time.Time // when the first connection after that was seen; zero = none was
}

// feed takes the counters of now, and lists the reals that leave connections
// unanswered. Services of UDP may have no replies at all, and those of this
// host itself do not pass the packet path.
func (u *unansweredReals) feed(services []lb.Service, st lb.Stats, now time.Time, isLocal func(netip.Addr) bool) []warnings.Warning {
	next := unansweredReals{}
	var found []warnings.Warning
	counted := make(map[string]*lb.ServiceStats, len(st.Services)) // there may be ten thousand
	for i := range st.Services {
		counted[st.Services[i].Name] = &st.Services[i]
	}
	for i := range services {
		svc := &services[i]
		if slices.ContainsFunc(svc.Listeners, func(l lb.Listener) bool { return l.Proto != lb.TCP }) {
			continue
		}
		stats := counted[svc.Name]
		if stats == nil {
			continue
		}
		for _, r := range svc.Reals {
			if r.Forward != lb.NAT || isLocal(r.Addr) {
				continue
			}
			at := slices.IndexFunc(stats.Reals, func(s lb.RealStats) bool { return s.Addr == r.Addr && s.Port == r.Port })
			if at < 0 {
				continue
			}
			key := realOfService{svc.Name, r.Key()}
			count := (*u)[key].next(stats.Reals[at].Counters, now)
			next[key] = count
			if n := stats.Reals[at].Conns - count.connections; n >= unansweredConnections && now.Sub(count.asked) >= unansweredTime {
				found = append(found, unansweredWarning(svc.Name, r.Addr))
			}
		}
	}
	*u = next
	return found
}

// next is the count after a look at the counters.
func (c replyCount) next(now lb.Counters, at time.Time) replyCount {
	isReset := now.Conns < c.connections
	switch {
	case isReset, now.OutPkts != c.replies:
		return replyCount{connections: now.Conns, replies: now.OutPkts}
	case c.asked.IsZero() && now.Conns > c.connections:
		c.asked = at
	}
	return c
}

func unansweredWarning(service string, real netip.Addr) warnings.Warning {
	return warnings.Warning{
		Kind: noReplies, Subject: "real " + real.String(),
		Text: fmt.Sprintf("gets connections of %s by NAT, and no reply comes back through this director", service),
		Cure: fmt.Sprintf("on %s: make this director the gateway (ip route replace default via ADDRESS), or route the clients through it", real),
	}
}
