package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// syncLimit is how long a director that could take over from a living master
// waits for connection sync at most.
const syncLimit = 30 * time.Second

// preemptionHold keeps this host from taking over from a master that lives,
// until it is released or limit has passed.
type preemptionHold func(why string, limit time.Duration) (release func())

// connSync shares connections with the other directors.
type connSync struct {
	cfg      config.Sync
	hasVRRP  bool
	table    connsync.Backend
	feed     *newsFeed
	mesh     *connsync.Mesh // nil: no director that runs lvx
	wire     *connsync.Wire // nil: no director that runs kernel IPVS
	warnings *warnings.Registry
	hold     preemptionHold // nil: there is no VRRP
	log      *slog.Logger
	changed  chan struct{} // a session has changed, or a role
	watch    wireWatch

	mu      sync.Mutex
	masters map[string]bool // VRRP instances that this host is master of
}

// newConnSync makes what `sync:` asks for: nil if it asks for nothing.
func newConnSync(cfg *config.Config, feed *newsFeed, w *warnings.Registry, log *slog.Logger) (*connSync, error) {
	if !cfg.Sync.IsEnabled() {
		return nil, nil
	}
	if feed == nil {
		return nil, errors.New("sync: shares connections that XDP forwards, and XDP does not run here (see lvx check)")
	}
	table := feed.table
	s := &connSync{
		cfg: cfg.Sync, hasVRRP: len(cfg.VRRP) > 0, table: table, feed: feed, warnings: w, log: log,
		changed: make(chan struct{}, 1), masters: map[string]bool{},
	}
	if len(cfg.Sync.Peers) > 0 {
		if err := s.newMesh(); err != nil {
			return nil, fmt.Errorf("sync: %w", err)
		}
	}
	if cfg.Sync.SyncID == 0 {
		return s, nil
	}
	var err error
	s.wire, err = connsync.NewWire(connsync.WireOptions{
		Interface: cfg.Sync.Interface, Group: cfg.Sync.Multicast, Port: cfg.Sync.Port, TTL: cfg.Sync.TTL,
		SyncID: cfg.Sync.SyncID, MaxLen: cfg.Sync.MaxLen, Version0: cfg.Sync.Version == 0, Log: log,
		Absorb: func(records []connsync.Record) (int, error) { return table.Absorb(entriesOf(records)) },
	})
	if err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	return s, nil
}

func (s *connSync) newMesh() error {
	keys, err := connsync.ReadKeys(s.cfg.KeyFile)
	if err != nil {
		return err
	}
	local, err := addressesOf(s.cfg.Interface)
	if err != nil {
		return err
	}
	s.mesh, err = connsync.NewMesh(connsync.Options{
		Local: local, Peers: s.cfg.Peers, Port: s.cfg.Port, Keys: keys, Table: s.table, Log: s.log, Changed: s.wake,
	})
	return err
}

// addressesOf are the addresses of an interface by which other directors can
// reach this one, IPv4 first.
func addressesOf(name string) ([]netip.Addr, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// entriesOf are records of kernel IPVS as this director takes them. It tells of
// connections that it has seen at work, without saying so.
func entriesOf(records []connsync.Record) []connsync.Entry {
	entries := make([]connsync.Entry, 0, len(records))
	for _, r := range records {
		isProven := r.State == connsync.StateEstablished || r.Protocol == connsync.ProtocolUDP
		entries = append(entries, connsync.Entry{Record: r, IsProven: isProven && !r.IsTemplate()})
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

// doubtTime bridges the time until [connSync.follow] has seen that sessions are
// in doubt.
const doubtTime = time.Second

// doubt keeps this host from taking over from a master that lives until every
// peer has answered: an interface was down, and what peers said meanwhile is
// still on its way.
func (s *connSync) doubt() {
	if s.mesh == nil || s.hold == nil {
		return
	}
	s.hold("connection sync is not in step yet", doubtTime)
	s.mesh.Doubt()
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

// run shares connections until ctx ends.
func (s *connSync) run(ctx context.Context) error {
	stop := s.feed.join(s.notifyPeers)
	defer stop()
	parts := newCircle(ctx)
	if s.mesh != nil {
		parts.start("sessions", s.mesh.Run)
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
func (s *connSync) notifyPeers(entries []connsync.Entry) {
	if s.mesh != nil {
		s.mesh.Publish(entries)
	}
	if s.wire != nil {
		s.wire.Publish(recordsOf(entries))
	}
}

func recordsOf(entries []connsync.Entry) []connsync.Record {
	records := make([]connsync.Record, len(entries))
	for i, e := range entries {
		records[i] = e.Record
	}
	return records
}

// follow does what the states of sessions and the roles of this host ask for:
// a director whose table is not whole takes over from nobody who lives, and
// the wire's direction is the role's.
func (s *connSync) follow(ctx context.Context) error {
	release := func() {}
	defer func() { release() }()
	wasInSync := true // so that the first look holds
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		if s.wire != nil {
			isMaster := s.isMaster()
			s.wire.SetRole(isMaster || !s.hasVRRP, !isMaster || !s.hasVRRP)
		}
		isInSync := s.mesh == nil || s.mesh.InSync()
		switch {
		case isInSync:
			release()
			release = func() {}
		case wasInSync && s.hold != nil:
			release()
			release = s.hold("connection sync is not in step yet", syncLimit)
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

// forAdmin is s, or nil without a type.
func (s *connSync) forAdmin() admin.Sync {
	if s == nil {
		return nil
	}
	return s
}

// Status implements [director.Sync].
func (s *connSync) Status() connsync.Status { return s.status() }

// Applied implements [director.Sync]: it tells peers what the data path holds.
func (s *connSync) Applied(state lb.State) {
	if s.mesh == nil {
		return
	}
	digests := make([]connsync.Digest, 0, len(state.Services))
	for _, svc := range state.Services {
		digests = append(digests, connsync.Digest{Service: svc.Name, Sum: digestOf(svc)})
	}
	s.mesh.SetDigests(digests)
}

// digestOf stands for what decides where a new connection of a service goes.
// Reals that are out for now count: health is seen from each director.
func digestOf(svc lb.Service) uint64 {
	h := fnv.New64a()
	reals := slices.Concat(svc.Reals, svc.Absent)
	slices.SortFunc(reals, func(a, b lb.Real) int { return a.Key().Compare(b.Key()) })
	fmt.Fprint(h, svc.Listeners, svc.Mark, svc.Scheduler, svc.Flags, svc.Persistence, svc.Sorry)
	for _, r := range reals {
		fmt.Fprint(h, r.Key(), r.Weight, r.Forward)
	}
	return h.Sum64()
}
