package notify

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// runs records what commands would have run, each for a second.
type runs struct {
	mu  sync.Mutex
	all []string
}

func (r *runs) execute(_ context.Context, e message) {
	r.mu.Lock()
	r.all = append(r.all, fmt.Sprintf("%s %s>%s", e.Name, e.Old, e.New))
	r.mu.Unlock()
	time.Sleep(time.Second)
}

func (r *runs) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.all, ", ")
}

// runningCommands starts a runner; stop ends it as Notifier.Run does.
func runningCommands(t *testing.T) (c *commands, r *runs, stop func()) {
	t.Helper()
	c, r = newCommands("lb1", func(sender, message, error) {}), &runs{}
	c.execute = r.execute
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.run(ctx, context.WithoutCancel(ctx)); close(done) }()
	return c, r, func() { cancel(); <-done }
}

func happens(name, was, now string) Event {
	return Event{Kind: Service, Name: name, Old: was, New: now, Commands: [][]string{{"/bin/true"}}}
}

// What changes while a subject's commands run is one event, and none if it is
// back where it was; other subjects do not wait.
func TestCommandsOfOneSubjectAreOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r, stop := runningCommands(t)
		c.add(happens("a", "up", "down"))
		synctest.Wait()
		c.add(happens("a", "down", "up"))
		c.add(happens("a", "up", "down"))
		c.add(happens("b", "up", "down"))
		synctest.Wait()
		if got, want := r.String(), "a up>down, b up>down"; got != want {
			t.Errorf("%s (want %s)", got, want)
		}
		time.Sleep(2 * time.Second)
		c.add(happens("a", "down", "up"))
		synctest.Wait()
		c.add(happens("a", "up", "FAULT"))
		c.add(happens("a", "FAULT", "down"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got, want := r.String(), "a up>down, b up>down, a down>up, a up>down"; got != want {
			t.Errorf("%s (want %s)", got, want)
		}
		stop()
	})
}

// What is waiting when the daemon stops is run.
func TestCommandsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r, stop := runningCommands(t)
		c.add(happens("a", "BACKUP", "MASTER"))
		synctest.Wait()
		c.add(happens("a", "MASTER", "INIT"))
		stop()
		if got, want := r.String(), "a BACKUP>MASTER, a MASTER>INIT"; got != want {
			t.Errorf("%s (want %s)", got, want)
		}
	})
}

func TestCommandsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r, stop := runningCommands(t)
		for i := range 3 * maxRunning {
			c.add(happens(fmt.Sprint(i), "up", "down"))
		}
		synctest.Wait()
		if n := len(strings.Split(r.String(), ", ")); n != maxRunning {
			t.Errorf("%d run at a time (want %d)", n, maxRunning)
		}
		stop()
		if n := len(strings.Split(r.String(), ", ")); n != 3*maxRunning {
			t.Errorf("%d ran (want %d)", n, 3*maxRunning)
		}
	})
}

// The commands of an event get the event, whoever else is notified.
func TestEventsRunTheirCommands(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	program := script(t, "#!/bin/sh\necho \"$LVX_NAME $LVX_OLD $LVX_NEW $1\" >>"+out+"\n")
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	n.Notify(Event{Kind: VRRP, Name: "VI_1", Old: "BACKUP", New: "MASTER", Commands: [][]string{{program, "first"}, {"/nosuch"}, {program, "second"}}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if want := "VI_1 BACKUP MASTER first\nVI_1 BACKUP MASTER second\n"; err != nil || string(text) != want {
		t.Errorf("%q, %v (want %q)", text, err, want)
	}
}

// Subjects that come and go do not use up the room for others.
func TestCommandsForgetSubjects(t *testing.T) {
	c := newCommands("lb1", func(sender, message, error) {})
	run := func(e Event) (ran int) {
		if !c.add(e) {
			t.Fatalf("no room for %s", e.Name)
		}
		for _, m := range c.take() {
			c.finish(m.subject())
			ran++
		}
		return ran
	}
	run(happens("first", "up", "down"))
	for i := range maxWithCommand + 1 {
		run(happens(fmt.Sprint(i), "up", "down"))
	}
	if n := len(c.lines); n > maxWithCommand {
		t.Errorf("%d subjects are kept", n)
	}
	if run(happens("last", "up", "down")) != 1 || run(happens("last", "up", "down")) != 0 {
		t.Error("what was told last is not known")
	}
}

// A subject that is back where it was before anything was told of it is no news.
func TestCommandsOfASubjectThatIsBack(t *testing.T) {
	c := newCommands("lb1", func(sender, message, error) {})
	c.add(happens("a", "up", "down"))
	c.add(happens("a", "down", "up"))
	if ms := c.take(); len(ms) != 0 {
		t.Errorf("%s -> %s is run", ms[0].Old, ms[0].New)
	}
}

// What is given up at the end is said.
func TestCommandsThatAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		c := newCommands("lb1", func(_ sender, m message, err error) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, fmt.Sprintf("%s %s: %v", m.Name, m.New, err))
		})
		c.execute = func(ctx context.Context, m message) {
			<-ctx.Done()
			c.report(nil, m, ctx.Err())
		}
		ctx, cancel := context.WithCancel(t.Context())
		sending, giveUp := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { c.run(ctx, sending); close(done) }()
		c.add(happens("a", "up", "down"))
		synctest.Wait()
		c.add(happens("a", "down", "stopped"))
		cancel()
		synctest.Wait()
		giveUp()
		<-done
		slices.Sort(said)
		if got, want := strings.Join(said, ", "), "a down: context canceled, a stopped: context canceled"; got != want {
			t.Errorf("%q (want %q)", got, want)
		}
	})
}
