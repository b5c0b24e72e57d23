package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Grace is how long a process may take to end after SIGTERM before
// [Process.Stop] kills it.
const Grace = 10 * time.Second

// Process is a program that runs on a [Host], in a process group of its own.
// It dies with the process that started it.
type Process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
	err  error // of Wait, once done is closed
}

// Run runs a program on the host and returns what it wrote to stdout. The
// error of a program that ends with a failure has the end of what it wrote to
// stderr, and wraps [exec.ExitError].
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := h.spawn(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return stdout.String(), fmt.Errorf("%s: %s: %w%s", h.Name, strings.Join(argv, " "), err, tail(stderr.String()))
	}
	return stdout.String(), nil
}

// Start starts a program on the host. What it writes to stdout and stderr is
// kept for [Process.Output].
func (h *Host) Start(argv ...string) (*Process, error) {
	return h.StartCmd(exec.Command(argv[0], argv[1:]...))
}

// StartCmd starts a prepared command on the host: with an environment, a
// directory or outputs of its own. Outputs that are set are left alone.
func (h *Host) StartCmd(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.out
	}
	cmd.WaitDelay = time.Second // grandchildren may hold the output open
	if err := h.spawn(cmd); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	h.mu.Lock()
	h.procs = append(h.procs, p)
	h.mu.Unlock()
	return p, nil
}

// spawn starts cmd in the host's namespace.
func (h *Host) spawn(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := h.onThread(cmd.Start); err != nil {
		return fmt.Errorf("%s: start %s: %w", h.Name, cmd.Path, err)
	}
	return nil
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process alone.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the process and its group at once, as kill -9 does, and waits.
func (p *Process) Kill() {
	select {
	case <-p.done: // the number may be somebody else's by now
	default:
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
		<-p.done
	}
}

// Stop asks the process to end (SIGTERM), waits up to [Grace], then kills it
// and its group. It returns the process's own error, or one that says that it
// had to be killed.
func (p *Process) Stop() error {
	_ = p.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return p.err
	case <-time.After(Grace):
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM%s", p.cmd.Path, Grace, tail(p.Output()))
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to end and returns its error, like
// [exec.Cmd.Wait].
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Output is what the process wrote so far, stdout and stderr together.
func (p *Process) Output() string { return p.out.String() }

// WaitOutput waits until the process has written text. It fails when the
// process ends or ctx does.
func (p *Process) WaitOutput(ctx context.Context, text string) error {
	return Poll(ctx, func() error {
		if strings.Contains(p.Output(), text) {
			return nil
		}
		err := fmt.Errorf("%s: no %q in its output%s", p.cmd.Path, text, tail(p.Output()))
		select {
		case <-p.done:
			return Final(fmt.Errorf("%w (it has ended: %v)", err, p.err))
		default:
			return err
		}
	})
}

// stopAll stops processes at the same time.
func stopAll(procs []*Process) {
	var wg sync.WaitGroup
	for _, p := range procs {
		wg.Go(func() { _ = p.Stop() })
	}
	wg.Wait()
}

// tail is the end of a program's output as a part of an error text.
func tail(s string) string {
	const most = 2000
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	if len(s) > most {
		s = "..." + s[len(s)-most:]
	}
	return "\n" + s
}

// lockedBuffer is a buffer that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// final marks an error that [Poll] does not try again after.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// Final makes [Poll] give up with err.
func Final(err error) error { return final{err} }

// Poll calls f until it returns nil, every few milliseconds at first and
// then more slowly. When ctx ends it returns f's last error.
func Poll(ctx context.Context, f func() error) error {
	pause := 5 * time.Millisecond
	for {
		err := f()
		var stop final
		if err == nil || errors.As(err, &stop) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", err, ctx.Err())
		case <-time.After(pause):
			pause = min(pause*3/2, 100*time.Millisecond)
		}
	}
}
