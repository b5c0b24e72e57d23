package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/keepalived"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/netfilter"
)

// exitLost is the exit code of an import that lost something.
const exitLost = 3

// lostError says that an import is not complete: exit code 3.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// importFlags are what `lvx import` can be told.
type importFlags struct {
	out, node, via, backend, iface  string
	rules, marks                    string
	isLenient, isQuiet, mergeGroups bool
}

func newImportCmd() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "write what keepalived.conf, or rules of ipvsadm, mean to lvx",
		Long: `Writes the configuration of lvx that does what a keepalived.conf did, or with
--ipvsadm what the rules of ipvsadm-save did: commented YAML on stdout, in the
order of the file. Services of firewall marks need to know which packets carry
the mark: this host's firewall is asked, or with --iptables a file that
iptables-save wrote. Every statement is accounted for on
stderr, one line each, what matters most last:

  mapped    lvx does the same
  harmless  keepalived ignores it, or lvx does not need it
  changed   lvx does it, but not as keepalived did
  lost      lvx does not do it

The last line counts them. If something is lost, the exit status is 3; with
--lenient it is 0. Neither keepalived nor any of its programs is run.`,
		Example: `  lvx import /etc/keepalived/keepalived.conf -o /etc/lvx/lvx.yaml
  lvx import --quiet keepalived.conf >/dev/null     # what would change, and what be lost
  lvx check -c keepalived.conf                      # the same file, read directly
  ipvsadm-save -n >rules; iptables-save >marks
  lvx import --ipvsadm rules --iptables marks -o /etc/lvx/lvx.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case f.rules != "" && len(args) > 0:
				return fmt.Errorf("%s beside --ipvsadm: want one of them", args[0])
			case f.rules == "" && len(args) != 1:
				return errors.New("want one keepalived.conf, or --ipvsadm FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runImport(cmd.OutOrStdout(), cmd.ErrOrStderr(), args, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.out, "output", "o", "", "write to `file`, made with mode 0600, instead of to stdout")
	flags.StringVar(&f.rules, "ipvsadm", "", "`file` of rules, as ipvsadm-save writes them, instead of a keepalived.conf")
	flags.StringVar(&f.marks, "iptables", "", "`file` of what iptables-save writes, for firewall marks")
	flags.StringVar(&f.node, "node", "", "`id` of this director, for lines that begin with @ID (keepalived -i)")
	flags.StringVar(&f.via, "via", "real", "address that checks of direct routing ask: real, as keepalived does, or `vip`, which is better")
	flags.StringVar(&f.backend, "backend", "", "write `backend`: auto, xdp or ipvs")
	flags.StringVar(&f.iface, "interface", "", "`name` of the interface where the file names none (default: the one that reaches the VIPs)")
	flags.BoolVar(&f.mergeGroups, "group", false, "make one service of a virtual_server_group, not one of each of its entries")
	flags.BoolVar(&f.isLenient, "lenient", false, "exit with 0 also if something is lost")
	flags.BoolVarP(&f.isQuiet, "quiet", "q", false, "report only what is changed or lost")
	return cmd
}

// runImport converts one file.
func runImport(stdout, stderr io.Writer, args []string, f importFlags) error {
	if f.via != "real" && f.via != "vip" {
		return usageError{fmt.Errorf("--via %q: want real or vip", f.via)}
	}
	if f.backend != "" && !slices.Contains([]string{"auto", "xdp", "ipvs"}, f.backend) {
		return usageError{fmt.Errorf("--backend %q: want auto, xdp or ipvs", f.backend)}
	}
	o := keepalived.Options{ViaVIP: f.via == "vip", Backend: f.backend, Interface: f.iface, ID: f.node, MergeGroups: f.mergeGroups}
	if f.marks != "" {
		text, err := osFiles{}.Read(f.marks)
		if err != nil {
			return err
		}
		var notes []string
		o.Marks, notes = keepalived.Marks(string(text))
		for _, note := range notes {
			fmt.Fprintf(stderr, "%s: %s\n", guard.Text(f.marks), guard.Text(note))
		}
	} else {
		o.Marks = hostMarks()
	}
	res, err := importFile(args, f.rules, o)
	if err != nil {
		return err
	}
	if err := writeConfig(stdout, stderr, f.out, res.YAML, res.HasSecret); err != nil {
		return err
	}
	printReport(stderr, res.Report, f.isQuiet)
	if n := res.Report.Count(keepalived.Lost); n > 0 && !f.isLenient {
		return lostError{fmt.Errorf("%s lost: see above (--lenient accepts it)", plural(n, "statement"))}
	}
	return nil
}

// printReport prints the account: what matters most right above the total.
func printReport(w io.Writer, r keepalived.Report, isQuiet bool) {
	for _, l := range []keepalived.Level{keepalived.Harmless, keepalived.Mapped, keepalived.Changed, keepalived.Lost} {
		if isQuiet && l < keepalived.Changed {
			continue
		}
		for _, f := range r {
			if f.Level == l {
				fmt.Fprintln(w, f)
			}
		}
	}
	fmt.Fprintln(w, r.Total())
}

// hostMarks asks this host's firewall which packets carry which mark; what it
// does not tell, or tells with conditions, is not there.
func hostMarks() map[uint32][]string {
	all, err := new(netfilter.Reader).Marks()
	if err != nil {
		return nil
	}
	marks := map[uint32][]string{}
	for _, rule := range all {
		for _, l := range rule.Listeners {
			if rule.Condition == "" {
				marks[rule.Mark] = append(marks[rule.Mark], l.String())
			}
		}
	}
	return marks
}

// importFile reads a keepalived.conf, or rules.
func importFile(args []string, rules string, o keepalived.Options) (*keepalived.Result, error) {
	if rules == "" {
		return importKeepalived(args[0], o)
	}
	if o.Interface == "" {
		o.Interface = likelyInterface()
	}
	return keepalived.ImportRules(osFiles{}, rules, resolver{}, o)
}

// resolver asks the host for the names in rules that were saved without -n.
type resolver struct{}

// Addr is the IPv4 address of a host.
func (resolver) Addr(name string) (netip.Addr, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil || len(all) == 0 {
		return netip.Addr{}, false
	}
	return all[0].Unmap(), true
}

// Port is the port of a service.
func (resolver) Port(name string, proto lb.Protocol) (uint16, bool) {
	n, err := net.LookupPort(proto.String(), name)
	return uint16(n), err == nil
}

// importKeepalived reads a keepalived.conf from disk.
func importKeepalived(path string, o keepalived.Options) (*keepalived.Result, error) {
	if o.Interface == "" {
		o.Interface = likelyInterface()
	}
	return keepalived.Import(osFiles{}, path, o)
}

// newReader reads lvx.yaml and keepalived.conf. What is changed or lost of the
// latter is a warning of the configuration.
func newReader() *config.Reader {
	return &config.Reader{Convert: func(path string, text []byte) (*config.Config, error) {
		if !keepalived.Recognize(text) {
			return nil, nil
		}
		res, err := importKeepalived(path, keepalived.Options{Marks: hostMarks()})
		if err != nil {
			return nil, err
		}
		for _, f := range res.Report {
			if f.Level >= keepalived.Changed {
				res.Config.Warnings = append(res.Config.Warnings, f.String())
			}
		}
		return res.Config, nil
	}}
}

// likelyInterface names an interface for a file that names none: the only one
// that has addresses, or else keepalived's eth0.
func likelyInterface() string {
	all, err := net.Interfaces()
	if err != nil {
		return ""
	}
	var names []string
	for _, i := range all {
		addrs, err := i.Addrs()
		if err == nil && i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 && len(addrs) > 0 {
			names = append(names, i.Name)
		}
	}
	if len(names) != 1 || slices.Contains(names, "eth0") {
		return ""
	}
	return names[0]
}

// writeSecret writes a file that only its owner can read, over one that is
// there.
func writeSecret(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", guard.Text(path), err)
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", guard.Text(path), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", guard.Text(path), err)
	}
	return nil
}

// osFiles are the files of this host.
type osFiles struct{}

func (osFiles) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }

// Read gives the contents of a regular file; a pipe or a device would never
// end.
func (osFiles) Read(name string) ([]byte, error) {
	return guard.ReadFile(name, keepalived.MaxSize)
}
