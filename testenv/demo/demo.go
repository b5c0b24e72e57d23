// Package demo plays the scenes that every LVS article plays, on a whole
// cluster in network namespaces: `lvx demo` and the end-to-end tests run it.
//
// It stands on package rig and, like it, knows lvx only from outside.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lvx-lb/lvx/testenv"
)

// Options say how a demo runs.
type Options struct {
	Self   string    // the lvx binary
	Out    io.Writer // where it tells what happens
	Color  bool
	Scenes []string // names of the scenes to play; empty = all
}

// Check is one thing that was to be seen.
type Check struct {
	Scene string
	What  string
	Want  string
	Got   string
	OK    bool
}

// scene is one scenario. Scenes of one stage share its cluster; each begins
// by writing the configuration that it needs.
type scene struct {
	name  string
	title string
	play  func(context.Context, *stage) error
}

// act is a set of scenes that need the same cluster.
type act struct {
	set    func(context.Context, *stage) error
	needs  string // a program that lvx does not bring
	scenes []scene
}

// errFailed is what Run returns when a check did not hold.
var errFailed = errors.New("not every check held")

// Run plays the scenes and prints a table of what was seen. Nothing is left
// behind. The error says that something could not run or did not hold.
func Run(ctx context.Context, o Options) ([]Check, error) {
	if err := testenv.Sweep(); err != nil {
		return nil, err
	}
	started := time.Now()
	var checks []Check
	for _, a := range acts {
		a.scenes = chosen(a.scenes, o.Scenes)
		if len(a.scenes) == 0 {
			continue
		}
		if err := a.canPlay(); err != nil {
			if len(o.Scenes) > 0 {
				return checks, err
			}
			fmt.Fprintf(o.Out, "\nLeft out: %v\n", err)
			continue
		}
		got, err := playAct(ctx, o, a)
		checks = append(checks, got...)
		if err != nil {
			return checks, err
		}
	}
	return checks, summary(o, checks, time.Since(started))
}

// canPlay reports, as an error, what an act needs that is not on this host.
func (a act) canPlay() error {
	if a.needs == "" {
		return nil
	}
	if _, err := exec.LookPath(a.needs); err != nil {
		return fmt.Errorf("scene %s needs %s (Debian: apt install bird2)", a.scenes[0].name, a.needs)
	}
	return nil
}

func chosen(all []scene, names []string) []scene {
	if len(names) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(s scene) bool { return !slices.Contains(names, s.name) })
}

// Scenes lists the names of all scenes.
func Scenes() []string {
	var names []string
	for _, a := range acts {
		for _, s := range a.scenes {
			names = append(names, s.name)
		}
	}
	return names
}

func playAct(ctx context.Context, o Options, a act) (checks []Check, err error) {
	st := &stage{o: o}
	defer func() {
		err = errors.Join(err, st.close())
		checks = st.checks
	}()
	if err := a.set(ctx, st); err != nil {
		return nil, err
	}
	for _, s := range a.scenes {
		st.scene = s.name
		st.title(s.title)
		if err := s.play(ctx, st); err != nil {
			return nil, fmt.Errorf("scene %s: %w%s", s.name, err, st.evidence())
		}
	}
	return nil, nil
}

func summary(o Options, checks []Check, took time.Duration) error {
	w := tabwriter.NewWriter(o.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nscene\tcheck\tseen\tresult\n")
	bad := 0
	for _, c := range checks {
		result := "ok"
		if !c.OK {
			result = "FAILED, want " + c.Want
			bad++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Scene, c.What, short(c.Got), result)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "\n%d of %d checks ok, %.0f s\n", len(checks)-bad, len(checks), took.Seconds())
	if bad > 0 {
		return errFailed
	}
	return nil
}

func short(s string) string {
	if s = strings.TrimSpace(s); len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
