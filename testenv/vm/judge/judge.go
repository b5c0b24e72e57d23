package judge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// caseSteps is how many steps one random configuration is good for.
const caseSteps = 250

// Options of [Run].
type Options struct {
	Steps int
	Look  int    // compare the tables after so many steps
	Seed  uint64 // of the first case; the next one has the next seed
	Dir   string // for the state of the kernel's side
	Logf  func(format string, args ...any)

	// List prints what a backend says as `lvx list` does.
	List func(lb.State, lb.Observed, lb.Stats) (string, error)
}

// Report counts what was compared.
type Report struct {
	Steps    int
	Outcomes map[string]int // of packets
	Events   map[string]int // edits, waits, looks at the tables and the like
	Passed   time.Duration  // on the guest's clock
}

// A trial is one case: both sides, their common configuration, and what has
// happened so far.
type trial struct {
	Options
	rnd     *rand.Rand
	kernel  *side
	xdp     *side
	report  *Report
	files   []file
	state   lb.State
	pool    []endpoints                  // that packets were sent between
	servers map[endpoints]netip.AddrPort // where the packets of a connection went last
	log     []string                     // the configuration, and the steps since
	settled time.Time                    // when the tables were compared last and nothing was near its end
	serial  int                          // of probes
	away    map[endpoints]bool           // see mute
	muted   map[endpoints]bool           // too
	strays  map[endpoints]bool           // left out: see leaveSorry, leaveWithoutTemplate
	unbound map[endpoints]client         // whose strays are too: see leaveWithoutTemplate
}

// Run plays cases until there were o.Steps steps. The first difference is an
// error that has the seed, the configuration and the steps since.
func Run(ctx context.Context, o Options) (Report, error) {
	r := Report{Outcomes: map[string]int{}, Events: map[string]int{}}
	kernel, err := newKernel(ctx, o.Dir)
	if err != nil {
		return r, err
	}
	xdp, err := newXDP(ctx)
	if err != nil {
		return r, errors.Join(err, kernel.close())
	}
	start := time.Now()
	for seed := o.Seed; r.Steps < o.Steps && err == nil; seed++ {
		t := &trial{Options: o, rnd: rand.New(rand.NewPCG(seed, 7)), kernel: kernel, xdp: xdp, report: &r, strays: map[endpoints]bool{}, unbound: map[endpoints]client{}, servers: map[endpoints]netip.AddrPort{}}
		if err = t.play(min(caseSteps, o.Steps-r.Steps)); err != nil {
			err = fmt.Errorf("seed %d, step %d: %w\n%s", seed, len(t.log), err, strings.Join(t.log, "\n"))
		}
		if r.Steps%(4*caseSteps) == 0 {
			o.Logf("seeds to %d, %d steps: the same", seed, r.Steps)
		}
	}
	r.Passed = time.Since(start)
	return r, errors.Join(err, xdp.close(), kernel.close())
}

// play is one case from empty tables to empty tables.
func (t *trial) play(steps int) error {
	t.drawState()
	if err := t.apply("configuration"); err != nil {
		return err
	}
	t.settled = time.Now()
	for range steps {
		if err := t.step(); err != nil {
			return err
		}
		if t.report.Steps++; t.report.Steps%t.Look == 0 {
			if err := t.look(); err != nil {
				return err
			}
		}
	}
	if err := t.settle(); err != nil {
		return err
	}
	return t.clear()
}

// clear removes everything. The kernel throws connections away with their
// reals, lvx would wait for them to end: its tables are emptied by hand.
func (t *trial) clear() error {
	t.files, t.state = nil, lb.State{ExpireNodestConn: true}
	if err := t.apply("clear"); err != nil {
		return err
	}
	if err := t.xdp.empty(); err != nil {
		return err
	}
	t.sleep(20 * time.Second) // for the sweeper to forget services and reals
	return nil
}

// step is a packet, an edit or a stretch of time.
func (t *trial) step() error {
	if time.Since(t.settled) > 3*time.Second {
		if err := t.settle(); err != nil {
			return err
		}
	}
	switch n := t.rnd.IntN(100); {
	case n < 96:
		return t.packet()
	case n < 99:
		return t.edit()
	default:
		return t.pass()
	}
}

// apply makes both sides hold the state of the files.
func (t *trial) apply(what string) error {
	t.say("%s: %s", what, describe(t.state))
	for _, s := range []*side{t.kernel, t.xdp} {
		if err := s.do(func() error { return s.apply(t.state) }); err != nil {
			return err
		}
	}
	t.sleep(100 * time.Millisecond) // the kernel drops connections of removed reals from a work queue
	return nil
}

// pass lets time pass.
func (t *trial) pass() error {
	d := time.Duration(pick(t.rnd, 3, 11, 25, 65, 65, 100, 125, 125, 200, 310, 500, 905)) * time.Second
	t.say("%s pass", d)
	t.report.Events["pass"]++
	t.sleep(d)
	return t.settle()
}

func (t *trial) sleep(d time.Duration) { time.Sleep(d) }

func (t *trial) say(format string, args ...any) {
	t.log = append(t.log, fmt.Sprintf(format, args...))
}

// describe is a state in a few lines.
func describe(s lb.State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "sloppy %v, expire nodest %v, expire quiescent template %v, timeouts %v", s.SloppyTCP, s.ExpireNodestConn, s.ExpireQuiescentTempl, s.Timeouts)
	for _, v := range s.Services {
		fmt.Fprintf(&b, "\n    %s %v mark %d %s flags %d ops %v persistent %v sorry %v:", v.Name, v.Listeners, v.Mark, v.Scheduler, v.Flags, v.OnePacket, v.Persistence, v.Sorry)
		for _, r := range v.Reals {
			fmt.Fprintf(&b, " %s=%d", shortReal(r.Addr), r.Weight)
			if r.Forward != lb.DR {
				fmt.Fprintf(&b, " by %s to %s port %d", r.Way(), r.Addr, r.Port)
			}
			if r.Upper != 0 || r.Lower != 0 {
				fmt.Fprintf(&b, "(%d-%d)", r.Lower, r.Upper)
			}
		}
	}
	return b.String()
}

func shortReal(a netip.Addr) string { return fmt.Sprintf("rs%d", realNumber(a)) }

// pick picks one of several values.
func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

// chance is true once in n times.
func chance(rnd *rand.Rand, n int) bool { return rnd.IntN(n) == 0 }
