// Package vm runs programs on another kernel: it boots Debian's cloud kernel
// under qemu from an initramfs made of the caller's files, runs one script in
// it as root, and brings back what it printed, the files it left in /out and
// its exit code. lvx needs it because kernel IPVS, the judge of its own
// semantics, is not in every kernel that runs the tests.
//
// It refuses to be a machine manager: nothing survives a run, nothing of the
// host is visible inside, there is no network between the two, and the guest
// is always x86-64 under TCG, so that the same run gives the same result on
// every host. The one trap: emulated code is 10 to 30 times slower than the
// host's, so give deadlines inside the guest generously or use
// [Options.Icount], under which a sleeping guest costs nothing.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Defaults of [Options]. The timeout ends a guest that hangs, which is emulated and
// may be one of several on a busy host; it is below that of a package's tests, so that
// what the guest printed is seen.
const (
	DefaultTimeout = 40 * time.Minute
	DefaultMemory  = 512 // MiB
)

// Options say what to run and what the guest has.
type Options struct {
	// Argv is the program to run, in /t, with its arguments. A program of
	// Files by its guest path, or a command that the guest has.
	Argv []string

	// Script is run by bash in place of Argv, if it is not empty.
	Script string

	// Files are put into the guest: guest path to host path. A directory is
	// copied with everything below it; a relative guest path is below /t.
	// Dynamic executables bring their shared libraries.
	Files map[string]string

	// Tools are commands of the host that the guest should have, by name
	// ("ipvsadm", "ip", "nft"). Missing ones are installed on the host
	// first, where the Debian package is known.
	Tools []string

	// Modules are loaded before the program runs, after their dependencies.
	// Every networking module of the kernel is there to be loaded by
	// modprobe or by the kernel itself in any case.
	Modules []string

	// Cables are pairs of virtio NICs, the ends of each pair connected: eth0
	// with eth1, eth2 with eth3. Their driver is virtio_net.
	Cables int

	// Timeout ends the whole run; 0 is [DefaultTimeout].
	Timeout time.Duration

	// Memory of the guest in MiB; 0 is [DefaultMemory].
	Memory int

	// CPUs of the guest; 0 is 2. Icount makes it 1.
	CPUs int

	// Icount lets the guest's clock count instructions, one per nanosecond,
	// and jump while the guest sleeps: runs repeat exactly, and an idle
	// hour passes in a moment.
	Icount bool

	// Stdout receives what the program prints while it runs, next to
	// [Result.Output]; nil for none.
	Stdout io.Writer

	// Log receives one line for every slow step of the preparation (package
	// installation, download); nil for none.
	Log io.Writer
}

// Result is what a run brought back.
type Result struct {
	Code    int               // the program's exit code; 128 + n for signal n
	Output  []byte            // its stdout and stderr, as written
	Console string            // what the guest's kernel said: warnings and worse
	Files   map[string][]byte // regular files that it left under /out, by relative path
	Took    time.Duration     // from the start of qemu to its end
}

// Errors of [Run] that a caller may want to tell apart.
var (
	ErrTimeout = errors.New("guest ran out of time")
	ErrDied    = errors.New("guest ended without an exit code")
)

// Run prepares the host, boots a guest and runs the program. A program that
// fails is not an error: see [Result.Code]. On [ErrTimeout] and [ErrDied] the
// result holds whatever arrived until then.
func Run(ctx context.Context, o Options) (Result, error) {
	o = o.withDefaults()
	if o.Script == "" && len(o.Argv) == 0 {
		return Result{}, errors.New("nothing to run (give Argv or Script)")
	}
	if err := provide(ctx, o.Log, append([]string{"qemu-system-x86_64", "busybox", "bash", "dpkg-deb"}, o.Tools...)); err != nil {
		return Result{}, err
	}
	k, err := findKernel(ctx, o.Log)
	if err != nil {
		return Result{}, err
	}
	dir, err := os.MkdirTemp("", "lvx-vm-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)

	initrd := filepath.Join(dir, "initrd")
	if err := writeInitramfs(ctx, initrd, k, o); err != nil {
		return Result{}, fmt.Errorf("initramfs: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, ErrTimeout)
	defer cancel()
	return boot(ctx, k, initrd, o)
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Icount {
		o.CPUs = 1
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

// script is what the guest runs after it has booted.
func (o Options) script() string {
	if o.Script != "" {
		return o.Script
	}
	words := make([]string, len(o.Argv))
	for i, w := range o.Argv {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return "exec " + strings.Join(words, " ") + "\n"
}

// result reads what the guest sent on its serial lines.
func result(console, output, code, files *bytes.Buffer) (Result, error) {
	res := Result{Output: output.Bytes(), Console: printable(console.String())}
	n, err := fmt.Sscan(code.String(), &res.Code)
	if n != 1 || err != nil {
		return res, ErrDied
	}
	res.Files, err = untar(files)
	return res, err
}

// printable drops the terminal controls that firmware and kernel emit.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r != 0x7f && r != 0xfffd {
			return r
		}
		return -1
	}, s)
}
