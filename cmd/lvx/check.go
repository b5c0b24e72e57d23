package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newCheckCmd() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "validate a configuration and say what this host can do",
		Long: `Validates a configuration file and prints what this host can do with it. Nothing
is loaded, attached or sent. The exit status is 1 if the file has a mistake or
this host cannot run it.`,
		Example: "  lvx check -c /etc/lvx/lvx.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			return printCheck(cmd.OutOrStdout(), path, cfg, examine(interfaces(cfg)))
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`")
	return cmd
}

// printCheck prints the report; an error says why the host cannot run it.
func printCheck(w io.Writer, path string, cfg *config.Config, h hostReport) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "configuration\t%s: ok, %s\n", guard.Text(path), summary(cfg))
	fmt.Fprintf(t, "kernel\t%s\n", h.kernel)
	fmt.Fprintf(t, "BTF\t%s\n", h.btf)
	fmt.Fprintf(t, "bpffs\t%s\n", h.bpffs)
	for _, i := range h.interfaces {
		fmt.Fprintf(t, "%s\t%s\n", i.name, i)
	}
	fmt.Fprintf(t, "IPVS\t%s\n", availability(h.ipvs))
	fmt.Fprintf(t, "backend\t%s\n", backendWords(cfg, h))
	for _, svc := range cfg.Services {
		fmt.Fprintf(t, "service\t%s: %s\n", guard.Text(svc.Name), guard.Text(serviceWords(cfg, svc.Service, h)))
	}
	for _, warning := range slices.Concat(cfg.Warnings, h.warnings(cfg), untrusted(cfg)) {
		fmt.Fprintf(t, "warning\t%s\n", guard.Text(warning))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return h.refusal(cfg)
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
func backendWords(cfg *config.Config, h hostReport) string {
	switch {
	case cfg.Backend == config.BackendIPVS:
		return "ipvs"
	case cfg.Backend == config.BackendAuto && h.xdp() != nil && h.ipvs == nil:
		return "ipvs, because XDP cannot run here: " + h.xdp().Error()
	}
	var modes []string
	for _, i := range h.interfaces {
		if slices.Contains(cfg.Interfaces, i.name) {
			modes = append(modes, i.mode(cfg.XDPMode)+" on "+i.name)
		}
	}
	return "xdp, " + strings.Join(modes, ", ")
}

// serviceWords tells where a service would run: "xdp", "ipvs: forward nat".
func serviceWords(cfg *config.Config, svc lb.Service, h hostReport) string {
	backend, why := runsOn(cfg, svc, h.xdp())
	if why != "" {
		return backend + ": " + why
	}
	return backend
}

// refusal is why lvx run would fail here, nil if it would not.
func (h hostReport) refusal(cfg *config.Config) error {
	for _, i := range h.interfaces {
		if i.err != nil {
			return fmt.Errorf("interface %s: no such interface (there are %s)", i.name, interfaceNames())
		}
	}
	switch x := h.xdp(); {
	case cfg.Backend == config.BackendIPVS:
		return h.ipvs
	case cfg.Backend == config.BackendXDP && x != nil:
		return x
	case cfg.Backend == config.BackendXDP:
		return cannot(cfg)
	case h.ipvs == nil:
		return nil
	case x != nil:
		return errors.Join(fmt.Errorf("no data path: XDP: %w", x), fmt.Errorf("IPVS: %w", h.ipvs))
	}
	return h.needsIPVS(cfg)
}

// cannot is why XDP cannot run one of the services.
func cannot(cfg *config.Config) error {
	var all []error
	for _, svc := range cfg.Services {
		all = append(all, xdp.Supports(svc.Service))
	}
	return errors.Join(all...)
}

// needsIPVS names the services that XDP cannot run, on a host without IPVS.
func (h hostReport) needsIPVS(cfg *config.Config) error {
	var names []string
	for _, svc := range cfg.Services {
		if backend, why := runsOn(cfg, svc.Service, nil); backend == "ipvs" {
			names = append(names, fmt.Sprintf("%s (%s)", svc.Name, why))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel's IPVS is needed for %s: %w", strings.Join(names, ", "), h.ipvs)
}

func (h hostReport) warnings(cfg *config.Config) []string {
	var all []string
	for _, i := range h.interfaces {
		if cfg.XDPMode == config.XDPNative && !i.native && i.err == nil && slices.Contains(cfg.Interfaces, i.name) {
			all = append(all, fmt.Sprintf("xdp_mode native, but driver %s of %s is not known to do XDP (xdp_mode: auto falls back)", i.driver, i.name))
		}
	}
	return all
}

// untrusted names the programs of the file that will not be run here.
func untrusted(cfg *config.Config) []string {
	var all []string
	add := func(what, program string) {
		if _, err := guard.Trusted(program); err != nil {
			all = append(all, fmt.Sprintf("%s will not be run: %v", what, err))
		}
	}
	for _, command := range cfg.Notify.Exec {
		if argv := strings.Fields(command); len(argv) > 0 {
			add("notify program", argv[0])
		}
	}
	checked := map[string]bool{}
	for _, svc := range cfg.Services {
		for _, spec := range slices.Concat(svc.Checks...) {
			program, _, _ := strings.Cut(spec.Argv, "\n")
			if spec.Type == health.Exec && !checked[program] {
				checked[program] = true
				add("check of "+svc.Name, program)
			}
		}
	}
	return all
}
