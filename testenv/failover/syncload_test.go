package failover

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// syncSize is a size of [TestSyncedPairUnderLoad] from the environment: the
// full ones are LVX_SYNC_LONG=5000 LVX_SYNC_RATE=1000 LVX_SYNC_RUNS=10.
func syncSize(t *testing.T, name string, small int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: not a number from 1", name, text)
	}
	return n
}

const (
	shortLife = 2 * time.Second // of a connection of the steady load, between its two questions
	toldAfter = time.Second     // a connection as old as this has been acknowledged: the lag is logged
)

// shortOne is a connection of the steady load: it asks, waits, and asks again.
type shortOne struct {
	opened, ended time.Time
	what          string // what is wrong with it
}

// load is connections to every service that come and go.
type load struct {
	p      *pair
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	all []shortOne
}

// startLoad opens so many connections a second.
func (p *pair) startLoad(rate int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{p: p, cancel: cancel}
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				l.wg.Go(func() { l.visit(ctx, synced[i%len(synced)].port) })
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
	conn, who, err := l.p.connect(port)
	if err != nil {
		return // a new one that nobody has acknowledged
	}
	defer conn.Close()
	one := shortOne{opened: time.Now()}
	select {
	case <-time.After(shortLife):
	case <-ctx.Done():
		return
	}
	again, err := rig.Ask(conn)
	switch {
	case err != nil:
		one.what = rig.Brief(err)
	case again != who:
		one.what = fmt.Sprintf("was with %s, then with %s", who, again)
	}
	one.ended = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, one)
}

// broken are what went wrong with connections that were acknowledged at the
// time of a fault and asked again behind it, and how many of them there were.
func (l *load) broken(fault time.Time) (n int, what []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.all {
		if one.opened.After(fault.Add(-toldAfter)) || one.ended.Before(fault) {
			continue
		}
		n++
		if one.what != "" {
			what = append(what, one.what)
		}
	}
	return n, what
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
func (p *pair) checkLoad(what string, fault time.Time, conns map[string][]held, l *load) {
	p.t.Helper()
	time.Sleep(time.Until(fault.Add(shortLife + time.Second)))
	for _, s := range synced {
		if n := aliveMany(conns[s.name]); n != len(conns[s.name]) {
			p.t.Errorf("%s: %d of %d connections of %s live", what, n, len(conns[s.name]), s.name)
		}
	}
	n, wrong := l.broken(fault)
	slices.Sort(wrong)
	p.t.Logf("%s: %d long ones asked, %d of %d short ones broken", what, len(conns)*len(conns[synced[0].name]), len(wrong), n)
	if len(wrong) > 0 {
		p.t.Errorf("%s: %d of %d short connections broke: %v", what, len(wrong), n, slices.Compact(wrong))
	}
	if n == 0 {
		p.t.Errorf("%s: no short connection was open", what)
	}
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
	each := (syncSize(t, "LVX_SYNC_LONG", 80) + len(synced) - 1) / len(synced)
	rate := syncSize(t, "LVX_SYNC_RATE", 40)
	for run := range syncSize(t, "LVX_SYNC_RUNS", 1) {
		t.Run(strconv.Itoa(run+1), func(t *testing.T) { loadPair(t, each, rate) })
	}
}

func loadPair(t *testing.T, each, rate int) {
	body := syncedBody(t)
	p := newRealPair(t, v3tenth, body)
	serveOnWatcher(p)
	p.awaitSync()
	l := p.startLoad(rate)
	conns := p.holdMany(each)
	time.Sleep(toldAfter + shortLife)
	become := func(host string) {
		t.Helper()
		p.await(host+" is master", func() error { return p.hasVIP(host) })
	}
	back := func(what string, f func()) {
		t.Helper()
		begin := time.Now()
		f()
		become("a")
		p.awaitSync()
		p.checkLoad(what, begin, conns, l)
		p.awaitAcknowledged("a")
	}

	fault := time.Now()
	must(t, p.Unplug("a", true))
	become("b")
	p.checkLoad("link down", fault, conns, l)
	back("return of the link", func() { must(t, p.Unplug("a", false)) })

	fault = time.Now()
	p.a.Kill()
	become("b")
	p.checkLoad("kill -9 of the host's director", fault, conns, l)
	_, err := p.Host("a").Run(t.Context(), self, "purge", "-c", filepath.Join(p.Host("a").Dir(), "lvx.yaml"))
	must(t, err)
	back("preempting return with an empty table", func() { p.a = p.start("a", p.better) })

	line := fmt.Sprintf("      - {address: %s, weight: 2}\n", Addr("r2"))
	with := func(second, third int) string {
		lines := fmt.Sprintf("      - {address: %s, weight: %d}\n", Addr("r2"), second)
		if third >= 0 {
			lines += fmt.Sprintf("      - {address: %s, weight: %d}\n", Addr("d"), third)
		}
		return strings.ReplaceAll(body, line, lines)
	}
	for _, edit := range []struct{ what, body string }{
		{"a real was added", with(2, 1)},
		{"two were drained", with(0, 0)}, // the new one's connections end meanwhile
		{"the new one was removed", with(0, -1)},
	} {
		fault = time.Now()
		p.reload(edit.body)
		p.checkLoad("reload: "+edit.what, fault, conns, l)
	}
	fault = time.Now()
	must(t, p.a.Stop())
	become("b")
	p.checkLoad("clean stop after the reloads", fault, conns, l)
	back("return after the clean stop", func() { p.a = p.start("a", p.better) })

	fault = time.Now()
	p.a.Kill()
	p.a = p.start("a", p.better)
	must(t, p.a.WaitOutput(t.Context(), "to=MASTER"))
	p.checkLoad("restart of the master", fault, conns, l)
	closeAll(conns)
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
