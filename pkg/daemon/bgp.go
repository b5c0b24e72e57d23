package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Times of announcing.
const (
	routesLook   = time.Second // between looks at the sessions
	withdrawWait = time.Second // for a withdrawal to reach everybody, before the data path ends
)

// bgpWarning is the kind of the warnings about routers.
const bgpWarning = "bgp"

// routes announces VIPs to routers, each as long as it serves.
type routes struct {
	file     *config.Config
	cfg      config.BGP
	speaker  *bgp.Speaker // run's own
	policy   bgp.Policy
	inStep   func() bool // nil: no director is told of connections
	joining  joining
	warnings *warnings.Registry
	log      *slog.Logger
	history  *history.Log
	changed  chan struct{}

	mu     sync.Mutex
	vips   []bgp.VIP
	drain  drain
	status bgp.Status
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

func speakerConfig(cfg *config.Config) (bgp.Config, error) {
	b := cfg.BGP
	c := bgp.Config{
		ASN: b.ASN, RouterID: b.RouterID, MED: b.MED, LocalPref: b.LocalPref,
		Communities: b.Communities, GracefulRestart: b.GracefulRestart,
	}
	if !c.RouterID.IsValid() {
		var err error
		if c.RouterID, err = firstIPv4(cfg.Interfaces[0]); err != nil {
			return c, err
		}
	}
	for _, p := range b.Peers {
		peer := bgp.Peer{
			Address: p.Address, ASN: p.ASN, HoldTime: p.HoldTime, Multihop: p.Multihop, GTSM: p.GTSM,
			BFD: bgp.BFD{Interval: p.BFDInterval, Multiplier: p.BFDMissing},
		}
		if p.PasswordFile != "" {
			secret, err := readPassword(p.PasswordFile)
			if err != nil {
				return c, fmt.Errorf("peer %s: %w", p.Address, err)
			}
			peer.Password = secret
		}
		c.Peers = append(c.Peers, peer)
	}
	return c, nil
}

// firstIPv4 is the router identifier of a director that has not been given one.
func firstIPv4(name string) (netip.Addr, error) {
	addrs, err := addressesOf(name)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no IPv4 address for the router identifier (set router_id)", name)
}

// readPassword reads a file that holds a password and nothing else.
func readPassword(path string) (string, error) {
	const longest = 80 // TCP_MD5SIG_MAXKEYLEN
	b, err := guard.ReadSecret(path, longest+int64(len("\r\n")))
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" || len(secret) > longest {
		return "", fmt.Errorf("password file %s holds %d characters (1 to %d)", path, len(secret), longest)
	}
	return secret, nil
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
	c, err := speakerConfig(r.file)
	if err == nil {
		r.speaker = bgp.NewSpeaker(c, r.log)
		if err = r.speaker.Start(context.WithoutCancel(ctx)); err != nil {
			r.speaker.Stop()
		}
	}
	if err != nil {
		r.warnings.Put(warnings.Warning{
			Kind: bgpWarning, Subject: subject, Text: fmt.Sprintf("no VIP is announced: %v", err),
			Cure: "see bgp: in the configuration; lvx tries again every second",
		})
		return false
	}
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
	peers, err := r.speaker.Status(ctx)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("state of the sessions not known", "err", err)
	}
	r.mu.Lock()
	before := r.status
	r.status = bgp.Status{Peers: peers, VIPs: decisions}
	r.mu.Unlock()
	for _, c := range bgp.Changes(before, r.status) {
		r.log.Info("session or announcement has changed", "subject", c.Subject, "now", c.Text)
		r.history.Add(history.Event{Kind: history.Route, Subject: c.Subject, Text: c.Text})
	}
	r.warn(peers)
	if next := bgp.Next(decisions); !next.IsZero() {
		look = min(look, next.Sub(now))
	}
	return max(look, 0)
}

// warn keeps the warnings about routers.
func (r *routes) warn(peers []bgp.PeerStatus) {
	const kind = bgpWarning
	for _, p := range peers {
		subject := "router " + p.Peer.String()
		if p.IsUp {
			r.warnings.End(kind, subject)
			continue
		}
		r.warnings.Put(warnings.Warning{
			Kind: kind, Subject: subject, Text: "no session (" + p.State + "): " + p.Reason,
			Cure: "compare the session's configuration on both sides",
		})
	}
}
