package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// againstRounds is how often each of the three programs is measured.
const againstRounds = 7

// trio is what one round of three runs found: this revision, another one, and
// this one once more. The third says how much of a difference is noise.
type trio struct{ this, other, again *Report }

// against builds the bench of another revision and lets it and this one, and
// this one once more, take turns with the packet path.
func (j *job) against(ctx context.Context, revision string) (err error) {
	dir, err := os.MkdirTemp("", "lvx-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	this, err := os.Executable()
	if err != nil {
		return err
	}
	other, err := buildRevision(ctx, dir, revision)
	if err != nil {
		return err
	}
	var rounds []trio
	for i := range againstRounds {
		fmt.Fprintf(j.notes, "round %d of %d\n", i+1, againstRounds)
		var found [3]*Report
		for k, program := range []string{this, other, this} {
			if found[k], err = j.runBench(ctx, program, filepath.Join(dir, "report.json")); err != nil {
				return fmt.Errorf("%s: %w", []string{"this revision", revision, "this revision"}[k], err)
			}
		}
		rounds = append(rounds, trio{found[0], found[1], found[2]})
	}
	return printTrios(j.out, revision, rounds)
}

// buildRevision builds the bench of a revision of this repository, in a work
// tree of its own below dir that is removed again.
func buildRevision(ctx context.Context, dir, revision string) (program string, err error) {
	tree := filepath.Join(dir, "tree")
	program = filepath.Join(dir, "bench")
	if err := execute(exec.CommandContext(ctx, "git", "worktree", "add", "--detach", tree, revision)); err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, execute(exec.Command("git", "worktree", "remove", "--force", tree)))
	}()
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, "./bench")
	build.Dir = tree
	return program, execute(build)
}

func execute(c *exec.Cmd) error {
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", c, err, out)
	}
	return nil
}

// runBench measures the packet path by another process. A missed target is no
// failure of that process here: only the figures count.
func (j *job) runBench(ctx context.Context, program, file string) (*Report, error) {
	_ = os.Remove(file)
	c := exec.CommandContext(ctx, program, "--quick", "--only", j.only, "--json", file, "packets")
	out, runErr := c.CombinedOutput()
	r, err := load(file)
	if err != nil {
		return nil, fmt.Errorf("%w (%v: %s)", err, runErr, out)
	}
	return r, nil
}

// relative is a case in units of the floor beside it, so that a machine that
// is slow for a while is slow for both; nanoseconds where no floor is.
func (r *Report) relative(name string) float64 {
	for _, x := range r.Results {
		if x.Name == name {
			if b := r.yardstick(name); b > 0 {
				return x.Median / b
			}
			return x.Median
		}
	}
	return 0
}

// printTrios shows each case that both revisions have: this revision's time
// over the other's, and over that of its identical copy.
func printTrios(w io.Writer, revision string, rounds []trio) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "case\tx %s\tquartiles\tx an identical copy\tquartiles\n", revision)
	for _, x := range rounds[0].this.Results {
		var change, noise []float64
		for _, r := range rounds {
			this, other, again := r.this.relative(x.Name), r.other.relative(x.Name), r.again.relative(x.Name)
			if this > 0 && other > 0 && again > 0 {
				change, noise = append(change, this/other), append(noise, this/again)
			}
		}
		if len(change) == 0 {
			fmt.Fprintf(t, "%s\tnot there\t\t\t\n", x.What)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", x.What, spread(change), spread(noise))
	}
	return t.Flush()
}

// spread is the median of ratios, and their quartiles.
func spread(ratios []float64) string {
	slices.Sort(ratios)
	at := func(share float64) float64 { return ratios[int(share*float64(len(ratios)-1)+0.5)] }
	return fmt.Sprintf("%.3f\t%.3f-%.3f", at(0.5), at(0.25), at(0.75))
}

// compare shows how the cases of two reports differ.
func compare(paths []string, w io.Writer) error {
	if len(paths) != 2 {
		return errors.New("two files, as --json writes them: the old one, the new one")
	}
	before, err := load(paths[0])
	if err != nil {
		return err
	}
	after, err := load(paths[1])
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "case\told\tnew\tnew / old\n")
	for _, x := range after.Results {
		if was, is := before.relative(x.Name), after.relative(x.Name); was > 0 {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.3f\n", x.What, was, is, is/was)
		}
	}
	return t.Flush()
}
