package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strconv"
	"sync"
	"time"
)

// A guest has four serial lines: the kernel's console, the program's output,
// its exit code, and a tar of /out.
const lines = 4

// boot runs qemu to its end. The lines are pipes, so that output streams and
// nothing is left on disk.
func boot(ctx context.Context, k kernel, initrd string, o Options) (Result, error) {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", qemuArgs(k, initrd, o)...)
	var bufs [lines]bytes.Buffer
	var readers sync.WaitGroup
	for i := range lines {
		r, w, err := os.Pipe()
		if err != nil {
			return Result{}, err
		}
		defer r.Close()
		defer w.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
		var dst io.Writer = &bufs[i]
		if i == 1 {
			dst = io.MultiWriter(dst, o.Stdout)
		}
		readers.Go(func() { _, _ = io.Copy(dst, r) })
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("qemu: %w", err)
	}
	for _, w := range cmd.ExtraFiles {
		w.Close()
	}
	runErr := cmd.Wait()
	readers.Wait()

	res, err := result(&bufs[0], &bufs[1], &bufs[2], &bufs[3])
	res.Took = time.Since(start)
	switch {
	case ctx.Err() != nil:
		return res, fmt.Errorf("%w (after %s; console: %s)", context.Cause(ctx), res.Took.Round(time.Second), tail(res.Console, 400))
	case runErr != nil:
		return res, fmt.Errorf("qemu: %w: %s", runErr, tail(stderr.String(), 400))
	case err != nil:
		return res, fmt.Errorf("%w (console: %s)", err, tail(res.Console, 2000))
	}
	return res, nil
}

func qemuArgs(k kernel, initrd string, o Options) []string {
	args := []string{
		"-cpu", "max", "-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.Memory),
		"-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot", "-no-user-config",
		"-kernel", k.image(), "-initrd", initrd,
		// oops=panic: a kernel that stumbled must not pass a test.
		"-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check",
	}
	if o.Icount {
		args = append(args, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-rtc", "clock=vm")
	} else {
		args = append(args, "-accel", "tcg,thread=multi")
	}
	for i := range 2 * o.Cables {
		args = append(args,
			"-netdev", fmt.Sprintf("hubport,id=net%d,hubid=%d", i, i/2),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=02:00:00:00:ca:%02x", i, i))
	}
	for i := range lines {
		// ExtraFiles start at 3; opening /dev/fd/N of a pipe gives its write end.
		args = append(args,
			"-chardev", fmt.Sprintf("file,id=line%d,path=/dev/fd/%d", i, 3+i),
			"-serial", fmt.Sprintf("chardev:line%d", i))
	}
	return args
}

// untar reads the regular files of /out.
func untar(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("files from the guest: %w", err)
		}
		if h.FileInfo().Mode()&fs.ModeType != 0 {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return files, fmt.Errorf("file %s from the guest: %w", h.Name, err)
		}
		files[path.Clean(h.Name)] = data
	}
}

// tail is the last n bytes of s.
func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}
