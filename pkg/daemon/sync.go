package daemon

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// connSync shares connections with the other directors.
type connSync struct {
	cfg      config.Sync
	hasVRRP  atomic.Bool
	table    connsync.Backend
	feed     *newsFeed
	mesh     atomic.Pointer[connsync.Mesh] // nil: no director that runs lvx, or not begun yet
	wire     *connsync.Wire                // nil: no director that runs kernel IPVS
	warnings *warnings.Registry
	hold     syncHold
	log      *slog.Logger
	changed  chan struct{} // a session has changed, or a role
	watch    wireWatch

	flushing sync.Mutex
	flushed  time.Time // when the last flush began

	mu      sync.Mutex
	masters map[string]bool // VRRP instances that this host is master of
	digests []connsync.Digest
}

// newConnSync makes what `sync:` asks for: nil if it asks for nothing.
func newConnSync(cfg *config.Config, feed *newsFeed, w *warnings.Registry, log *slog.Logger) (*connSync, error) {
	if !cfg.Sync.IsEnabled() {
		return nil, nil
	}
	if feed == nil {
		return nil, errSyncNeedsXDP
	}
	table := feed.table
	s := &connSync{
		cfg: cfg.Sync, table: table, feed: feed, warnings: w, log: log,
		changed: make(chan struct{}, 1), masters: map[string]bool{},
	}
	s.hasVRRP.Store(len(cfg.VRRP) > 0)
	if cfg.Sync.SyncID == 0 {
		return s, nil
	}
	var err error
	s.wire, err = connsync.NewWire(connsync.WireOptions{
		Interface: cfg.Sync.Interface, Group: cfg.Sync.Multicast, Port: cfg.Sync.Port, TTL: cfg.Sync.TTL,
		SyncID: cfg.Sync.SyncID, MaxLen: cfg.Sync.MaxLen, Version0: cfg.Sync.Version == 0, Log: log,
		Absorb: func(records []connsync.Record) (int, error) {
			return table.Absorb(connsync.BatchOf(entriesOf(records)...))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	return s, nil
}

// newMesh makes the sessions that the file asks for.
func (s *connSync) newMesh() (*connsync.Mesh, error) {
	keys, err := connsync.ReadKeys(s.cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	local, err := addressesOf(s.cfg.Interface)
	if err != nil {
		return nil, err
	}
	return connsync.NewMesh(connsync.Options{
		Local: local, Peers: s.cfg.Peers, Port: s.cfg.Port, Keys: keys, Table: s.table, Log: s.log, Changed: s.wake,
		TellNow: func() { s.feed.tellNow() },
	})
}

// hasPeers reports whether connections are to be shared with directors that
// run lvx.
func (s *connSync) hasPeers() bool { return len(s.cfg.Peers) > 0 }

// isInStep reports whether there is nothing that another director has yet to
// tell this one.
func (s *connSync) isInStep() bool {
	m := s.mesh.Load()
	return !s.hasPeers() || m != nil && m.InSync()
}

// runSessions keeps the sessions until ctx ends. What they need and is not
// there, a key or an address, is waited for: nothing that is served depends on
// it.
func (s *connSync) runSessions(ctx context.Context) error {
	for {
		file := newKeyFile(s.cfg.KeyFile)
		m, err := s.newMesh()
		if err == nil {
			s.warnings.End(syncWarning, sessionsSubject)
			s.mu.Lock()
			m.SetDigests(s.digests)
			s.mesh.Store(m)
			s.mu.Unlock()
			stop := every(ctx, keyLook, func() { s.refreshKeys(m, &file) })
			defer stop()
			return m.Run(ctx)
		}
		s.warnings.Put(warnings.Warning{
			Kind: syncWarning, Subject: sessionsSubject, Text: fmt.Sprintf("connections are not shared: %v", err),
			Cure: "see sync: in the configuration; lvx looks again every second",
		})
		sleep(ctx, time.Second)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// addressesOf are the addresses of an interface by which other directors can
// reach this one.
func addressesOf(name string) ([]netip.Addr, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return addressesIn(prefixes), nil
}

// addressesIn leaves out link-local addresses. Those without a network come last: a VIP
// is one, and of IPv6 the kernel lists first what came last.
func addressesIn(prefixes []netip.Prefix) []netip.Addr {
	var inNetworks, alone []netip.Addr
	for _, p := range prefixes {
		switch addr := p.Addr().Unmap(); {
		case addr.IsLinkLocalUnicast():
		case p.IsSingleIP():
			alone = append(alone, addr)
		default:
			inNetworks = append(inNetworks, addr)
		}
	}
	return append(inNetworks, alone...)
}

// entriesOf are records of the kernel's wire as this director takes them. A kernel
// tells of connections that it has seen at work, without saying so.
func entriesOf(records []connsync.Record) []connsync.Entry {
	entries := make([]connsync.Entry, 0, len(records))
	for _, r := range records {
		isProven := r.State == connsync.StateEstablished || r.Protocol == connsync.ProtocolUDP
		entries = append(entries, connsync.Entry{Record: r, IsProven: isProven && !r.IsTemplate(), IsUnsigned: true})
	}
	return entries
}

func (s *connSync) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// setRole notes that this host is, or is not, master of a virtual router.
func (s *connSync) setRole(instance string, isMaster bool) {
	s.mu.Lock()
	s.masters[instance] = isMaster
	s.mu.Unlock()
	s.wake()
}

// isMasterOf reports whether this host is master of a VRRP instance.
func (s *connSync) isMasterOf(instance string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.masters[instance]
}

// renameRoles notes that virtual routers have other names: the old ones by the new ones.
func (s *connSync) renameRoles(oldNames map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := maps.Clone(s.masters)
	for _, from := range oldNames {
		delete(s.masters, from)
	}
	for to, from := range oldNames {
		s.masters[to] = before[from]
	}
}

// doubt keeps this host from taking over from a master that lives until every
// peer has answered: an interface was down, and what peers said meanwhile is
// still on its way.
func (s *connSync) doubt() {
	s.hold.anew(func() {
		if m := s.mesh.Load(); m != nil {
			m.Doubt()
		}
	})
}

// isMaster reports whether this host is master of some virtual router.
func (s *connSync) isMaster() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, is := range s.masters {
		if is {
			return true
		}
	}
	return false
}

// directions are those of the kernel's wire: a master sends, a backup listens, and a
// director that is neither does both.
func (s *connSync) directions() (sends, listens bool) {
	isMaster, hasVRRP := s.isMaster(), s.hasVRRP.Load()
	return isMaster || !hasVRRP, !isMaster || !hasVRRP
}

// run shares connections until ctx ends.
func (s *connSync) run(ctx context.Context) error {
	stop := s.feed.join(s.notifyPeers)
	defer stop()
	parts := newCircle(ctx)
	if s.hasPeers() {
		parts.start("sessions", s.runSessions)
	}
	if s.wire != nil {
		parts.start("wire", s.wire.Run)
	}
	parts.start("roles", s.follow)
	select {
	case <-parts.failed():
	case <-ctx.Done():
	}
	return parts.stop()
}

// notifyPeers passes news on to everybody.
func (s *connSync) notifyPeers(batch *connsync.Batch) {
	if m := s.mesh.Load(); m != nil {
		m.Publish(batch)
	}
	if s.wire != nil {
		s.wire.Publish(recordsOf(batch))
	}
}

func recordsOf(batch *connsync.Batch) []connsync.Record {
	records := make([]connsync.Record, len(batch.Members))
	for i := range records {
		records[i] = batch.EntryOf(&batch.Members[i]).Record
	}
	return records
}

// follow does what the states of sessions and the roles of this host ask for:
// a director whose table is not whole takes over from nobody who lives, and
// the wire's direction is the role's.
func (s *connSync) follow(ctx context.Context) error {
	defer s.hold.end()
	wasInSync := false // what holds until the first session is begun with
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		if s.wire != nil {
			s.wire.SetRole(s.directions())
		}
		isInSync := s.hold.endIf(s.isInStep)
		if wasInSync && !isInSync {
			s.hold.anew(func() {})
		}
		wasInSync = isInSync
		s.warn()
		select {
		case <-s.changed:
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// forDirector is s, or nil without a type.
func (s *connSync) forDirector() director.Sync {
	if s == nil {
		return nil
	}
	return s
}

// Status implements [director.Sync].
func (s *connSync) Status() connsync.Status { return s.status() }

// Applied implements [director.Sync]: it tells peers what the data path holds.
func (s *connSync) Applied(services []lb.Service) {
	if !s.hasPeers() {
		return
	}
	digests := make([]connsync.Digest, 0, len(services))
	for _, svc := range services {
		digests = append(digests, connsync.Digest{Service: svc.Name, Sum: digestOf(svc)})
	}
	s.mu.Lock()
	s.digests = digests
	m := s.mesh.Load()
	s.mu.Unlock()
	if m != nil {
		m.SetDigests(digests)
	}
}

// digestOf stands for what decides where a new connection of a service goes:
// hashing schedulers make their rings by the order of the reals, too.
func digestOf(svc lb.Service) uint64 {
	h := fnv.New64a()
	reals := svc.Reals
	switch svc.Scheduler {
	case lb.SH, lb.DH, lb.MH:
	default:
		reals = slices.SortedFunc(slices.Values(reals), func(a, b lb.Real) int { return a.Key().Compare(b.Key()) })
	}
	fmt.Fprint(h, svc.Listeners, svc.Mark, svc.Scheduler, svc.Flags, svc.Persistence, svc.Sorry)
	for _, r := range reals {
		fmt.Fprint(h, r.Key(), r.Weight, r.Forward)
	}
	return h.Sum64()
}
