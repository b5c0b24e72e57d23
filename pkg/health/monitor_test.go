package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/health"
)

// world is what the fake checkers of a test ask.
type world struct {
	mu     sync.Mutex
	answer map[netip.Addr]func(context.Context) error
	asked  map[netip.Addr][]time.Time
	open   int // checkers that are not closed
	busy   int // checks that are on their way
	most   int // the most that ever were
}

func newWorld() *world {
	return &world{answer: map[netip.Addr]func(context.Context) error{}, asked: map[netip.Addr][]time.Time{}}
}

func (w *world) set(a netip.Addr, f func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer[a] = f
}

func (w *world) times(a netip.Addr) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.asked[a]...)
}

// counts are the fields of that name.
func (w *world) counts() (open, busy, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open, w.busy, w.most
}

func (w *world) build(t health.Target) (health.Checker, error) {
	if t.Spec.Path == "/broken" {
		return nil, errors.New("path /broken")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	return &fakeChecker{w, t}, nil
}

type fakeChecker struct {
	*world
	t health.Target
}

func (c *fakeChecker) Check(ctx context.Context) error {
	c.mu.Lock()
	c.asked[c.t.Real] = append(c.asked[c.t.Real], time.Now())
	f := c.answer[c.t.Real]
	c.busy++
	c.most = max(c.most, c.busy)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.busy--
		c.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, c.t.Spec.WithDefaults().Timeout)
	defer cancel()
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (c *fakeChecker) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	return nil
}

func refuse(context.Context) error { return errors.New("tcp connect: refused") }

func hang(ctx context.Context) error {
	<-ctx.Done()
	return errors.New("tcp connect: timeout")
}

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

func ask(n int, s health.Spec) health.Target {
	if s.Type == "" {
		s.Type = health.TCP
	}
	return health.Target{Spec: s, Real: addr(n), Port: 80}
}

// watch runs a monitor in the bubble of a test; events are kept.
type watched struct {
	*health.Monitor
	*world
	mu     sync.Mutex
	events []health.Event
}

func watch(t *testing.T, o health.Options) *watched {
	t.Helper()
	w := newWorld()
	o.New = w.build
	m := &watched{Monitor: health.NewMonitor(o), world: w}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		for e := range m.Events() {
			m.mu.Lock()
			m.events = append(m.events, e)
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if open, busy, _ := w.counts(); open != 0 || busy != 0 {
			t.Errorf("%d checkers are open and %d busy after the end", open, busy)
		}
	})
	return m
}

func (m *watched) take() []health.Event {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.events
	m.events = nil
	return e
}

func TestDownUntilFirstPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		good, bad := ask(1, health.Spec{}), ask(2, health.Spec{})
		m.set(bad.Real, refuse)
		gate := make(chan bool)
		m.set(good.Real, func(context.Context) error { <-gate; return nil })
		m.Set([]health.Target{good, bad})
		synctest.Wait()
		if s := m.Status(good); s.Up || s.Known {
			t.Errorf("before the first result: %+v", s)
		}
		if s := m.Status(bad); s.Up || !s.Known || s.Reason != "tcp connect: refused" {
			t.Errorf("after a failure: %+v", s)
		}
		close(gate)
		synctest.Wait()
		if s := m.Status(good); !s.Up || !s.Known || s.Since != time.Now() {
			t.Errorf("after a pass, at once: %+v", s)
		}
		if len(m.take()) != 2 || len(m.Snapshot()) != 2 {
			t.Error("want two events and two statuses")
		}
	})
}

// A real that dies at any moment is down after fall intervals and a timeout
// at most, and no sooner than fall failures take.
func TestDetectionTime(t *testing.T) {
	spec := health.Spec{Interval: 6 * time.Second, Timeout: 3 * time.Second, Fall: 3, Rise: 2}
	for _, failure := range []struct {
		name  string
		f     func(context.Context) error
		extra time.Duration
	}{{"refused", refuse, 0}, {"timeout", hang, spec.Timeout}} {
		for offset := time.Duration(0); offset < 2*spec.Interval; offset += 700 * time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				m := watch(t, health.Options{})
				tgt := ask(1, spec)
				m.Set([]health.Target{tgt})
				time.Sleep(10*time.Second + offset)
				m.take()
				died := time.Now()
				m.set(tgt.Real, failure.f)
				time.Sleep(time.Minute)
				e := m.take()
				if len(e) != 1 || e[0].New.Up {
					t.Fatalf("events %+v", e)
				}
				took, bound := e[0].New.Since.Sub(died), 3*spec.Interval+failure.extra
				if took > bound || took < 2*spec.Interval*9/10 {
					t.Errorf("%s: down after %s, bound %s", failure.name, took, bound)
				}
				if !strings.HasSuffix(e[0].New.Reason, " (failed 3 times)") {
					t.Errorf("reason %q", e[0].New.Reason)
				}
				m.set(tgt.Real, nil)
				back := time.Now()
				time.Sleep(time.Minute)
				e = m.take()
				if len(e) != 1 || !e[0].New.Up {
					t.Fatalf("events %+v", e)
				}
				if took := e[0].New.Since.Sub(back); took > 2*spec.Interval+spec.Timeout {
					t.Errorf("up after %s", took)
				}
			})
		}
	}
}

func TestRetryDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		tgt := ask(1, health.Spec{Interval: 10 * time.Second, RetryDelay: time.Second, Fall: 2})
		m.Set([]health.Target{tgt})
		time.Sleep(30 * time.Second)
		m.set(tgt.Real, refuse)
		time.Sleep(12 * time.Second)
		if s := m.Status(tgt); s.Up {
			t.Errorf("the second failure did not come soon: %+v", s)
		}
	})
}

// Equal questions are one probe.
func TestSharedProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		tgt := ask(1, health.Spec{Interval: time.Second})
		m.Set([]health.Target{tgt, ask(2, health.Spec{}), tgt, tgt})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(m.times(tgt.Real)); n < 10 || n > 12 {
			t.Errorf("asked %d times in 10 s", n)
		}
		if n := len(m.Snapshot()); n != 2 {
			t.Errorf("%d targets", n)
		}
	})
}

// All start at once and then spread over the interval, each on time.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		const n = 1000
		var all []health.Target
		for i := range n {
			all = append(all, ask(i, health.Spec{Interval: time.Second}))
		}
		began := time.Now()
		m.Set(all)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		slots := map[int64]int{}
		for i := range n {
			times := m.times(addr(i))
			if times[0] != began {
				t.Fatalf("target %d waited %s for its first probe", i, times[0].Sub(began))
			}
			for j := 2; j < len(times); j++ {
				if gap := times[j].Sub(times[j-1]); gap > time.Second || gap < 890*time.Millisecond {
					t.Fatalf("target %d: %s between two probes", i, gap)
				}
			}
			slots[times[10].UnixMilli()/20]++
		}
		for slot, count := range slots {
			if count > n/10 {
				t.Errorf("%d of %d start within the 20 ms of %d", count, n, slot)
			}
		}
	})
}

// Probes that hang, even more than there are places, do not keep others from
// being asked.
func TestHungProbesStarveNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{Concurrency: 50})
		var all []health.Target
		for i := range 200 {
			all = append(all, ask(i, health.Spec{Interval: time.Second}))
			if i < 150 {
				m.set(addr(i), hang)
			}
		}
		m.Set(all)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if _, _, most := m.counts(); most > 50 {
			t.Errorf("%d at once", most)
		}
		for i := range 200 {
			times := m.times(addr(i))
			if s := m.Status(all[i]); s.Up != (i >= 150) {
				t.Fatalf("target %d: %+v", i, s)
			}
			// 150 that hang 3 s in 50 places: a round is 9 s and a bit.
			if len(times) < 20 {
				t.Fatalf("target %d was asked %d times in 5 min", i, len(times))
			}
		}
	})
}

// Programs have places of their own.
func TestExecsDoNotBlockSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{Concurrency: 10, ExecConcurrency: 2})
		all := []health.Target{ask(0, health.Spec{Interval: time.Second})}
		for i := range 20 {
			m.set(addr(i+1), hang)
			all = append(all, ask(i+1, health.Spec{Type: health.Exec}))
		}
		m.Set(all)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(m.times(addr(0))); n < 60 {
			t.Errorf("asked %d times in a minute", n)
		}
		if _, _, most := m.counts(); most > 3 {
			t.Errorf("%d at once", most)
		}
	})
}

func TestSetKeepsResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		kept, removed := ask(1, health.Spec{}), ask(2, health.Spec{})
		m.Set([]health.Target{kept, removed})
		time.Sleep(20 * time.Second)
		before := m.Status(kept)
		m.take()
		edited := ask(2, health.Spec{Interval: time.Second, Match: "edited"})
		gate := make(chan bool)
		m.set(addr(2), func(context.Context) error { <-gate; return nil })
		m.Set([]health.Target{edited, kept, ask(3, health.Spec{Path: "/broken"})})
		synctest.Wait()
		if diff := cmp.Diff(before, m.Status(kept)); diff != "" {
			t.Errorf("the kept target (-before +after):\n%s", diff)
		}
		if s := m.Status(removed); s.Known {
			t.Errorf("the target that went: %+v", s)
		}
		if s := m.Status(edited); !s.Up || !s.Known {
			t.Errorf("the edited target has no result yet, and starts as it was: %+v", s)
		}
		if s := m.Status(ask(3, health.Spec{Path: "/broken"})); s.Up || s.Reason != "check: path /broken" {
			t.Errorf("a checker that cannot be built: %+v", s)
		}
		close(gate)
		m.Set(nil)
		synctest.Wait()
		if open, _, _ := m.counts(); len(m.Snapshot()) != 0 || open != 0 {
			t.Errorf("%d statuses, %d open checkers after Set(nil)", len(m.Snapshot()), open)
		}
	})
}

// A target that goes while its probe is on its way is closed afterwards.
func TestSetDuringProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{Concurrency: 1})
		m.set(addr(1), hang)
		m.Set([]health.Target{ask(1, health.Spec{}), ask(2, health.Spec{})})
		synctest.Wait()
		m.Set(nil)
		if open, _, _ := m.counts(); open != 1 {
			t.Errorf("%d open checkers while one is busy", open)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if open, _, _ := m.counts(); open != 0 || len(m.take()) > 1 {
			t.Errorf("%d open checkers", open)
		}
	})
}

// A listener that does not listen gets, per target, one event from the state
// that it knows to the latest.
func TestEventsCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := health.NewMonitor(health.Options{New: w.build})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		spec := health.Spec{Interval: time.Second, Fall: 1, Rise: 1}
		a, b := ask(1, spec), ask(2, spec)
		m.Set([]health.Target{a, b})
		time.Sleep(5 * time.Second)
		for _, f := range []func(context.Context) error{refuse, nil, refuse} {
			w.set(a.Real, f)
			w.set(b.Real, f)
			time.Sleep(5 * time.Second)
		}
		w.set(b.Real, nil)
		time.Sleep(5 * time.Second)
		got := map[netip.Addr][]string{}
		for range 3 {
			select {
			case e := <-m.Events():
				got[e.Target.Real] = append(got[e.Target.Real], fmt.Sprint(e.Old.Known, e.Old.Up, "->", e.New.Known, e.New.Up))
				synctest.Wait()
			default:
			}
		}
		// One event was already in the hands of the listener, so to say.
		want := map[netip.Addr]int{a.Real: 1, b.Real: 1}
		for real, n := range want {
			if len(got[real]) < n || len(got[real]) > n+1 {
				t.Errorf("events of %s: %q", real, got[real])
			}
		}
		if last := got[a.Real][len(got[a.Real])-1]; !strings.HasSuffix(last, "true false") {
			t.Errorf("the latest of a: %q", last)
		}
		cancel()
		<-done
		if _, ok := <-m.Events(); ok {
			t.Error("the channel is open after the end")
		}
		if s := m.Snapshot(); len(s) != 2 || !s[b].Up || s[a].Up {
			t.Errorf("after the end: %+v", s)
		}
		m.Set(nil)
		if open, _, _ := w.counts(); open != 0 {
			t.Errorf("%d checkers are open", open)
		}
	})
}

func TestPreset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		early, late, unknown := ask(1, health.Spec{}), ask(2, health.Spec{}), ask(3, health.Spec{})
		for i := range 3 {
			m.set(addr(i+1), hang)
		}
		m.Set([]health.Target{early, unknown})
		m.Restore(map[health.Target]health.Status{
			early:   {Known: true, Up: true},
			late:    {Known: true, Up: true},
			unknown: {},
		})
		m.Set([]health.Target{early, late, unknown})
		if !m.Status(early).Up || !m.Status(late).Up || m.Status(unknown).Known {
			t.Errorf("%+v", m.Snapshot())
		}
		if e := m.take(); len(e) != 2 || e[0].Target != early || e[1].Target != late {
			t.Errorf("events %+v", e)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.Status(early).Up || m.Status(late).Up {
			t.Errorf("dead reals stay up: %+v", m.Snapshot())
		}
	})
}

// What this host cannot ask changes nothing.
func TestNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		tgt := ask(1, health.Spec{Interval: time.Second})
		m.Set([]health.Target{tgt})
		time.Sleep(5 * time.Second)
		m.set(tgt.Real, func(context.Context) error {
			return fmt.Errorf("socket: %w: too many open files", health.ErrNotAsked)
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := m.Status(tgt); !s.Up || s.Reason != "socket: not asked: too many open files" {
			t.Errorf("%+v", s)
		}
	})
}

func TestFlappingIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := watch(t, health.Options{})
		tgt := ask(1, health.Spec{Interval: time.Second, Fall: 1, Rise: 1})
		n := 0
		m.set(tgt.Real, func(ctx context.Context) error {
			if n++; n%2 == 0 {
				return refuse(ctx)
			}
			return nil
		})
		m.Set([]health.Target{tgt})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := m.Status(tgt); s.Up || !s.Flapping {
			t.Errorf("%+v", s)
		}
		if e := m.take(); len(e) != 2*health.FlapLimit {
			t.Errorf("%d events, want %d", len(e), 2*health.FlapLimit)
		}
		m.set(tgt.Real, nil)
		time.Sleep(health.FlapHold + 3*time.Second)
		synctest.Wait()
		if s := m.Status(tgt); !s.Up || s.Flapping {
			t.Errorf("%+v", s)
		}
	})
}
