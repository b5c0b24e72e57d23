// Command vmrun runs a program on Debian's cloud kernel under qemu and exits
// with its exit code. Static programs of this machine run as they are,
// dynamic ones bring their libraries:
//
//	go run ./testenv/vm/vmrun -module ip_vs -tool ipvsadm -- ipvsadm -L -n
//	go run ./testenv/vm/vmrun -icount -- ./ipvs.test -test.v
//
// It is the command line of package vm and refuses to be more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/lvx-lb/lvx/testenv/vm"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is main with an exit code: the program's, 125 if the guest failed, 2
// for wrong usage.
func run(args []string) int {
	o, out, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmrun:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	res, err := vm.Run(ctx, o)
	if err == nil {
		err = save(out, res.Files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmrun:", err)
		return 125
	}
	fmt.Fprintf(os.Stderr, "vmrun: exit code %d after %.1f s\n", res.Code, res.Took.Seconds())
	return res.Code
}

func parse(args []string) (o vm.Options, out string, err error) {
	o = vm.Options{Files: map[string]string{}, Stdout: os.Stdout, Log: os.Stderr}
	fl := flag.NewFlagSet("vmrun", flag.ContinueOnError)
	fl.BoolVar(&o.Icount, "icount", false, "count instructions as time: repeatable, and sleeping costs nothing")
	fl.IntVar(&o.Memory, "mem", vm.DefaultMemory, "memory in `MiB`")
	fl.IntVar(&o.CPUs, "cpus", 2, "processors")
	fl.DurationVar(&o.Timeout, "timeout", vm.DefaultTimeout, "end of the whole run")
	fl.StringVar(&out, "out", "", "`directory` for what the program leaves in /out")
	fl.Func("file", "`GUEST=HOST`: put a file or directory into the guest", func(s string) error {
		guest, host, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("expected GUEST=HOST")
		}
		o.Files[guest] = host
		return nil
	})
	fl.Func("tool", "`command` of this host that the guest should have", func(s string) error {
		o.Tools = append(o.Tools, s)
		return nil
	})
	fl.Func("module", "kernel `module` to load first", func(s string) error {
		o.Modules = append(o.Modules, s)
		return nil
	})
	if err := fl.Parse(args); err != nil {
		return o, out, err
	}
	if fl.NArg() == 0 {
		return o, out, errors.New("no program (usage: vmrun [flags] -- PROGRAM [arguments])")
	}
	o.Argv = fl.Args()
	// A path names a file of the host; a bare word is a command in the guest.
	if strings.Contains(o.Argv[0], "/") {
		name := filepath.Base(o.Argv[0])
		o.Files[name] = o.Argv[0]
		o.Argv[0] = "./" + name
	}
	return o, out, nil
}

// save writes what the guest left in /out below dir.
func save(dir string, files map[string][]byte) error {
	if dir == "" {
		return nil
	}
	for name, data := range files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("guest file %q is outside of /out", name)
		}
		target := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
