package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/config"
)

func matches(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }

// tiny runs a command, or a small form of it, as the program does, and gives
// its report.
func tiny(t *testing.T, f func(context.Context, *job) error) *Report {
	t.Helper()
	j := &job{quick: true, out: io.Discard, notes: io.Discard, report: newReport()}
	done := make(chan error)
	go func() { done <- f(t.Context(), j) }()
	must(t, <-done)
	must(t, j.report.print(new(bytes.Buffer)))
	return j.report
}

// A run that is too short to mean anything still finds every packet where it
// belongs: measure checks verdicts.
func TestPackets(t *testing.T) {
	r := tiny(t, func(ctx context.Context, j *job) error {
		if err := ownNamespace(); err != nil {
			return err
		}
		const flows = 10_000
		groups := slices.Concat(oneFlow(1000), manyFlows(flows, "10k", 1000), ways(flows, "10k", 1000))
		size := rigOptions{flows: flows, templates: 1, hash: flows}
		if err := j.measureAll(ctx, size, groups, 1); err != nil {
			return err
		}
		size.ipv6 = true
		groups = slices.Concat(oneFlow6(1000), manyFlows6(flows, "10k", 1000))
		return j.measureAll(ctx, size, groups, 1)
	})
	if len(r.Results) < 18 || r.yardstick("established/10k") == 0 || r.yardstick("established6/10k") == 0 {
		t.Errorf("results: %+v", r.Results)
	}
	if len(r.Checks) != 2 || r.missed() > 0 {
		t.Errorf("memory: %+v", r.Checks)
	}
}

// Two CPUs at once: whether they have run side by side, so that their times count,
// depends on what else the machine does. That every packet of both goes where it
// should does not: measure checks verdicts.
func TestPairs(t *testing.T) {
	const flows = 10_000
	tiny(t, func(ctx context.Context, j *job) error {
		if err := ownNamespace(); err != nil {
			return err
		}
		return j.measureAll(ctx, rigOptions{flows: flows, templates: 1}, pairs(flows, 10_000), 1)
	})
}

// What a pair loses is what lvx takes longer, beside what an empty program does.
func TestPairChecks(t *testing.T) {
	median := map[string]float64{
		"pair_new/empty/one": 30, "pair_new/empty/two": 33, "pair_new/lvx/one": 300, "pair_new/lvx/two": 440,
		"pair_established/1/empty/one": 30, "pair_established/1/lvx/one": 20, "pair_established/1/lvx/two": 20,
	}
	checks := checkPairs(median)
	if len(checks) != 1 || checks[0].OK || math.Abs(checks[0].Value-0.75) > 1e-9 {
		t.Errorf("%+v", checks)
	}
}

func TestVeth(t *testing.T) {
	r := tiny(t, func(ctx context.Context, j *job) error { return vethOf(ctx, j, 1, 20_000, 1000) })
	if len(r.Wire) != 3 {
		t.Fatalf("%d rates, want 3", len(r.Wire))
	}
	for _, x := range r.Wire {
		if x.Mpps <= 0 || x.Lost > 0.5 {
			t.Errorf("%s: %.2f Mpps, %.0f %% lost", x.What, x.Mpps, 100*x.Lost)
		}
	}
}

// The table's promises, at a thousandth of the size.
func TestOverload(t *testing.T) {
	r := tiny(t, func(ctx context.Context, j *job) error { return overloadOf(ctx, j, 20_000) })
	if len(r.Checks) != 2 || r.missed() != 0 {
		t.Errorf("%+v\n%+v", r.Checks, r.Figures)
	}
	if f := r.Figures; len(f) < 10 || !slices.ContainsFunc(f, func(f Figure) bool { return f.Name == "crowd/lost" && f.Value > 0 }) {
		t.Errorf("a crowd in which nobody got lost: %+v", f)
	}
}

// A signal makes prog-run begin again; the books hold all the same.
func TestOverloadInterrupted(t *testing.T) {
	end := make(chan struct{})
	var signals sync.WaitGroup
	signals.Go(func() {
		for range 100 { // not for ever: on a slow machine no run might come to its end
			select {
			case <-end:
				return
			case <-time.After(100 * time.Millisecond):
			}
			threads, _ := os.ReadDir("/proc/self/task")
			for _, thread := range threads {
				tid, _ := strconv.Atoi(thread.Name())
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // the runtime's own, to preempt
			}
		}
	})
	r := tiny(t, func(ctx context.Context, j *job) error { return overloadOf(ctx, j, 200_000) })
	close(end)
	signals.Wait()
	if r.missed() != 0 {
		t.Errorf("%+v\n%+v", r.Checks, r.Figures)
	}
}

// The bench starts its own binary as a peer.
func TestMain(m *testing.M) {
	if os.Getenv(peerPort) != "" {
		os.Exit(bePeer(context.Background()))
	}
	if os.Getenv(forwards) != "" {
		os.Exit(beForwarder())
	}
	os.Exit(m.Run())
}

// A director that joins gets what there is, and a peer is told of what comes and
// goes; what that costs is nothing to judge by at this size.
func TestSync(t *testing.T) {
	r := tiny(t, func(ctx context.Context, j *job) error {
		if err := ownNamespace(); err != nil {
			return err
		}
		if err := joinWith(ctx, j, 20_000); err != nil {
			return err
		}
		return churn(ctx, j, 5000, 1)
	})
	names := map[string]float64{}
	for _, f := range r.Figures {
		names[f.Name] = f.Value
	}
	if len(r.Checks) != 1 || names["join/20000"] <= 0 || names["join/20000/read"] <= 0 || names["churn/entries"] < 5000 || names["churn/reading"] <= 0 {
		t.Errorf("%+v\n%+v", r.Checks, r.Figures)
	}
}

const shortRace = million // packets forwarded

func shortHammer(t *testing.T, c contest, of func(int) int) (s sight) {
	t.Helper()
	tiny(t, func(ctx context.Context, _ *job) (err error) {
		if err := ownNamespace(); err != nil {
			return err
		}
		s, err = hammer(ctx, c, of, func(s sight) bool { return s.right+s.wrong > shortRace })
		return err
	})
	return s
}

// Two CPUs in the same few sets: no packet goes to another flow's real.
func TestRace(t *testing.T) {
	for _, c := range contests {
		t.Run("TCP and UDP"+c.what, func(t *testing.T) {
			s := shortHammer(t, c, own)
			if s.wrong != 0 {
				t.Errorf("%d of %d packets were forwarded to another flow's real", s.wrong, s.wrong+s.right)
			}
			if s.cpus != raceCPUs {
				t.Errorf("%d CPUs took part", s.cpus)
			}
			if s.evicted < shortRace/100 {
				t.Errorf("only %d places changed hands: that is no race", s.evicted)
			}
		})
	}
}

// If every client belonged to somebody else, every packet would be wrong.
func TestRaceSeesMisdirection(t *testing.T) {
	for _, c := range contests[:2] {
		s := shortHammer(t, c, func(bucket int) int { return (bucket + 1) % 256 })
		if s.right != 0 || s.wrong < shortRace {
			t.Errorf("%d right, %d wrong%s", s.right, s.wrong, c.what)
		}
	}
}

func TestVerifier(t *testing.T) {
	r := tiny(t, verifier)
	if len(r.Checks) != 4 || !r.Checks[0].OK || !r.Checks[2].OK {
		t.Errorf("%+v", r.Checks)
	}
}

// What the guest says becomes figures and checks; one that it does not say is an error.
func TestInstructions(t *testing.T) {
	said := ""
	for _, line := range []string{
		"empty/back 1000.5", "lvx/dr_in 1400", "ipvs/dr_in 10000", "lvx/nat_in 1500", "ipvs/nat_in 3000", "lvx/nat_out 2000", "ipvs/nat_out 8000",
	} {
		if newReport().addInstructions(said) == nil {
			t.Errorf("no error from %q", said)
		}
		said += "instructions per packet: " + line + "\n"
	}
	r := newReport()
	must(t, r.addInstructions(said))
	if len(r.Figures) != 7 || len(r.Checks) != 3 || !r.Checks[0].OK || r.Checks[1].OK || r.Checks[2].Value != 4 {
		t.Errorf("%+v\n%+v", r.Figures, r.Checks)
	}
}

func TestControl(t *testing.T) {
	r := tiny(t, func(ctx context.Context, j *job) error {
		return controlOf(ctx, j, []scale{{20, 1, 1}}, 5, time.Second)
	})
	names := map[string]float64{}
	for _, f := range r.Figures {
		names[f.Name] = f.Value
	}
	for _, name := range []string{"applied/20", "serving/20", "reload/20", "answered/20", "override/20", "memory/20", "restore/50", "restore-writes/50", "edits/10", "idle/memory"} {
		if names[name] <= 0 {
			t.Errorf("no figure %s in %v", name, names)
		}
	}
}

func TestManyServices(t *testing.T) {
	dir := t.TempDir()
	services := manyServices(500)
	services[7].check, services[7].weights = true, []int{2, 1, 1, 1}
	file := filepath.Join(dir, "lvx.yaml")
	must(t, os.WriteFile(file, configText(services, dir, dir, filepath.Join(dir, "lvx.sock")), 0o600))
	cfg, err := config.Load(file)
	must(t, err)
	if s := cfg.Services[7]; len(cfg.Services) != 500 || s.Reals[0].Weight != 2 || len(s.Checks[0]) != 1 || len(s.Reals) != 4 {
		t.Errorf("%d services; %+v", len(cfg.Services), s)
	}
}

func TestProcFields(t *testing.T) {
	ticks, err := cpuTicks("42 (l v)x) S 1 2 3 4 5 6 7 8 9 10 17 25 0 0")
	if ticks != 42 || err != nil {
		t.Errorf("ticks %d, %v", ticks, err)
	}
	if _, err := cpuTicks("42 (lvx) S 1"); err == nil {
		t.Error("ticks of a cut line")
	}
	kb, err := field("RssAnon:\t  1234 kB\n", "RssAnon:")
	if kb != 1234 || err != nil {
		t.Errorf("RssAnon %d, %v", kb, err)
	}
}

func TestUsage(t *testing.T) {
	var out, notes bytes.Buffer
	if code := run(t.Context(), []string{"nonsense"}, &out, &notes); code != 1 || !strings.Contains(notes.String(), "no such command") {
		t.Errorf("code %d, %s", code, notes.String())
	}
	if code := run(t.Context(), []string{"-h"}, &out, &notes); code != 2 || !strings.Contains(notes.String(), "overload") {
		t.Errorf("code %d, %s", code, notes.String())
	}
}
