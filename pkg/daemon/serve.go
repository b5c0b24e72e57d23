package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/progress"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Next is what follows a daemon in the same process: another configuration, or
// another binary.
type Next struct {
	Config *config.Config
	Binary string

	text     []byte            // of Config, if it is known
	fellBack *warnings.Warning // native mode was given up, and why
}

func (n Next) isNone() bool { return n.Config == nil && n.Binary == "" }

// Serve runs daemons, one after the other, until ctx ends or one fails: a
// reload that changes what a daemon is made of starts another one in its place,
// which adopts what the first one left. If that does not start, the first one's
// configuration is in force again. A binary that is returned is to be executed
// in this process's place.
func Serve(ctx context.Context, o Options) (binary string, err error) {
	var before director.File // that a daemon has served with
	if o.Text != nil {
		o.source = o.Text()
	}
	for {
		d, err := New(ctx, o)
		if err == nil {
			err = d.Run(ctx)
			d.takeLatest()
		}
		switch {
		case err == nil && ctx.Err() != nil:
			return "", nil
		case err == nil && d.follower.Binary != "":
			return d.follower.Binary, nil
		case err == nil && d.follower.Config != nil:
			before = director.File{Config: o.Config, Text: o.source}
			o.Config, o.source, o.refused = d.follower.Config, d.follower.text, nil
			if d.follower.fellBack != nil {
				o.fellBack = d.follower.fellBack
			}
		case before.Config != nil && ctx.Err() == nil:
			o.Log.Error("the new configuration does not start, the old one goes on", "err", err)
			o.refused = fmt.Errorf("the daemon did not start with it: %w", err)
			o.Config, o.source, before = before.Config, before.Text, director.File{}
		default:
			return "", err
		}
	}
}

// nextRouters are the virtual routers of what follows this daemon, as far as this
// daemon knows: a binary, and what systemd starts, read the file themselves.
func (d *Daemon) nextRouters() []vrrp.Instance {
	if next := d.follower.Config; next != nil {
		return next.VRRP
	}
	return d.director.Config().VRRP
}

// startAnew makes another configuration follow this daemon, in place of one that
// was to. A binary reads the file itself.
func (d *Daemon) startAnew(file director.File) {
	next := Next{Config: file.Config, text: file.Text}
	select {
	case waiting := <-d.next:
		next.fellBack = waiting.fellBack
		if waiting.Binary != "" {
			next = waiting
		}
	default:
	}
	select {
	case d.next <- next:
	default: // a binary has come in between
	}
}

// takeLatest lets what was to follow since the end began follow instead.
func (d *Daemon) takeLatest() {
	select {
	case latest := <-d.next:
		if d.follower.Binary != "" {
			return
		}
		if latest.fellBack == nil {
			latest.fellBack = d.follower.fellBack
		}
		d.follower = latest
	default:
	}
}

// Bounds of a rehearsal, of which none goes by the clock as long as it makes
// progress: on a loaded machine the kernel's verifier takes its time.
const (
	rehearsalIdle   = time.Minute // without progress
	rehearsalWork   = 60          // seconds of processor time
	rehearsalOutput = 64 << 10    // bytes that are kept
)

// Rehearsed is what a binary prints once it has done everything that a start
// does and that needs no ownership: reading the file, asking the kernel's
// verifier.
const Rehearsed = "lvx is ready to serve"

// upgrade lets a binary rehearse the start and makes it follow this daemon.
func (d *Daemon) upgrade(ctx context.Context, binary string) (director.Result, error) {
	file, err := guard.Trusted(binary)
	if err != nil {
		return director.Result{}, fmt.Errorf("upgrade: %w", err)
	}
	if err := rehearse(ctx, file); err != nil {
		return director.Result{}, fmt.Errorf("upgrade: %s does not come up, nothing has changed: %w", guard.Text(binary), err)
	}
	select {
	case d.next <- Next{Binary: file}:
	default:
		return director.Result{}, errors.New("upgrade: lvx is starting anew already (try again)")
	}
	d.history.Add(history.Event{Kind: history.Operator, Subject: "lvx", Text: "upgrade to " + file})
	return director.Result{Did: []string{file + " takes over"}, Renews: true}, nil
}

// rehearse runs a binary with this process's arguments as if it were to serve.
func rehearse(ctx context.Context, file string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, file, append(os.Args[1:], "--rehearse")...)
	out := &head{left: rehearsalOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // a child of its own may keep the pipe open
	if err := cmd.Start(); err != nil {
		return err
	}
	most := unix.Rlimit{Cur: rehearsalWork, Max: rehearsalWork}
	_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CPU, &most, nil) // if it has ended already, it needs none
	stop := progress.Watch(cmd.Process.Pid, rehearsalIdle, func(err error) {
		if errors.Is(err, progress.ErrIdle) {
			cancel(err)
		}
	})
	err := cmd.Wait()
	stop()
	if why := context.Cause(ctx); why != nil {
		err = why
	}
	text := guard.Text(strings.TrimSpace(out.String()))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s", err, text)
	case !strings.Contains(out.String(), Rehearsed):
		return fmt.Errorf("it says %q", text)
	}
	return nil
}

// head keeps the begin of what is written to it.
type head struct {
	strings.Builder
	left int
}

// Write implements [io.Writer].
func (h *head) Write(p []byte) (int, error) {
	n := min(h.left, len(p))
	h.left -= n
	_, _ = h.Builder.Write(p[:n])
	return len(p), nil
}
