package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// outputLimit is how much of a program's output is kept; the rest is read
// and dropped, so that the program never blocks on a full pipe.
const outputLimit = 4 << 10

// grace is how long a killed program's pipes may stay open: a child that
// left the process group may hold them.
const grace = 500 * time.Millisecond

// path is the PATH of every program that lvx runs.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Program is a command of the operator's: an argument vector, never a shell
// line.
type Program struct {
	Argv  []string            // Argv[0] is an absolute path that passes [Trusted]
	Env   []string            // all of the environment besides PATH, as "NAME=value"
	Input string              // what it can read from its standard input
	As    *syscall.Credential // who runs it; nil = the daemon's own user
}

// Run runs p until it exits or ctx ends, when p's whole process group is
// killed, and waited for no longer than [Bounded] does. It returns what p wrote to both outputs, at most 4 KiB and raw:
// quote it with [Text]. The error is the reason for people: "exit status 3",
// "killed by SIGSEGV", ctx.Err(), or why p was not run.
func (p Program) Run(ctx context.Context) (string, error) {
	if len(p.Argv) == 0 {
		return "", errors.New("empty command")
	}
	return Bounded(ctx, p.Argv[0], func() (string, error) { return p.run(ctx) })
}

func (p Program) run(ctx context.Context) (string, error) {
	file, err := Trusted(p.Argv[0])
	if err != nil {
		return "", err
	}
	var out head
	cmd := exec.CommandContext(ctx, file, p.Argv[1:]...)
	cmd.Args[0] = p.Argv[0]
	cmd.Env = append([]string{path}, p.Env...)
	cmd.Dir = "/"
	if p.Input != "" {
		cmd.Stdin = strings.NewReader(p.Input)
	}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.As}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", p.Argv[0], cause(err))
	}
	err = cmd.Wait()
	// What p left in the background must not pile up, run after run.
	_ = killGroup(cmd.Process.Pid)
	if ctx.Err() != nil {
		return out.String(), ctx.Err()
	}
	return out.String(), exitReason(err)
}

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

// ExitStatus is the error of a program that has ended with a status other
// than 0.
type ExitStatus int

// Error names the status.
func (s ExitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitReason words what os/exec reports. A background child that kept the
// pipes open is the program's own business.
func exitReason(err error) error {
	var exit *exec.ExitError
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return fmt.Errorf("killed by signal %d (%s)", ws.Signal(), ws.Signal())
		}
		return ExitStatus(exit.ExitCode())
	}
	return err
}

// cause takes the operation and the path off an error that names them.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Trusted reports whether nobody but root can have put the program at name
// there: name is an absolute path, and the file it leads to, like every
// directory above it, is owned by root and not writable by anyone else (a
// sticky directory such as /tmp may be). It returns the path without
// symbolic links, which is the one to run.
func Trusted(name string) (string, error) {
	if !filepath.IsAbs(name) {
		return "", fmt.Errorf("%s is not an absolute path", name)
	}
	file, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, cause(err))
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, cause(err))
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not an executable file", name)
	}
	if err := onPath(file); err != nil {
		return "", err
	}
	return file, nil
}

// OnlyRootWrites reports why others than root can change what is in a file:
// nil if they cannot, neither the file nor by a directory above it.
func OnlyRootWrites(name string) error {
	abs, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	file, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	return onPath(file)
}

// onPath reports who else can change a file without symbolic links, or what is
// above it.
func onPath(file string) error {
	for at := file; ; at = filepath.Dir(at) {
		if err := rootOnly(at); err != nil || at == "/" {
			return err
		}
	}
}

// rootOnly reports whether only root can change what is at name.
func rootOnly(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, cause(err))
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return fmt.Errorf("%s is not owned by root (chown root %s)", name, name)
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode()&0o022 != 0 && !sticky {
		return fmt.Errorf("%s is writable by others (chmod go-w %s)", name, name)
	}
	return nil
}

// Unprivileged is the credential of nobody, without any supplementary group.
// It is nil where the daemon itself is not root and can be nobody else.
func Unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	const overflow = 65534 // the kernel's overflowuid, nobody's number everywhere
	c := &syscall.Credential{Uid: overflow, Gid: overflow}
	if u, err := user.Lookup("nobody"); err == nil {
		c.Uid, c.Gid = number(u.Uid, overflow), number(u.Gid, overflow)
	}
	return c
}

func number(s string, otherwise uint32) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return otherwise
	}
	return uint32(n)
}

// head keeps the first outputLimit bytes written to it. os/exec serializes
// its writes, because both outputs are the same writer.
type head struct{ b []byte }

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), outputLimit-len(h.b))]...)
	return len(p), nil
}

func (h *head) String() string { return string(h.b) }
