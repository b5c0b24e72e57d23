package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// shareOf is how much of the full load a run has: LVX_LOAD=1 is 5,000 long
// connections and 1,000 new ones a second; CI runs a tenth of that.
func shareOf(full int) int {
	part, err := strconv.ParseFloat(os.Getenv("LVX_LOAD"), 64)
	if err != nil {
		part = 0.1
	}
	return max(1, int(part*float64(full)))
}

const shortLife = 2 * time.Second // of a connection of the steady load, between its two questions

// shortOne is a connection of the steady load: it asks, waits, and asks again.
type shortOne struct {
	ends   connEnds
	dialed time.Time
	opened time.Time // it had its first answer
	asked  time.Time // again
	ended  time.Time
	what   string // what is wrong with it
}

// connEnds tell connections apart.
type connEnds struct{ client, virtual netip.AddrPort }

func endsOf(conn net.Conn) connEnds {
	return connEnds{netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(conn.RemoteAddr().String())}
}

// load is connections to every service that come and go.
type load struct {
	p      *pair
	cancel context.CancelFunc
	wg     sync.WaitGroup
	began  time.Time
	opened atomic.Int64 // connections that had an answer
	judged int          // of them, by checkLoad

	mu   sync.Mutex
	open map[connEnds]time.Time // those that had an answer and have not asked again: when they were dialed
	all  []shortOne
}

// startLoad opens so many connections a second.
func (p *pair) startLoad(rate int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{p: p, cancel: cancel, began: time.Now(), open: map[connEnds]time.Time{}}
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := 0; ; {
			select {
			case <-tick.C: // which is lost where this host is late
				for due := int(time.Since(l.began).Seconds() * float64(rate)); i < due; i++ {
					l.wg.Go(func() { l.visit(ctx, synced[i%len(synced)].port) })
				}
			case <-ctx.Done():
				return
			}
		}
	})
	p.t.Cleanup(func() {
		cancel()
		l.wg.Wait()
	})
	return l
}

func (l *load) visit(ctx context.Context, port int) {
	one := shortOne{dialed: time.Now()}
	conn, who, err := l.p.connect(port)
	if err != nil {
		return // a new one that nobody has acknowledged
	}
	defer conn.Close()
	l.opened.Add(1)
	one.ends, one.opened = endsOf(conn), time.Now()
	l.mu.Lock()
	l.open[one.ends] = one.dialed
	l.mu.Unlock()
	select {
	case <-time.After(shortLife):
	case <-ctx.Done():
		return
	}
	one.asked = time.Now()
	again, err := rig.Ask(conn)
	switch {
	case err != nil:
		one.what = fmt.Sprintf("was with %s, then %s", who, rig.Brief(err))
	case again != who:
		one.what = fmt.Sprintf("was with %s, then with %s", who, again)
	}
	one.ended = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, one.ends)
	l.all = append(l.all, one)
}

// reached is how many connections were opened in a second.
func (l *load) reached() float64 {
	return float64(l.opened.Load()) / time.Since(l.began).Seconds()
}

// broken are what went wrong with connections that a fault is not to break and that
// asked again behind it, and how many of them there were. It waits for the last of
// them.
func (l *load) broken(f fault) (n int, what []string) {
	l.p.t.Helper()
	f.until = time.Now()
	l.p.await("every connection has asked again", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for ends, dialed := range l.open {
			if f.covers(ends, dialed) {
				return fmt.Errorf("%v has not", ends)
			}
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.all {
		if one.ended.Before(f.at) || !f.covers(one.ends, one.dialed) {
			continue
		}
		n++
		if one.what != "" {
			what = append(what, one.lifeOf(f))
		}
	}
	return n, what
}

// fault is something behind which another director serves, or this one with
// another file: when that was, and the connections that it then had been told of
// or knew by itself.
type fault struct {
	at         time.Time
	known      knownConns
	until      time.Time // it is over by then
	isHandover bool      // the director that served until then tells of the latest ones
}

// covers reports whether a connection is not to be lost by it: one that was told of, or
// that was opened meanwhile where there is a handover.
func (f fault) covers(ends connEnds, dialed time.Time) bool {
	return f.known.has(ends, dialed) || f.isHandover && dialed.After(f.at) && dialed.Before(f.until)
}

// lifeOf is what became of a connection that broke behind a fault.
func (one *shortOne) lifeOf(f fault) string {
	const clock = "05.000"
	entry := f.known[one.ends]
	return fmt.Sprintf("%s: %s (%s -> %s: dialed %s, answered %s, asked %s; fault %s, listed with %s, seen until %s)", one.ended.Format(clock), one.what,
		one.ends.client, one.ends.virtual, one.dialed.Format(clock), one.opened.Format(clock), one.asked.Format(clock),
		f.at.Format(clock), entry.real, entry.seen.Format(clock))
}

// knownConns are the established connections that a director has.
type knownConns map[connEnds]knownConn

type knownConn struct {
	real netip.Addr
	seen time.Time // its last packet was no later
}

// has reports whether a connection that was dialed at a moment is known. What was
// last seen before that is another one, which had the same ports: one that the
// client forgot, having been reset, may stay in the list for its whole life.
func (k knownConns) has(ends connEnds, dialed time.Time) bool {
	return k[ends].seen.After(dialed)
}

// faultTo notes what a director knows, which is about to serve.
func (p *pair) faultTo(host string, conns map[string][]held) fault {
	p.t.Helper()
	f := fault{known: knownConns{}}
	must(p.t, p.addKnown(f.known, host, false))
	f.at = time.Now()
	for _, s := range synced {
		if n := countUntold(conns[s.name], f.known); n > 0 {
			p.t.Errorf("%s has not been told of %d of %d long connections of %s", host, n, len(conns[s.name]), s.name)
		}
	}
	return f
}

func countUntold(all []held, known knownConns) (n int) {
	for _, h := range all {
		if _, is := known[endsOf(h)]; !is {
			n++
		}
	}
	return n
}

// connections is the list of a director.
func (p *pair) connections(director string) ([]ipvsadm.ListedConnection, error) {
	out, err := LVX{Self: self}.Run(p.t.Context(), p.Host(director), "list", "--connections", "--json")
	if err != nil {
		return nil, err
	}
	var list ipvsadm.Listing
	err = json.Unmarshal([]byte(out), &list)
	return list.Connections, err
}

// addKnown adds the established connections that a director has, or those of them
// that the other one told of.
func (p *pair) addKnown(to knownConns, director string, isToldOnly bool) error {
	list, err := p.connections(director)
	// A list has whole seconds of what is left, and so has what peers say.
	begun := time.Now().Add(2*time.Second - lb.DefaultTCPTimeout)
	for _, c := range list {
		if c.State == "ESTABLISHED" && (c.Synced || !isToldOnly) {
			conn := knownConn{c.Real.Addr(), begun.Add(time.Duration(c.Expires) * time.Second)}
			if ends := (connEnds{c.Client, c.Virtual}); to[ends].seen.Before(conn.seen) {
				to[ends] = conn
			}
		}
	}
	return err
}

// returnOf brings a director back, and waits until it has taken over: what the
// other one knew before and what itself had been told of until then is not lost.
func (p *pair) returnOf(host, from string, conns map[string][]held, bring func()) fault {
	p.t.Helper()
	f := p.faultTo(from, conns)
	f.isHandover = true
	bring()
	p.await(host+" is master again", func() error {
		if err := p.hasVIP(host); err == nil {
			return nil
		}
		// Of its own from before the fault it may know some that nobody was told of.
		if err := p.addKnown(f.known, host, true); err != nil {
			return err
		}
		return p.hasVIP(host)
	})
	return f
}

// holdMany opens so many connections to each service, some at a time.
func (p *pair) holdMany(each int) map[string][]held {
	p.t.Helper()
	conns := map[string][]held{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var firstErr error
	places := make(chan struct{}, 16)
	for _, s := range synced {
		for range each {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				conn, who, err := p.connect(s.port)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					firstErr = err
					return
				}
				conns[s.name] = append(conns[s.name], held{conn, who})
			})
		}
	}
	wg.Wait()
	p.t.Cleanup(func() { closeAll(conns) })
	must(p.t, firstErr)
	return conns
}

func closeAll(conns map[string][]held) {
	for _, all := range conns {
		for _, h := range all {
			_ = h.Close()
		}
	}
}

// checkLoad asks every long connection, and looks at what became of the short
// ones since a fault.
func (p *pair) checkLoad(what string, f fault, conns map[string][]held, l *load) {
	p.t.Helper()
	n, wrong := l.broken(f)
	long := 0
	for _, s := range synced {
		long += len(conns[s.name])
		if n := aliveMany(conns[s.name]); n != len(conns[s.name]) {
			p.t.Errorf("%s: %d of %d connections of %s live", what, n, len(conns[s.name]), s.name)
		}
	}
	p.t.Logf("%s: %d long ones asked, %d of %d short ones broken, %.0f a second", what, long, len(wrong), n, l.reached())
	if len(wrong) > 0 {
		slices.Sort(wrong)
		p.t.Errorf("%s: %d of %d short connections broke: %v", what, len(wrong), n, slices.Compact(wrong))
	}
	l.judged += n
}

// logLag prints how far behind a director's peer is.
func (p *pair) logLag(host string) {
	p.t.Helper()
	st, err := p.syncStatus(host)
	must(p.t, err)
	p.t.Logf("%s: p99 of the lag %s, %d sent, %d received, %d rejected", host, st.Lag, st.Sent, st.Received, st.Rejected)
}

// aliveMany is alive with some asking at the same time.
func aliveMany(all []held) (n int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for part := range slices.Chunk(all, max(1, (len(all)+7)/8)) {
		wg.Go(func() {
			k := alive(part)
			mu.Lock()
			n += k
			mu.Unlock()
		})
	}
	wg.Wait()
	return n
}

// reload gives both directors another body.
func (p *pair) reload(body string) {
	p.t.Helper()
	p.program = LVX{Self: self, Body: body}
	for host, r := range map[string]vrrp.Instance{"a": p.better, "b": p.worse} {
		h := p.Host(host)
		file := filepath.Join(h.Dir(), "lvx.yaml")
		must(p.t, os.WriteFile(file, []byte(LVX{Self: self, Body: body}.config(h, []vrrp.Instance{r})), 0o600))
		_, err := LVX{Self: self}.Run(p.t.Context(), h, "reload")
		must(p.t, err)
	}
}

// A pair under load loses no connection that the peer has acknowledged,
// whatever the scheduler and without sloppy_tcp: when the cable of the master
// is pulled, when its host dies, when it comes back and takes over, across
// reloads that remove, drain and add reals, across a restart, and when it is
// stopped.
func TestSyncedPairUnderLoad(t *testing.T) {
	t.Parallel()
	body := syncedBody(t)
	p := newRealPair(t, v3tenth, body)
	serveOnWatcher(p)
	p.awaitSync()
	l := p.startLoad(shareOf(1000))
	conns := p.holdMany((shareOf(5000) + len(synced) - 1) / len(synced))
	p.await("b has been told of the long connections", func() error {
		known := knownConns{}
		err := p.addKnown(known, "b", true)
		for _, s := range synced {
			if n := countUntold(conns[s.name], known); n > 0 {
				return fmt.Errorf("not of %d of %s: %v", n, s.name, err)
			}
		}
		return err
	})
	p.logLag("a")
	failOver := func(what string, isHandover bool, fail func()) {
		t.Helper()
		f := p.faultTo("b", conns)
		f.isHandover = isHandover
		fail()
		p.await("b is master", func() error { return p.hasVIP("b") })
		p.checkLoad(what, f, conns, l)
	}
	back := func(what string, bring func()) {
		t.Helper()
		f := p.returnOf("a", "b", conns, bring)
		p.awaitSync()
		p.checkLoad(what, f, conns, l)
		p.logLag("a")
	}
	failOver("link down", false, func() { must(t, p.Unplug("a", true)) })
	back("return of the link", func() { must(t, p.Unplug("a", false)) })

	failOver("kill -9 of the host's director", false, p.a.Kill)
	_, err := p.Host("a").Run(t.Context(), self, "purge", "-c", filepath.Join(p.Host("a").Dir(), "lvx.yaml"))
	must(t, err)
	back("preempting return with an empty table", func() { p.a = p.start("a", p.better) })

	for _, edit := range editsOfReals(body) {
		if edit.removes != "" {
			p.await("nobody is with "+edit.removes, func() error { return p.hasLeft("a", Addr(edit.removes)) })
		}
		f := p.faultTo("b", conns) // should it take over
		f.isHandover = true
		p.reload(edit.body)
		p.checkLoad("reload: "+edit.what, f, conns, l)
	}
	failOver("clean stop after the reloads", true, func() { must(t, p.a.Stop()) })
	back("return after the clean stop", func() { p.a = p.start("a", p.better) })

	f := p.faultTo("b", conns) // which takes over if the restart is slow
	p.a.Kill()
	p.a = p.start("a", p.better)
	must(t, p.a.WaitOutput(t.Context(), "to=MASTER"))
	p.checkLoad("restart of the master", f, conns, l)
	if l.judged == 0 {
		t.Error("no short connection that was told of has asked again")
	}
	closeAll(conns)
}

// editOfReals is another body for both directors.
type editOfReals struct{ what, body, removes string }

// hasLeft reports, as an error, that a real still has connections.
func (p *pair) hasLeft(director string, real netip.Addr) error {
	list, err := p.connections(director)
	for _, c := range list {
		if c.Real.Addr() == real && (c.State == "ESTABLISHED" || c.State == "SYN_RECV") {
			return fmt.Errorf("%s is with it", c.Client)
		}
	}
	return err
}

// editsOfReals add a real, drain it and another one, and remove it.
func editsOfReals(body string) []editOfReals {
	line := fmt.Sprintf("      - {address: %q, weight: 2}\n", Addr("r2"))
	with := func(second, third int) string {
		lines := fmt.Sprintf("      - {address: %s, weight: %d}\n", Addr("r2"), second)
		if third >= 0 {
			lines += fmt.Sprintf("      - {address: %s, weight: %d}\n", Addr("d"), third)
		}
		return strings.ReplaceAll(body, line, lines)
	}
	return []editOfReals{
		{"a real was added", with(2, 1), ""},
		{"two were drained", with(0, 0), ""},
		{"the new one was removed", with(0, -1), "d"},
	}
}

// serveOnWatcher makes a real server of the host that watches, too.
func serveOnWatcher(p *pair) {
	p.t.Helper()
	h := p.Host("d")
	_, err := h.Run(p.t.Context(), self, "real", "up", "--vip", VIP.String(), "--interface", "eth0", "--state", filepath.Join(h.Dir(), "real.json"))
	must(p.t, err)
	_, err = h.ServeWeb(":80", ":81", ":82", ":83")
	must(p.t, err)
}
