package daemon

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
)

// syncDaemons run the daemons of connection sync that ipvsadm starts: a master
// tells, a backup listens.
type syncDaemons struct {
	feed *newsFeed
	sync *connSync // what the file asks for; nil: nothing
	log  *slog.Logger

	changed chan struct{}

	mu      sync.Mutex
	wanted  []ipvsadm.Daemon
	running map[ipvsadm.Daemon]*syncDaemon
}

// syncDaemon is one that runs.
type syncDaemon struct {
	wire *connsync.Wire
	stop func()
}

func newSyncDaemons(feed *newsFeed, s *connSync, log *slog.Logger) *syncDaemons {
	return &syncDaemons{feed: feed, sync: s, log: log, changed: make(chan struct{}, 1), running: map[ipvsadm.Daemon]*syncDaemon{}}
}

// forDirector is s, or nil without a type.
func (s *syncDaemons) forDirector() director.SyncDaemons {
	if s == nil {
		return nil
	}
	return s
}

// forAdmin is s, or nil without a type.
func (s *syncDaemons) forAdmin() admin.Sync {
	if s == nil {
		return nil
	}
	return s
}

// SetDaemons implements [director.SyncDaemons].
func (s *syncDaemons) SetDaemons(daemons []ipvsadm.Daemon) {
	s.mu.Lock()
	s.wanted = slices.Clone(daemons)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// DaemonsOfFile implements [director.SyncDaemons].
func (s *syncDaemons) DaemonsOfFile() (daemons []ipvsadm.Daemon) {
	if s.sync == nil || s.sync.wire == nil {
		return nil
	}
	st := s.sync.wire.Status()
	for _, isMaster := range []bool{true, false} {
		if isMaster && st.Sends || !isMaster && st.Hears {
			daemons = append(daemons, daemonOf(s.sync.cfg, isMaster))
		}
	}
	return daemons
}

func daemonOf(cfg config.Sync, isMaster bool) ipvsadm.Daemon {
	return ipvsadm.Daemon{
		Master: isMaster, Interface: cfg.Interface, ID: int(cfg.SyncID), MaxLen: cfg.MaxLen, Group: cfg.Multicast,
		Port: int(cfg.Port), TTL: int(cfg.TTL),
	}
}

// run keeps running what is wanted until ctx ends.
func (s *syncDaemons) run(ctx context.Context) error {
	defer s.stopExcept(nil)
	for {
		s.mu.Lock()
		wanted := s.wanted
		s.mu.Unlock()
		s.stopExcept(wanted)
		for _, d := range wanted {
			s.start(ctx, d)
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *syncDaemons) stopExcept(wanted []ipvsadm.Daemon) {
	s.mu.Lock()
	var ended []*syncDaemon
	for d, r := range s.running {
		if !slices.Contains(wanted, d) {
			ended = append(ended, r)
			delete(s.running, d)
		}
	}
	s.mu.Unlock()
	for _, r := range ended {
		r.stop()
	}
}

// start runs a daemon, unless it runs already.
func (s *syncDaemons) start(ctx context.Context, d ipvsadm.Daemon) {
	if s.running[d] != nil { // run alone changes it
		return
	}
	wire, err := connsync.NewWire(connsync.WireOptions{
		Interface: d.Interface, Group: d.Group, Port: uint16(d.Port), TTL: uint8(d.TTL), SyncID: uint8(d.ID),
		MaxLen: max(d.MaxLen, connsync.MinMaxLen), Log: s.log,
		Absorb: func(records []connsync.Record) (int, error) {
			return s.feed.table.Absorb(connsync.BatchOf(entriesOf(records)...))
		},
	})
	if err != nil { // what the director lets through is right
		s.log.Warn("sync daemon not started", "component", "sync", "interface", d.Interface, "err", err)
		return
	}
	wire.SetRole(d.Master, !d.Master)
	leave := func() {}
	if d.Master {
		leave = s.feed.join(func(batch *connsync.Batch) { wire.Publish(recordsOf(batch)) })
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = wire.Run(ctx) }) // it ends with ctx alone
	s.mu.Lock()
	s.running[d] = &syncDaemon{wire, func() {
		leave()
		cancel()
		done.Wait()
	}}
	s.mu.Unlock()
}

// Status implements [director.SyncDaemons]: masters come first.
func (s *syncDaemons) Status() (all []connsync.WireStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, isMaster := range []bool{true, false} {
		for d, r := range s.running {
			if d.Master == isMaster {
				all = append(all, *r.wire.Status())
			}
		}
	}
	return all
}
