package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Times of announcing.
const (
	routesLook   = time.Second      // between looks at the sessions
	withdrawWait = time.Second      // for a withdrawal to reach everybody, before the data path ends
	settleLimit  = 15 * time.Second // for a withdrawal to be said: a hook's program may be slow
)

// bgpWarning is the kind of the warnings about routers.
const bgpWarning = "bgp"

// routes announces VIPs to routers, each as long as it serves.
type routes struct {
	file     *config.Config
	cfg      config.BGP
	speaker  announcer // run's own
	policy   bgp.Policy
	inStep   func() bool // nil: no director is told of connections
	joining  joining
	warnings *warnings.Registry
	log      *slog.Logger
	history  *history.Log
	changed  chan struct{}

	mu        sync.Mutex
	vips      []bgp.VIP
	drain     drain
	isLeaving bool // the daemon stops
	status    bgp.Status
}

// newRoutes makes what `bgp:` asks for: nil if it asks for nothing.
func newRoutes(cfg *config.Config, s *connSync, w *warnings.Registry, h *history.Log, log *slog.Logger) *routes {
	if !cfg.BGP.IsEnabled() {
		return nil
	}
	r := &routes{
		file: cfg, cfg: cfg.BGP, policy: bgp.Policy{HoldUp: cfg.BGP.HoldUp},
		joining: joining{began: time.Now()}, warnings: w, history: h, log: log.With("component", "bgp"), changed: make(chan struct{}, 1),
	}
	if s != nil && s.hasPeers() {
		r.inStep = s.isInStep
	}
	return r
}

// joining is the time in which a director that starts takes over the others'
// connections. It ends once: what a director that serves loses of its peers
// later is no reason to serve nobody.
type joining struct {
	began  time.Time
	isOver bool
}

// isUnderWay reports whether it still lasts, given that sync is in step or not.
func (j *joining) isUnderWay(now time.Time, isInStep bool) bool {
	j.isOver = j.isOver || isInStep || now.Sub(j.began) >= syncLimit
	return !j.isOver
}

// forDirector is r, or nil without a type.
func (r *routes) forDirector() director.Routes {
	if r == nil {
		return nil
	}
	return r
}

// Serving implements [director.Routes].
func (r *routes) Serving(vips []bgp.VIP) {
	r.mu.Lock()
	r.vips = vips
	r.mu.Unlock()
	r.wake()
}

// Status implements [director.Routes].
func (r *routes) Status() bgp.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *routes) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// run announces until ctx ends.
func (r *routes) run(ctx context.Context) error {
	for !r.open(ctx) {
		sleep(ctx, routesLook)
		if ctx.Err() != nil {
			return nil
		}
	}
	defer r.speaker.Stop()
	for {
		next := r.announce(ctx)
		select {
		case <-r.changed:
		case <-time.After(next):
		case <-ctx.Done():
			return nil
		}
	}
}

// open begins the sessions. What they need and is not there, a password or an
// address, is a warning: other directors may serve, and this one does for
// whoever reaches it.
func (r *routes) open(ctx context.Context) bool {
	const subject = "sessions"
	a, err := newAnnouncer(r.file, r.log)
	if err == nil {
		if err = a.Start(context.WithoutCancel(ctx)); err != nil {
			a.Stop()
		}
	}
	if err != nil {
		r.warnings.Put(warnings.Warning{
			Kind: bgpWarning, Subject: subject, Text: fmt.Sprintf("no VIP is announced: %v", err),
			Cure: "see bgp: in the configuration; lvx tries again every second",
		})
		return false
	}
	r.mu.Lock()
	r.speaker = a
	r.mu.Unlock()
	r.warnings.End(bgpWarning, subject)
	return true
}

// announce says what has to be said by now, and returns when to look again.
func (r *routes) announce(ctx context.Context) time.Duration {
	now := time.Now()
	r.mu.Lock()
	in := bgp.Input{VIPs: r.vips, IsReady: true, IsDraining: r.drain.isUnderWay(now), Withdrawn: r.drain.reason(now)}
	look := r.drain.next(now)
	r.mu.Unlock()
	if r.inStep != nil && r.joining.isUnderWay(now, r.inStep()) {
		in.IsReady, in.NotReady = false, "connection sync is not in step yet"
	}
	decisions := r.policy.Decide(now, in)
	if err := r.speaker.Set(bgp.Routes(decisions)); err != nil {
		r.log.Warn("routes not announced as they should be", "err", err)
	}
	st, err := r.speaker.Status(ctx)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("state of the sessions not known", "err", err)
	}
	st.VIPs = decisions
	r.mu.Lock()
	before := r.status
	r.status = st
	r.mu.Unlock()
	for _, c := range bgp.Changes(before, st) {
		r.log.Info("session or announcement has changed", "subject", c.Subject, "now", c.Text)
		r.history.Add(history.Event{Kind: history.Route, Subject: c.Subject, Text: c.Text})
	}
	r.warn(st)
	if next := bgp.Next(decisions); !next.IsZero() {
		look = min(look, next.Sub(now))
	}
	return max(look, 0)
}

// warn keeps the warnings about routers, and about who is to tell them.
func (r *routes) warn(st bgp.Status) {
	say := func(subject, trouble, cure string) {
		if trouble == "" {
			r.warnings.End(bgpWarning, subject)
			return
		}
		r.warnings.Put(warnings.Warning{Kind: bgpWarning, Subject: subject, Text: trouble, Cure: cure})
	}
	for _, p := range st.Peers {
		trouble := ""
		switch {
		case !p.IsUp:
			trouble = "no session: " + p.Reason // and not its state, which changes with every attempt
		case p.Reason != "":
			trouble = "session up, " + p.Reason
		}
		say("router "+p.Peer.String(), trouble, "compare the session's configuration on both sides")
	}
	for _, h := range st.Hook {
		trouble := ""
		if h.Reason != "" {
			trouble = "not told what to announce: " + h.Reason
		}
		say(h.Name, trouble, "see bgp.hook in the configuration; lvx tries again")
	}
}
