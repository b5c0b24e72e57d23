package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The environment of this program when it has started itself to run the packet path:
// a process of its own, as a director's packets are no work of its daemon. In the
// daemon's process a thread in a long system call keeps Go's monitor awake, which would
// count as telling.
const forwards = "LVX_BENCH_FORWARDS"

// forwarder has another process run the packet path of a rig.
type forwarder struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startForwarder starts it in the calling thread's namespace and on its CPU.
func (r *rig) startForwarder() (_ *forwarder, err error) {
	f := &forwarder{cmd: exec.Command("/proc/self/exe")}
	f.cmd.Env = append(os.Environ(), forwards+"=1")
	f.cmd.Stderr = os.Stderr
	for _, of := range []interface{ FD() int }{r.prog, r.raw.Walk, r.raw.Plans, r.raw.Slots} {
		fd, err := unix.FcntlInt(uintptr(of.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("forwarder: %w", err)
		}
		file := os.NewFile(uintptr(fd), "")
		defer file.Close()
		f.cmd.ExtraFiles = append(f.cmd.ExtraFiles, file)
	}
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.out = bufio.NewReader(out)
	if err := f.cmd.Start(); err != nil {
		return nil, fmt.Errorf("forwarder: %w", err)
	}
	return f, nil
}

// send sends a packet of each of n flows, and returns the CPU time that took.
func (f *forwarder) send(flags byte, from, n int) (cpu time.Duration, err error) {
	if _, err := fmt.Fprintln(f.in, flags, from, n); err != nil {
		return 0, fmt.Errorf("forwarder: %w", err)
	}
	if _, err := fmt.Fscanln(f.out, &cpu); err != nil {
		return 0, fmt.Errorf("forwarder: %w", err)
	}
	return cpu, nil
}

func (f *forwarder) stop() error { return errors.Join(f.in.Close(), f.cmd.Wait()) }

// beForwarder is the forwarder's process, until its input ends.
func beForwarder() (status int) {
	if err := forward(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench: forwarder:", err)
		return 1
	}
	return 0
}

func forward(in io.Reader, out io.Writer) (err error) {
	runtime.LockOSThread()
	r := &rig{}
	fd := 3 // the first of ExtraFiles
	for _, into := range []**ebpf.Program{&r.prog, &r.raw.Walk} {
		if *into, err = ebpf.NewProgramFromFD(fd); err != nil {
			return err
		}
		fd++
	}
	for _, into := range []**ebpf.Map{&r.raw.Plans, &r.raw.Slots} {
		if *into, err = ebpf.NewMapFromFD(fd); err != nil {
			return err
		}
		fd++
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var flags byte
		var from, n int
		if _, err := fmt.Sscan(lines.Text(), &flags, &from, &n); err != nil {
			return err
		}
		before := cpuTime()
		if err := r.sendFrom(flags, from, n); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, (cpuTime() - before).Nanoseconds()); err != nil {
			return err
		}
	}
	return lines.Err()
}
