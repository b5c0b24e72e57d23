package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake records what it is told; fail is asked first.
type fake struct {
	mu   sync.Mutex
	got  []string
	fail func(ctx context.Context) error
}

func (f *fake) String() string                 { return "fake" }
func (f *fake) patience() (time.Duration, int) { return 10 * time.Second, 3 }

func (f *fake) send(ctx context.Context, m message) error {
	if f.fail != nil {
		if err := f.fail(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, m.text())
	return nil
}

func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.got
	f.got = nil
	return got
}

// running starts a notifier that tells f, in the bubble of a test.
func running(t *testing.T, f *fake) (*Notifier, func()) {
	t.Helper()
	n, err := New(Options{Host: "lb1"})
	if err != nil {
		t.Fatal(err)
	}
	n.add(f)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	synctest.Wait()
	return n, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func change(name, old, new string) Event {
	return Event{Kind: Real, Name: name, Service: "web", Old: old, New: new}
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		n, stop := running(t, f)
		defer stop()
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, f.take()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		n.Notify(change("a", "up", "down"))
		n.Notify(Event{Kind: VRRP, Name: "a", Old: "BACKUP", New: "MASTER"})
		synctest.Wait()
		if got := f.take(); len(got) != 2 {
			t.Errorf("two things with one name: %q", got)
		}
		n.Notify(change("a", "down", "up"))
		n.Notify(change("b", "down", "up"))
		expect("a is held back, b is not", "real b of web: down -> up")
		n.Notify(change("a", "up", "down"))
		n.Notify(change("a", "down", "maintenance"))
		time.Sleep(DefaultInterval - time.Millisecond)
		expect("still held back")
		time.Sleep(time.Millisecond)
		expect("the latest, from the first", "real a of web: down -> maintenance (3 changes)")
		n.Notify(change("a", "maintenance", "up"))
		n.Notify(change("a", "up", "maintenance"))
		time.Sleep(2 * DefaultInterval)
		expect("back where it was")
		n.Notify(change("a", "maintenance", "up"))
		expect("after a quiet time at once", "real a of web: maintenance -> up")
		time.Sleep(3 * DefaultInterval)
		synctest.Wait()
		if len(n.subjects) != 0 {
			t.Errorf("%d quiet subjects are remembered", len(n.subjects))
		}
	})
}

// A start is news too; the role that follows must not wait for long.
func TestRolesAreToldSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		n, stop := running(t, f)
		defer stop()
		n.Notify(Event{Kind: VRRP, Name: "VI_1", Old: "INIT", New: "BACKUP"})
		n.Notify(Event{Kind: VRRP, Name: "VI_1", Old: "BACKUP", New: "MASTER"})
		time.Sleep(DefaultInterval / 10)
		synctest.Wait()
		if got := f.take(); len(got) == 0 || !strings.HasSuffix(got[len(got)-1], "-> MASTER (2 changes)") && !strings.HasSuffix(got[len(got)-1], "BACKUP -> MASTER") {
			t.Errorf("told %q", got)
		}
	})
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		n, stop := running(t, f)
		var want []string
		for i := range 50 {
			e := change(fmt.Sprint("r", i), "up", "down")
			e.Time = time.Now().Add(time.Duration(i))
			n.Notify(e)
			want = append(want, fmt.Sprintf("real r%d of web: up -> down", i))
		}
		stop()
		if diff := cmp.Diff(want, f.take()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A sender that hangs holds up neither the caller nor other senders; what
// does not fit is counted.
func TestHungSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := &fake{fail: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		n, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		good := &fake{}
		n.add(hung)
		n.add(good)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx) }()
		const total = maxQueue + 500
		for i := range total {
			n.Notify(change(fmt.Sprint(i), "up", "down"))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if got := good.take(); len(got) != total {
			t.Errorf("the good sender told %d of %d", len(got), total)
		}
		if c := n.Counters(); c.Dropped != total-maxQueue-1 || c.Delivered != total {
			t.Errorf("%+v, want %d dropped (one is on its way)", c, total-maxQueue-1)
		}
		cancel()
		began := time.Now()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > grace {
			t.Errorf("Run took %s to end", took)
		}
		if c := n.Counters(); c.Failed != maxQueue+1 {
			t.Errorf("%+v, want %d failed", c, maxQueue+1)
		}
	})
}

func TestTooManySubjects(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	n.add(&fake{})
	for i := range maxSubjects + 7 {
		n.Notify(change(fmt.Sprint(i), "up", "down"))
	}
	if c := n.Counters(); c.Dropped != 7 {
		t.Errorf("%+v, want 7 dropped", c)
	}
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int32
		f := &fake{fail: func(context.Context) error {
			if attempts.Add(1)%3 != 0 {
				return errors.New("not now")
			}
			return nil
		}}
		n, stop := running(t, f)
		defer stop()
		n.Notify(change("a", "up", "down"))
		time.Sleep(3*pause - time.Millisecond)
		synctest.Wait()
		if got := f.take(); got != nil || attempts.Load() != 2 {
			t.Errorf("%d attempts, told %q too early", attempts.Load(), got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := f.take(); len(got) != 1 || attempts.Load() != 3 {
			t.Errorf("%d attempts, told %q", attempts.Load(), got)
		}
	})
}

// What is queued when the daemon ends still goes out, also what was held
// back.
func TestLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		n, stop := running(t, f)
		n.Notify(change("a", "up", "down"))
		synctest.Wait()
		n.Notify(change("a", "down", "up"))
		n.Notify(Event{Kind: Director, Name: "lvx", Old: "running", New: "stopped"})
		stop()
		if got := f.take(); len(got) != 3 {
			t.Errorf("told %q", got)
		}
	})
}

func TestNobodyToTell(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	n.Notify(change("a", "up", "down"))
	if len(n.subjects) != 0 {
		t.Error("news for nobody is kept")
	}
}

func TestBadOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"no command":         {Exec: []string{" "}},
		"want HOST:PORT":     {SMTP: SMTP{Server: "localhost", From: "a@b", To: []string{"c@d"}}},
		"nobody to send":     {SMTP: SMTP{Server: "localhost:25", From: "a@b"}},
		"want name@host":     {SMTP: SMTP{Server: "localhost:25", From: "a@b\r\nBcc: x", To: []string{"c@d"}}},
		"want http://":       {Webhook: "localhost/x"},
		`"ftp://x/" (want`:   {Webhook: "ftp://x/"},
		`webhook "http:///x`: {Webhook: "http:///x"},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}

// Whatever comes and whenever: the last message about a thing tells its
// last state, and no two messages about it are closer than the interval.
func TestLatestWins(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		states := rapid.SliceOfN(rapid.SampledFrom([]string{"up", "down", "drained"}), 1, 30).Draw(rt, "states")
		gaps := rapid.SliceOfN(rapid.IntRange(0, 7000), len(states), len(states)).Draw(rt, "gaps")
		n, err := New(Options{})
		if err != nil {
			rt.Fatal(err)
		}
		o := &outlet{sender: &fake{}, queue: make(chan message, len(states))}
		n.outlets = []*outlet{o}
		now, last, sent, is := time.Unix(0, 0), time.Time{}, "unknown", "unknown"
		dispatch := func() {
			n.dispatch(now, false)
			for len(o.queue) > 0 {
				m := <-o.queue
				if !last.IsZero() && now.Sub(last) < DefaultInterval {
					rt.Fatalf("%s after %s", m.text(), now.Sub(last))
				}
				if m.New == sent {
					rt.Fatalf("%s is no news", m.text())
				}
				sent, last = m.New, now
			}
		}
		for i, s := range states {
			now = now.Add(time.Duration(gaps[i]) * time.Millisecond)
			if s != is { // nobody notifies of what did not change
				n.Notify(change("a", is, s))
				is = s
			}
			dispatch()
		}
		now = now.Add(DefaultInterval)
		dispatch()
		if sent != is {
			rt.Fatalf("told %s, is %s", sent, is)
		}
	})
}

// Fault 14: a program that steers routing hears of every change at once, of one
// thing in order, and never has two copies running for it.
func TestFault14ProgramsAreNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := &fake{}
		f.fail = func(context.Context) error { time.Sleep(time.Second); return nil }
		n.programs = [][]string{{"/run"}}
		n.commands.execute = func(ctx context.Context, m message) { n.report(f, m, deliver(ctx, f, m)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx) }()
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, f.take()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		n.Notify(change("a", "up", "down"))
		time.Sleep(1100 * time.Millisecond)
		expect("the first", "real a of web: up -> down")
		n.Notify(change("a", "down", "up"))
		time.Sleep(1100 * time.Millisecond)
		expect("the second, within ten seconds", "real a of web: down -> up")
		n.Notify(change("a", "up", "down"))
		time.Sleep(100 * time.Millisecond)
		n.Notify(change("a", "down", "up")) // while the program runs:
		n.Notify(change("a", "up", "gone")) // one more run, with the latest
		n.Notify(change("b", "up", "down")) // beside a's
		time.Sleep(950 * time.Millisecond)
		expect("the latest waits for its turn only", "real a of web: up -> down")
		time.Sleep(100 * time.Millisecond)
		expect("another subject does not wait", "real b of web: up -> down")
		time.Sleep(time.Second)
		expect("the latest state", "real a of web: down -> gone (2 changes)")
		n.Notify(change("a", "gone", "up"))
		synctest.Wait()
		n.Notify(change("a", "up", "gone"))
		n.Notify(change("a", "gone", "up"))
		time.Sleep(3 * time.Second)
		expect("back where the last run left it", "real a of web: gone -> up")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Fault 19: a stop waits a second for what does not answer; then the message
// is given up, aloud.
func TestFault19StopDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lost []string
		n, err := New(Options{Host: "lb1", Undelivered: func(to, m string, err error) {
			mu.Lock()
			defer mu.Unlock()
			lost = append(lost, fmt.Sprint(to, ": ", m, ": ", err))
		}})
		if err != nil {
			t.Fatal(err)
		}
		n.add(&fake{fail: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		n.programs = [][]string{{"/run"}}
		n.commands.execute = func(ctx context.Context, m message) {
			<-ctx.Done()
			n.report(&fake{}, m, ctx.Err())
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx) }()
		n.Notify(Event{Kind: Director, Name: "lvx", Old: "running", New: "stopped"})
		synctest.Wait()
		cancel()
		began := time.Now()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("a stop took %v", took)
		}
		want := "fake: director lvx: running -> stopped: context canceled"
		if len(lost) != 2 || lost[0] != want || lost[1] != want {
			t.Errorf("given up: %q", lost)
		}
	})
}
