package neigh

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// schedule is when an announcement is repeated after it was asked for: at
// once, because every millisecond counts, and again, because a switch or a
// host may have missed it.
var schedule = []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, time.Second}

const (
	announceInterval = 10 * time.Second     // between announcements of an owned VIP after that: heals what a partition hid
	burstPause       = 2 * time.Millisecond // between bursts of one interface
	vipsPerBurst     = 32
	longWait         = time.Hour
	handoverTime     = 200 * time.Millisecond // in which two hosts may speak for a VIP that changes hands
	reportInterval   = 10 * time.Second       // between reports of another claim to a VIP
	yieldTime        = 20 * time.Millisecond  // from a claim to its answer: a VIP that is being handed over is withdrawn by then
	defendInterval   = time.Second            // between answers to claims to one VIP
)

// Announcer makes known on segments which VIPs this host owns. Its methods may be
// called from every goroutine, also before Run.
type Announcer struct {
	log  *slog.Logger
	net  segment
	wake chan struct{}

	mu      sync.Mutex
	owned   map[string]*queue // by interface
	claimed func(vip netip.Addr, by MAC)
	prepare func(ctx context.Context, iface string)
	rivals  map[place]*rival
}

// linkEvent is an interface that came up, or that has another MAC now.
type linkEvent struct {
	iface string
	mac   MAC // the new one; zero if it is the same as before
}

// place is an address on an interface.
type place struct {
	iface string
	addr  netip.Addr
}

// claim is a station that speaks in the name of an address.
type claim struct {
	place
	mac MAC
}

// rival is a station that claimed a VIP of ours.
type rival struct {
	mac      MAC
	due      time.Time // when it is reported, if this host still owns the VIP; zero: it was reported
	reported time.Time
}

// queue is what is to be announced on one interface.
type queue struct {
	vips   []announcement
	paused time.Time // nothing is sent before, for the pace
	failed string    // the last error, so that it is logged once
}

// announcement is one VIP with its place in the schedule.
type announcement struct {
	vip      netip.Addr
	round    int // index into schedule; beyond its end: periodic
	due      time.Time
	defended time.Time // when a claim was last answered
}

// segment is what an [Announcer] needs of the host it runs on.
type segment interface {
	// open returns what happens to interfaces, and what other stations claim
	// on interfaces that something was announced on.
	open() (<-chan linkEvent, <-chan claim, error)
	// announce sends one frame for each VIP, with the interface's own MAC.
	announce(iface string, vips []netip.Addr) error
	close()
}

// NewAnnouncer makes an Announcer that owns nothing. A nil log is
// slog.Default.
func NewAnnouncer(log *slog.Logger) *Announcer {
	if log == nil {
		log = slog.Default()
	}
	return newAnnouncer(log, &liveSegment{})
}

func newAnnouncer(log *slog.Logger, s segment) *Announcer {
	return &Announcer{
		log:   log.With("component", "announce"),
		net:   s,
		wake:  make(chan struct{}, 1),
		owned: map[string]*queue{}, rivals: map[place]*rival{},
	}
}

// OnClaim has f called, from Run, when another station on the segment says
// that it has a VIP that this host owns: not at once, because the VIP may be
// on its way to that station, and not more than every ten seconds. It is
// logged in any case. Call it before Run.
func (a *Announcer) OnClaim(f func(vip netip.Addr, by MAC)) { a.claimed = f }

// OnLink has f called, beside Run, when an interface came up or has another MAC,
// before anything is announced anew on it; f ends with its context. Call it before Run.
func (a *Announcer) OnLink(f func(ctx context.Context, iface string)) { a.prepare = f }

// Announce says that this host owns VIPs from now on, five times within a
// second and then every ten seconds until [Announcer.Withdraw]. Asked again
// it starts anew: each call is followed by all five.
func (a *Announcer) Announce(iface string, vips []netip.Addr) {
	if len(vips) == 0 {
		return
	}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.owned[iface]
	if q == nil {
		q = &queue{}
		a.owned[iface] = q
	}
	anew := q.removeVIPs(vips)
	for _, vip := range vips {
		if anew[vip] { // the first time, where one is given twice
			q.vips = append(q.vips, announcement{vip: vip, due: now})
			anew[vip] = false
		}
	}
	wakeUp(a.wake)
}

// Withdraw says that this host no longer owns VIPs. Nothing is sent for them
// after it returns.
func (a *Announcer) Withdraw(iface string, vips []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.owned[iface]
	if q == nil {
		return
	}
	q.removeVIPs(vips)
	if len(q.vips) == 0 {
		delete(a.owned, iface)
	}
}

// removeVIPs takes VIPs out of the queue, and gives them as a set.
func (q *queue) removeVIPs(vips []netip.Addr) map[netip.Addr]bool {
	removed := make(map[netip.Addr]bool, len(vips))
	for _, vip := range vips {
		removed[vip] = true
	}
	q.vips = slices.DeleteFunc(q.vips, func(n announcement) bool { return removed[n.vip] })
	return removed
}

// Run announces until ctx ends, and then returns nil. On an interface that came
// up, or that has another MAC, everything is announced anew.
func (a *Announcer) Run(ctx context.Context) error {
	up, claims, err := a.net.open()
	if err != nil {
		return fmt.Errorf("announcements: %w", err)
	}
	defer a.net.close()
	var preparing sync.WaitGroup
	defer preparing.Wait()
	prepared := make(chan linkEvent)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-up:
			preparing.Go(func() { a.prepareLink(ctx, e, prepared) })
		case e := <-prepared:
			if a.restartSchedule(e.iface) && e.mac != (MAC{}) {
				a.log.Warn("the interface of VIPs has another MAC, announcing them anew", "interface", e.iface, "mac", e.mac)
			}
		case c := <-claims:
			a.noteClaim(c, time.Now())
		case <-a.wake:
		case <-timer.C:
		}
		now := time.Now()
		a.reportClaims(now)
		timer.Reset(a.sendDue(now))
	}
}

// prepareLink passes an event on once what has to be done before is done.
func (a *Announcer) prepareLink(ctx context.Context, e linkEvent, prepared chan<- linkEvent) {
	if a.prepare != nil {
		a.prepare(ctx, e.iface)
	}
	select {
	case prepared <- e:
	case <-ctx.Done():
	}
}

// noteClaim takes note of a claim to a VIP that is ours, and has it answered:
// the stations that heard the claim send to the wrong place until they hear
// the owner. RFC 5227 section 2.4 (c) lets a host defend an address that it
// must keep; it does so once a second at most, so that two hosts with the same
// address do not shout at each other.
func (a *Announcer) noteClaim(c claim, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.isOurs(c.place) {
		return
	}
	a.owned[c.iface].defend(c.addr, now)
	if r := a.rivals[c.place]; r == nil || r.due.IsZero() && now.Sub(r.reported) >= reportInterval {
		a.rivals[c.place] = &rival{mac: c.mac, due: now.Add(handoverTime)}
	}
}

// defend makes the next announcement of a VIP due soon.
func (q *queue) defend(vip netip.Addr, now time.Time) {
	for i := range q.vips {
		n := &q.vips[i]
		if n.vip != vip || now.Sub(n.defended) < defendInterval {
			continue
		}
		n.defended = now
		if soon := now.Add(yieldTime); soon.Before(n.due) {
			n.due = soon
		}
	}
}

func (a *Announcer) isOurs(p place) bool {
	q := a.owned[p.iface]
	return q != nil && slices.ContainsFunc(q.vips, func(n announcement) bool { return n.vip == p.addr })
}

// reportClaims reports the claims that are due.
func (a *Announcer) reportClaims(now time.Time) {
	var claims []claim
	a.mu.Lock()
	for p, r := range a.rivals {
		switch {
		case r.due.IsZero() && now.Sub(r.reported) >= reportInterval:
			delete(a.rivals, p)
		case r.due.IsZero() || now.Before(r.due):
		case a.isOurs(p):
			r.due, r.reported = time.Time{}, now
			claims = append(claims, claim{p, r.mac})
		default: // it was handed over
			delete(a.rivals, p)
		}
	}
	a.mu.Unlock()
	for _, c := range claims {
		a.log.Warn("another host uses a VIP of ours", "vip", c.addr, "mac", c.mac, "interface", c.iface)
		if a.claimed != nil {
			a.claimed(c.addr, c.mac)
		}
	}
}

// restartSchedule begins the schedule of an interface again, and reports
// whether it has one.
func (a *Announcer) restartSchedule(iface string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.owned[iface]
	if q == nil {
		return false
	}
	for i := range q.vips {
		q.vips[i].round, q.vips[i].due = 0, time.Now()
	}
	return true
}

// sendDue sends what is due and returns how long there is nothing more to do. It
// holds the lock while it sends, so that a VIP that was withdrawn is silent.
func (a *Announcer) sendDue(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := now.Add(longWait)
	for iface, q := range a.owned {
		if vips := q.takeDue(now); len(vips) > 0 {
			a.logResult(iface, q, a.net.announce(iface, vips))
		}
		if t := q.nextDue(); t.Before(next) {
			next = t
		}
	}
	for _, r := range a.rivals {
		if !r.due.IsZero() && r.due.Before(next) {
			next = r.due
		}
	}
	return next.Sub(now)
}

// takeDue picks what one burst announces, the longest waiting first, and moves
// it on in the schedule. A burst that comes late delays what follows; it
// drops nothing.
func (q *queue) takeDue(now time.Time) []netip.Addr {
	if now.Before(q.paused) {
		return nil
	}
	slices.SortStableFunc(q.vips, func(x, y announcement) int { return x.due.Compare(y.due) })
	var vips []netip.Addr
	for i := range q.vips {
		n := &q.vips[i]
		if now.Before(n.due) || len(vips) == vipsPerBurst {
			break
		}
		vips = append(vips, n.vip)
		wait := announceInterval
		if n.round+1 < len(schedule) {
			wait = schedule[n.round+1] - schedule[n.round]
		}
		n.round, n.due = n.round+1, n.due.Add(wait)
		if n.due.Before(now) {
			n.due = now
		}
	}
	if len(vips) > 0 {
		q.paused = now.Add(burstPause)
	}
	return vips
}

// nextDue is when the queue has something to send.
func (q *queue) nextDue() time.Time {
	first := slices.MinFunc(q.vips, func(x, y announcement) int { return x.due.Compare(y.due) }).due
	if first.Before(q.paused) {
		return q.paused
	}
	return first
}

// logResult logs that announcing fails, and that it works again, once each.
func (a *Announcer) logResult(iface string, q *queue, err error) {
	switch {
	case err == nil && q.failed != "":
		a.log.Info("announcements work again", "interface", iface)
		q.failed = ""
	case err != nil && err.Error() != q.failed:
		a.log.Warn("announcements", "interface", iface, "error", err)
		q.failed = err.Error()
	}
}
