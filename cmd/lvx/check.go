package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/daemon"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newCheckCmd() *cobra.Command {
	var path string
	var cpus uint16
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "validate a configuration and say what this host can do",
		Long: `Validates a configuration file and prints what this host can do with it. Nothing
is loaded, attached or sent. The exit status is 1 if the file has a mistake or
this host cannot run it. A keepalived.conf is recognized by its content and read
as lvx import reads it.`,
		Example: `  lvx check -c /etc/lvx/lvx.yaml
  lvx check -c /etc/keepalived/keepalived.conf
  lvx check -c /etc/lvx/lvx.yaml --cpus 128     # memory on a larger host`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := newReader().Load(path)
			if err != nil {
				return err
			}
			h := hostinfo.Examine(daemon.Interfaces(cfg))
			if cmd.Flags().Changed("cpus") {
				h.CPUs = int(cpus)
			}
			found := append(daemon.Preflight(cfg, h), refusedByReload(cmd.Context(), cfg, path)...)
			return printCheck(cmd.OutOrStdout(), path, cfg, h, found)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`, lvx.yaml or keepalived.conf")
	cmd.Flags().Uint16Var(&cpus, "cpus", 0, "say what memory a host with `N` possible CPUs needs, instead of this one")
	return cmd
}

// askTime is how long check waits for a daemon that runs.
const askTime = 2 * time.Second

// refusedByReload lists what a daemon that runs could not take over from the
// file by a reload.
func refusedByReload(ctx context.Context, cfg *config.Config, path string) (found []daemon.Finding) {
	text, err := readConfig(path)
	if err != nil {
		return nil // of a keepalived.conf the daemon reads its own
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	lines, err := admin.NewClient(cfg.Admin.Socket).Diff(ctx, text)
	if err != nil {
		return nil // none runs, or it is not ours to ask
	}
	for _, line := range lines {
		if strings.Contains(line, director.NotByReload) {
			found = append(found, daemon.Finding{Level: daemon.Warning, Text: line, Passing: true})
		}
	}
	return found
}

// printCheck prints the report; an error says why the host cannot run it.
func printCheck(w io.Writer, path string, cfg *config.Config, h hostinfo.Host, found []daemon.Finding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "configuration\t%s: ok, %s\n", guard.Text(path), summary(cfg))
	fmt.Fprintf(t, "kernel\t%s\n", h.Kernel)
	fmt.Fprintf(t, "BTF\t%s\n", h.BTF)
	fmt.Fprintf(t, "bpffs\t%s\n", h.BPFFS)
	for _, i := range h.Interfaces {
		fmt.Fprintf(t, "%s\t%s\n", i.Name, i)
	}
	fmt.Fprintf(t, "IPVS\t%s\n", availability(h.IPVS))
	fmt.Fprintf(t, "backend\t%s\n", backendWords(cfg, h))
	if words, err := memoryWords(cfg, h); err != nil {
		return err
	} else if words != "" {
		fmt.Fprintf(t, "memory\t%s\n", words)
	}
	for _, svc := range cfg.Services {
		fmt.Fprintf(t, "service\t%s: %s\n", guard.Text(svc.Name), guard.Text(serviceWords(cfg, svc.Service, h)))
	}
	for _, f := range found {
		if f.Level == daemon.Warning {
			fmt.Fprintf(t, "warning\t%s\n", guard.Text(f.Text))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return daemon.Refusal(found)
}

// memoryWords says what the packet path's maps take of the kernel's memory, ""
// where XDP does not run.
func memoryWords(cfg *config.Config, h hostinfo.Host) (string, error) {
	if cfg.Backend == config.BackendIPVS || daemon.NoXDP(cfg, h) != nil || h.CPUs == 0 {
		return "", nil
	}
	m, err := daemon.KernelMemory(cfg)
	if err != nil {
		return "", err
	}
	const mib = 1 << 20
	return fmt.Sprintf("%d MiB of the kernel's for the packet path: %.1f MiB, and %.2f MiB for each of %d possible CPUs",
		(m.On(h.CPUs)+mib-1)/mib, float64(m.Shared)/mib, float64(m.PerCPU)/mib, h.CPUs), nil
}

// summary counts what the file has.
func summary(cfg *config.Config) string {
	var reals, checks int
	for _, s := range cfg.Services {
		reals += len(s.Reals)
		for _, c := range s.Checks {
			checks += len(c)
		}
	}
	words := []string{plural(len(cfg.Services), "service"), plural(reals, "real"), plural(checks, "check")}
	if n := len(cfg.VRRP); n > 0 {
		words = append(words, plural(n, "VRRP instance"))
	}
	return strings.Join(words, ", ")
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func availability(err error) string {
	if err != nil {
		return "no: " + guard.Text(err.Error())
	}
	return "yes"
}

// backendWords tells which data path lvx run would take.
func backendWords(cfg *config.Config, h hostinfo.Host) string {
	noXDP := daemon.NoXDP(cfg, h)
	switch {
	case cfg.Backend == config.BackendIPVS:
		return "ipvs"
	case cfg.Backend == config.BackendAuto && noXDP != nil && h.IPVS == nil:
		return "ipvs, because XDP cannot run here: " + noXDP.Error()
	}
	var modes []string
	for _, i := range h.Interfaces {
		if slices.Contains(cfg.Interfaces, i.Name) {
			mode, why := daemon.XDPMode(cfg, i)
			if why != "" {
				why = " (" + why + ")"
			}
			modes = append(modes, mode+" on "+i.Name+why)
		}
	}
	return "xdp, " + strings.Join(modes, ", ")
}

// serviceWords tells where a service would run: "xdp", "ipvs: SCTP listener ...".
func serviceWords(cfg *config.Config, svc lb.Service, h hostinfo.Host) string {
	backend, why := daemon.RunsOn(cfg, svc, daemon.NoXDP(cfg, h))
	if why != "" {
		return backend + ": " + why
	}
	return backend
}
