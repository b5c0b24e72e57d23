package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// lane is one thing that is measured: frames to a program.
type lane struct {
	name string
	what string // one line for people
	prog func(*rig) *ebpf.Program
	traffic
	packets int              // in one chunk
	same    bool             // every chunk sends the same, a sequence from its start
	before  func(*rig) error // before each chunk, not measured
	verdict bpf.Verdict      // where lvx must have put every packet
	cpus    int              // how many send at once, each by its own plan; 0: one, by the only plan
	isGross bool             // the generator's time alone, in front of a program that returns at once
}

// Where lanes send frames to.
func lvx(r *rig) *ebpf.Program       { return r.prog }
func floorA(r *rig) *ebpf.Program    { return r.raw.FloorA }
func floorB(r *rig) *ebpf.Program    { return r.raw.FloorB }
func floorB6(r *rig) *ebpf.Program   { return r.raw.FloorB6 }
func storeLRU(r *rig) *ebpf.Program  { return r.raw.StoreLru }
func storeLRU6(r *rig) *ebpf.Program { return r.raw.StoreLru6 }

// Result is one lane's nanoseconds per packet, the baseline subtracted.
type Result struct {
	Name   string  `json:"name"`
	What   string  `json:"what"`
	Median float64 `json:"median_ns"`
	Low    float64 `json:"low_ns"`  // first quartile of the chunks
	High   float64 `json:"high_ns"` // third quartile
	Chunks int     `json:"chunks"`
}

// measure runs the lanes in turn, round by round, so that what disturbs the
// machine disturbs all of them. Each chunk stands next to one of the same
// frames to a program that returns at once, which is subtracted.
func (r *rig) measure(progress io.Writer, lanes []lane, rounds int) ([]Result, error) {
	samples := make([][]float64, len(lanes))
	for round := range rounds {
		for i := range lanes {
			l := &lanes[i]
			net, counts, err := r.chunk(l)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			if counts && (round > 0 || rounds == 1) { // the first one warms up
				samples[i] = append(samples[i], net)
			}
		}
		fmt.Fprint(progress, ".")
	}
	fmt.Fprintln(progress)
	var results []Result
	for i, l := range lanes {
		if len(samples[i]) == 0 { // the machine had no two CPUs free
			fmt.Fprintf(progress, "   %s: could not be measured\n", l.what)
			continue
		}
		found := summarize(samples[i])
		found.Name, found.What = l.name, l.what
		results = append(results, found)
	}
	return results, nil
}

// send sends a chunk of the lane's packets. counts reports whether the chunk
// was sent without a break, where that matters.
func (r *rig) send(l *lane, target *ebpf.Program, t *traffic) (took time.Duration, counts bool, err error) {
	if l.cpus > 0 {
		return r.runInPieces(target, t, l.packets, l.cpus > 1)
	}
	took, _, err = r.run(target, t, l.packets)
	return took, true, err
}

// chunk measures one lane once.
func (r *rig) chunk(l *lane) (net float64, counts bool, err error) {
	if l.before != nil {
		if err := l.before(r); err != nil {
			return 0, false, err
		}
	}
	idle := l.traffic
	base, counts, err := r.send(l, r.raw.AnswerTx, &idle)
	if err != nil || l.isGross {
		return float64(base) / float64(l.packets), counts, err
	}
	target := l.prog(r)
	before := r.verdicts()
	hits, err := r.hits()
	if err != nil {
		return 0, false, err
	}
	t := &l.traffic
	if l.same {
		c := l.traffic
		t = &c
	}
	took, alsoCounts, err := r.send(l, target, t)
	if err != nil {
		return 0, false, err
	}
	switch target {
	case r.prog:
		err = r.allWere(l.verdict, before, l.packets)
	case r.raw.FloorB, r.raw.FloorB6:
		err = r.allHit(hits, l.packets)
	}
	return float64(took-base) / float64(l.packets), counts && alsoCounts, err
}

// verdicts reads the packet path's own count of what it decided.
func (r *rig) verdicts() (n [bpf.Verdicts]uint64) {
	for v := range bpf.Verdicts {
		n[v] = r.dp.CountOf(v)
	}
	return n
}

// allWere proves that a chunk was what it was meant to be. One in ten thousand
// may be something else: a table that is fuller than its stated capacity
// evicts.
func (r *rig) allWere(v bpf.Verdict, before [bpf.Verdicts]uint64, packets int) error {
	after := r.verdicts()
	for i := range after {
		after[i] -= before[i]
	}
	if after[v] < uint64(packets-packets/10_000) { // more: a run that a signal interrupts is repeated
		return fmt.Errorf("%d of %d packets ended as expected (verdict %d); all verdicts: %v", after[v], packets, v, after)
	}
	return nil
}

// hits is how many packets floor B has found a flow for.
func (r *rig) hits() (uint64, error) {
	n := uint64(0)
	for i := range uint32(2) {
		var per []RawCount
		if err := r.raw.Counts.Lookup(i, &per); err != nil {
			return 0, fmt.Errorf("floor B's counters: %w", err)
		}
		for _, c := range per {
			n += c.Packets
		}
	}
	return n, nil
}

func (r *rig) allHit(before uint64, packets int) error {
	after, err := r.hits()
	if err == nil && after-before < uint64(packets) {
		err = fmt.Errorf("only %d of %d packets found a flow", after-before, packets)
	}
	return err
}

func summarize(s []float64) Result {
	slices.Sort(s)
	return Result{
		Median: quantile(s, 0.5), Low: quantile(s, 0.25), High: quantile(s, 0.75), Chunks: len(s),
	}
}

// quantile interpolates in sorted samples.
func quantile(s []float64, q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}
