package xdp

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Held is what a pinned packet path holds and does, as its tables say it.
type Held struct {
	State       lb.State // services, in the order of the configuration that was given
	Observed    lb.Observed
	Stats       lb.Stats
	Connections []lb.Connection

	Interfaces []string                     // that the program is attached to
	Silent     map[netip.Addr]string        // VIPs that it does not serve, and why
	Left       map[netip.Addr]time.Duration // of the leases of VIPs that it serves for so long only
}

// Look reads what the packet path that is pinned in a directory holds, without
// the daemon that looks after it. It changes nothing. configured names what the
// tables do not hold: the order of services, reals and listeners, and which of two
// schedulers that the packet path does alike is meant; it may be empty.
func Look(pinDir string, configured lb.State, connections bool, limit int) (Held, error) {
	dp, err := loader.Look(pinDir)
	if err != nil {
		return Held{}, err
	}
	defer dp.Close(true)
	// Of these adopt mends what it finds; their memory cannot be written.
	dp.Reals, dp.Shares = slices.Clone(dp.Reals), make([]bpf.ShareLine, len(dp.Shares))
	b := &Backend{
		log: slog.New(slog.DiscardHandler), dp: dp, services: map[string]*service{}, filters: map[bpf.FilterKey]bpf.FilterAction{},
		ipv6: len(dp.Flows6) > bpf.SetWords6,
	}
	b.rings.init(len(dp.Rings))
	b.slots.init(len(dp.Reals))
	b.numbers.init()
	b.adoptTables()
	b.countFlows()
	b.readServices()
	b.orderAs(configured)
	return b.held(configured, connections, limit)
}

// held collects what is asked for.
func (b *Backend) held(configured lb.State, connections bool, limit int) (h Held, err error) {
	h.State, h.State.Timeouts = b.state, configured.Timeouts
	if h.Observed, err = b.Observed(); err != nil {
		return h, err
	}
	if h.Stats, err = b.Stats(); err != nil {
		return h, err
	}
	if connections {
		if h.Connections, err = b.Connections(limit); err != nil {
			return h, err
		}
	}
	for _, a := range b.dp.Attachments {
		h.Interfaces = append(h.Interfaces, a.Name)
	}
	h.Silent, h.Left = map[netip.Addr]string{}, map[netip.Addr]time.Duration{}
	for v := range b.eachVIP {
		left := b.LeaseLeft(uint32(v.Lease))
		switch addr := v.Addr.Addr(); {
		case v.Flags&bpf.VIPStandby != 0:
			h.Silent[addr] = "another director serves it"
		case v.Flags&bpf.VIPLeased != 0 && left == 0:
			h.Silent[addr] = "its lease is over"
		case v.Flags&bpf.VIPLeased != 0:
			h.Left[addr] = left
		}
	}
	return h, nil
}

// countFlows counts the connections that live now.
func (b *Backend) countFlows() {
	now := b.now()
	b.eachFlow(func(_ entry, v bpf.FlowValue) bool {
		if !b.expired(v, now) && b.current(v) {
			b.load(v.Real(), v.State(), 1)
		}
		return true
	})
}

// eachVIP visits the VIPs of the half in force.
func (b *Backend) eachVIP(visit func(bpf.VIP) bool) {
	half := b.dp.Settings.Half & 1
	for _, line := range b.dp.VIPs[half*bpf.VIPLines : (half+1)*bpf.VIPLines] {
		for _, v := range line.Way {
			if v.TCP|v.UDP != 0 && !visit(v) {
				return
			}
		}
	}
}

// readServices makes the state of what the tables in force hold.
func (b *Backend) readServices() {
	listeners := b.readListeners()
	for _, s := range b.byIndex {
		if s == nil {
			continue
		}
		if s.conf.Listeners = listeners[s.index]; len(s.conf.Listeners) == 0 {
			continue // it was removed, and waits for its connections to end
		}
		s.isThere = true
		s.readEntry()
		for _, r := range s.reals {
			if !r.isThere {
				continue
			}
			raw := &b.dp.Reals[r.slot]
			if raw.Flags&bpf.RealSilent != 0 {
				r.near.Err = "it does not answer " + resolutionOf(r.conf.Addr)
			}
			if raw.Flags&bpf.RealSorry != 0 {
				s.conf.Sorry = r.conf.Addr
				continue
			}
			s.conf.Reals = append(s.conf.Reals, r.conf)
		}
		slices.SortFunc(s.conf.Reals, func(x, y lb.Real) int { return cmp.Compare(s.reals[x.Key()].slot, s.reals[y.Key()].slot) })
		if s.conf.Scheduler == lb.RR && slices.ContainsFunc(s.conf.Reals, func(r lb.Real) bool { return r.Weight > 1 }) {
			s.conf.Scheduler = lb.WRR
		}
		b.state.Services = append(b.state.Services, s.conf)
	}
}

// readEntry reads how a service schedules.
func (s *service) readEntry() {
	for _, name := range lb.Schedulers() { // rr comes before wrr
		if kind[name] == s.entry.Scheduler {
			s.conf.Scheduler = name
			break
		}
	}
	port, fallback := lb.SHPort, lb.SHFallback
	if s.conf.Scheduler == lb.MH {
		port, fallback = lb.MHPort, lb.MHFallback
	}
	if s.entry.Flags&bpf.ServicePort != 0 {
		s.conf.Flags |= port
	}
	if s.entry.Flags&bpf.ServiceFallback != 0 {
		s.conf.Flags |= fallback
	}
	s.conf.Stateless = s.entry.Rows > 0
	s.conf.OnePacket = s.entry.Flags&bpf.ServiceOnePacket != 0
	if s.entry.Flags&bpf.ServicePersistent != 0 {
		s.conf.Persistence = lb.Persistence{
			Timeout: ticksDuration(int64(s.entry.PersistTicks)).Truncate(time.Second), Prefix: prefixOf(s.entry.PersistMask, s.conf.IsIPv6()),
		}
	}
}

// prefixOf is the inverse of [mask].
func prefixOf(mask uint32, isIPv6 bool) int {
	if isIPv6 {
		return int(mask)
	}
	a := bpf.AddrOfWord(mask).As4()
	n := 0
	for _, octet := range a {
		for ; octet&0x80 != 0; octet <<= 1 {
			n++
		}
	}
	return n
}

// readListeners finds where services listen, by their indices.
func (b *Backend) readListeners() map[uint32][]lb.Listener {
	found := map[uint32][]lb.Listener{}
	half := b.dp.Settings.Half & 1
	for _, line := range b.dp.Ports[half*bpf.PortLines : (half+1)*bpf.PortLines] {
		for _, p := range line.Way {
			if e, ok := b.numbers.who[p.VIP]; ok && p.VIP != 0 {
				port := bpf.PortWord(p.Port)
				found[p.Service] = append(found[p.Service], lb.Listener{Addr: e.vip, Proto: e.proto, First: port, Last: port})
			}
		}
	}
	ranges := b.dp.Ranges[half*bpf.Ranges : (half+1)*bpf.Ranges]
	for v := range b.eachVIP {
		first, udp := v.Ranges, v.Ranges+uint32(v.TCPRanges)
		for i := first; i < udp+uint32(v.UDPRanges) && int(i) < len(ranges); i++ {
			proto := lb.TCP
			if i >= udp {
				proto = lb.UDP
			}
			l := lb.Listener{Addr: v.Addr.Addr(), Proto: proto, First: ranges[i].First, Last: ranges[i].Last}
			found[ranges[i].Service] = append(found[ranges[i].Service], l)
		}
	}
	for i, ls := range found {
		slices.SortFunc(ls, compareListeners)
		found[i] = joinEveryPort(ls)
	}
	return found
}

// joinEveryPort makes one listener of the pieces that others have left of
// every port: no other listener begins at port 0. ls is sorted.
func joinEveryPort(ls []lb.Listener) (joined []lb.Listener) {
	for _, l := range ls {
		n := len(joined)
		if n > 0 && joined[n-1].EveryPort() && joined[n-1].Addr == l.Addr && joined[n-1].Proto == l.Proto {
			continue
		}
		if l.First == 0 {
			l.Last = 0
		}
		joined = append(joined, l)
	}
	return joined
}

func compareListeners(a, b lb.Listener) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First))
}

// orderAs gives what was read the order of a configuration, and the names of what
// the tables do not tell apart. What the configuration does not name comes last.
func (b *Backend) orderAs(configured lb.State) {
	place := map[string]int{}
	for i, c := range configured.Services {
		place[c.Name] = i + 1
		if s := b.services[c.Name]; s != nil && s.isThere {
			s.orderAs(&c)
		}
	}
	for i := range b.state.Services {
		b.state.Services[i] = b.services[b.state.Services[i].Name].conf
	}
	slices.SortStableFunc(b.state.Services, func(x, y lb.Service) int {
		return cmp.Compare(cmp.Or(place[x.Name], len(place)+1), cmp.Or(place[y.Name], len(place)+1))
	})
}

func (s *service) orderAs(c *lb.Service) {
	if kind[c.Scheduler] == s.entry.Scheduler {
		s.conf.Scheduler = c.Scheduler
	}
	if ticks(c.Persistence.Timeout) == s.entry.PersistTicks {
		s.conf.Persistence.Timeout = c.Persistence.Timeout
	}
	if sorted := slices.SortedFunc(slices.Values(c.Listeners), compareListeners); slices.Equal(sorted, s.conf.Listeners) {
		s.conf.Listeners = c.Listeners
	}
	at := func(r lb.Real) int {
		if i := slices.IndexFunc(c.Reals, r.Same); i >= 0 {
			return i
		}
		return len(c.Reals)
	}
	slices.SortStableFunc(s.conf.Reals, func(x, y lb.Real) int { return cmp.Compare(at(x), at(y)) })
}
