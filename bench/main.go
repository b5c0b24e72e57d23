// Command bench measures the packet path and what surrounds it against
// yardsticks of its own, in one run, so that the figures can be compared.
//
// It sends no packet anywhere but into namespaces that it makes and over
// loopback, and changes
// nothing of a running lvx. It does not judge a machine: absolute times are
// printed for the reader who runs it, ratios are what it checks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// job is what a command works with.
type job struct {
	quick  bool
	only   string // parts of groups' names, with commas between them
	rounds int    // of each group of lanes; 0: as many as the command takes
	json   string
	out    io.Writer // the tables
	notes  io.Writer // progress
	report *Report
}

// singleEdits names the command that takes longer than the others together.
const singleEdits = "edits"

// commands are measured in this order by "all".
var commands = []struct {
	name, what string
	run        func(context.Context, *job) error
}{
	{"packets", "nanoseconds per packet, by prog-run", packets},
	{"veth", "packets per second through namespaces, native XDP, one core", veth},
	{"control", "the daemon: from the file to the tables, a change, memory, idling", control},
	{"overload", "five times as many flows as the table is made for", overload},
	{"sync", "connection sync: a director joins, and a peer is told of what comes and goes", connections},
	{"race", "two CPUs in the same sets: does every packet go to its flow's real?", race},
	{"verifier", "what the verifier has to do, here and on an older kernel", verifier},
	{"instructions", "instructions per packet in a guest, lvx's and those of kernel IPVS", instructions},
	{singleEdits, "12,700 rules of ipvsadm by one -R and by as many commands: minutes, not part of all", edits},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if os.Getenv(peerPort) != "" {
		os.Exit(bePeer(ctx))
	}
	if os.Getenv(forwards) != "" {
		os.Exit(beForwarder())
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: bench [--quick] [--only PART[,PART...]] [--rounds N] [--json FILE] COMMAND...\n       bench --against REVISION [--only PART]\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.what)
	}
	fmt.Fprintf(w, "  %-12s %s\n", "all", "all of these")
	fmt.Fprintf(w, "  %-12s %s\n", "chart FILE", "what --json wrote, as an SVG drawing")
	fmt.Fprintf(w, "  %-12s %s\n", "table FILE...", "the targets, as a table in Markdown; of several runs the median")
	fmt.Fprintf(w, "  %-12s %s\n", "compare OLD NEW", "two such files, case by case")
	fmt.Fprint(w, "\nNeeds root. Exit status 1 if a target is missed.\n")
}

func run(ctx context.Context, args []string, out, notes io.Writer) int {
	j := &job{out: out, notes: notes, report: newReport()}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(notes)
	f.Usage = func() { usage(notes) }
	f.BoolVar(&j.quick, "quick", false, "less than a minute, less certain")
	f.StringVar(&j.only, "only", "", "only groups whose name contains this, or one of these with commas between them")
	f.IntVar(&j.rounds, "rounds", 0, "so many rounds of each group, of which the first warms up: a run between --quick and a whole one")
	f.StringVar(&j.json, "json", "", "write the figures to a file")
	revision := f.String("against", "", "let the packet path of another revision and this one's take turns")
	if f.Parse(args) != nil {
		return 2
	}
	names := f.Args()
	if *revision != "" {
		return j.exit("--against "+*revision, j.against(ctx, *revision))
	}
	if len(names) == 0 {
		names = []string{"packets"}
	}
	if names[0] == "compare" {
		return j.exit("compare", compare(names[1:], out))
	}
	if as, ok := writers[names[0]]; ok {
		return j.exit(names[0], rewrite(as, names[1:], out))
	}
	for _, name := range expand(names) {
		if err := j.do(ctx, name); err != nil {
			fmt.Fprintf(notes, "bench %s: %v\n", name, err)
			return 1
		}
	}
	return j.finish()
}

// exit is the exit status of a command, whose failure it says.
func (j *job) exit(name string, err error) int {
	if err != nil {
		fmt.Fprintf(j.notes, "bench %s: %v\n", name, err)
		return 1
	}
	return 0
}

// expand writes "all" out.
func expand(names []string) []string {
	if !slices.Contains(names, "all") {
		return names
	}
	var every []string
	for _, c := range commands {
		if c.name != singleEdits {
			every = append(every, c.name)
		}
	}
	return every
}

// do runs a command on a goroutine of its own: it moves to another namespace,
// and its thread ends with it.
func (j *job) do(ctx context.Context, name string) error {
	for _, c := range commands {
		if c.name == name {
			done := make(chan error)
			go func() { done <- c.run(ctx, j) }()
			return <-done
		}
	}
	return errors.New("no such command (see bench -h)")
}

func (j *job) finish() int {
	if err := j.report.print(j.out); err != nil {
		fmt.Fprintln(j.notes, err)
		return 1
	}
	if j.json != "" {
		if err := j.report.save(filepath.Clean(j.json)); err != nil {
			fmt.Fprintln(j.notes, err)
			return 1
		}
	}
	if n := j.report.missed(); n > 0 {
		fmt.Fprintf(j.notes, "%d of %d targets missed\n", n, len(j.report.Checks))
		return 1
	}
	return 0
}

// packets measures every group.
func packets(ctx context.Context, j *job) error {
	if err := ownNamespace(); err != nil {
		return err
	}
	rounds, groups, groups6 := 21, small(200_000), small6(200_000)
	if j.quick {
		rounds, groups, groups6 = 3, brief(100_000), small6(100_000)
	}
	if j.rounds > 0 {
		rounds = j.rounds
	}
	size := rigOptions{flows: million, templates: million, hash: million, lru: million}
	if err := j.measureAll(ctx, size, groups, rounds); err != nil {
		return err
	}
	size6 := rigOptions{flows: million, templates: 1000, ipv6: true, hash: million, lru: million}
	if err := j.measureAll(ctx, size6, groups6, rounds); err != nil {
		return err
	}
	if !j.quick {
		size = rigOptions{flows: 10 * million, templates: 1000, hash: 10 * million}
		if err := j.measureAll(ctx, size, manyFlows(10*million, "10M", 400_000), rounds); err != nil {
			return err
		}
		size.ipv6 = true
		if err := j.measureAll(ctx, size, manyFlows6(10*million, "10M", 400_000), rounds); err != nil {
			return err
		}
	}
	j.report.Checks = append(j.report.Checks, checks(j.report.Results)...)
	return nil
}

// wants reports whether a group is to be measured. A comma before a space is one
// of a group's name.
func (j *job) wants(group string) bool {
	for rest, more := j.only, true; more; {
		var part string
		if part, rest, more = cutPart(rest); strings.Contains(group, part) {
			return true
		}
	}
	return false
}

// cutPart cuts a list of parts behind its first.
func cutPart(list string) (part, rest string, more bool) {
	for i := range len(list) {
		if list[i] == ',' && !strings.HasPrefix(list[i+1:], " ") {
			return list[:i], list[i+1:], true
		}
	}
	return list, "", false
}

func (j *job) measureAll(ctx context.Context, size rigOptions, gs []group, rounds int) (err error) {
	var r *rig
	for i, g := range gs {
		if !j.wants(g.name) {
			continue
		}
		if r == nil {
			if r, err = newRig(size); err != nil {
				return err
			}
			defer func() {
				if e := r.close(); err == nil {
					err = e
				}
			}()
			if err := j.noteMemory(r, size); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(j.notes, "%2d/%d %-32s ", i+1, len(gs), g.name)
		if err := r.apply(g.state); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		if g.prepare != nil {
			if err := g.prepare(r); err != nil {
				return fmt.Errorf("%s: %w", g.name, err)
			}
		}
		found, err := r.measure(j.notes, g.lanes, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		j.report.Results = append(j.report.Results, found...)
	}
	return nil
}
