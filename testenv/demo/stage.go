package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// stage is a rig with an audience.
type stage struct {
	*rig.Rig
	o      Options
	scene  string
	checks []Check
}

const vip = rig.VIP

func (s *stage) close() error {
	if s.Rig == nil {
		return nil
	}
	return s.Rig.Close()
}

// build makes the cluster.
func (s *stage) build(ctx context.Context, shape testenv.Shape) (err error) {
	s.Rig, err = rig.New(ctx, s.o.Self, shape)
	return err
}

// title and say tell the audience what happens.
func (s *stage) title(text string) {
	if s.o.Color {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Fprintf(s.o.Out, "\n== %s\n", text)
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.o.Out, "   "+format+"\n", args...)
}

// check notes what was seen beside what was to be seen.
func (s *stage) check(what, got, want string) {
	s.verify(what, got, want, got == want)
}

func (s *stage) verify(what, got, want string, ok bool) {
	s.checks = append(s.checks, Check{Scene: s.scene, What: what, Want: want, Got: got, OK: ok})
	mark := "ok"
	if !ok {
		mark = "FAILED: want " + want
	}
	s.say("%s: %s  [%s]", what, got, mark)
}

// evidence is what the daemons said, for a scene that broke off.
func (s *stage) evidence() string {
	if s.Rig == nil {
		return ""
	}
	return s.Logs()
}

// list shows a director's table to the audience.
func (s *stage) list(ctx context.Context, name string) error {
	out, err := s.LVX(ctx, name, "list", "-n")
	for l := range strings.SplitSeq(strings.TrimRight(out, "\n"), "\n") {
		s.say("%s", l)
	}
	return err
}
