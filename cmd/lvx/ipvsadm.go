package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// runAs runs the binary under the name that it was called by: as ipvsadm,
// ipvsadm-save or ipvsadm-restore it is that.
func runAs(name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	call := newCall(name, args, stdin, stdout, stderr)
	switch filepath.Base(name) {
	case "ipvsadm":
		return call.Run()
	case "ipvsadm-save":
		return runSave(call)
	case "ipvsadm-restore":
		call.Program, call.Args = "ipvsadm", nil
		return call.RestoreAll()
	}
	return run(args, stdout, stderr)
}

// runSave is the script ipvsadm-save.
func runSave(call ipvsadm.Call) int {
	args := []string{"-S"}
	for _, arg := range call.Args {
		switch {
		case arg == "-n":
			args = []string{"-S", "-n"}
		case strings.HasPrefix(arg, "-"):
			fmt.Fprint(call.Stderr, "ipvsadm-save: Script to save the IPVS table to stdout.\n"+
				"   With the -n option, prints out the table in numeric format.\n")
			return exitFailed
		}
	}
	call.Program, call.Args = "ipvsadm", args
	return call.Run()
}

func newCall(program string, args []string, stdin io.Reader, stdout, stderr io.Writer) ipvsadm.Call {
	names := newSystemNames()
	return ipvsadm.Call{
		Program: program, Args: args, Host: systemHost{names}, Names: names,
		Director: ipvsadmClient{admin.NewClient(defaultSocket())},
		Stdin:    stdin, Stdout: stdout, Stderr: stderr,
	}
}

func newIpvsadmCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "ipvsadm ARGS...",
		Short: "what ipvsadm does, on this director",
		Long: `Takes the command lines of ipvsadm 1.31, prints what it prints, and exits as it
does. Edits go into the runtime layer: they are in force at once and stay across
reloads and restarts, beside what the configuration file says, until they are
undone or lvx runtime clear forgets them. lvx export writes them as YAML.

The binary called as ipvsadm, ipvsadm-save or ipvsadm-restore does the same. The
daemon's socket is named by LVX_SOCKET.`,
		Example: `  lvx ipvsadm -A -t 192.0.2.1:80 -s wrr
  lvx ipvsadm -a -t 192.0.2.1:80 -r 192.0.2.11 -g -w 2
  lvx ipvsadm -L -n
  lvx ipvsadm -S -n > rules; lvx ipvsadm -R < rules
  lvx ipvsadm -C --force   # services of the file, too`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
				fmt.Fprintln(cmd.OutOrStdout(), cmd.Long+"\n")
			}
			if status := newCall("ipvsadm", args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()).Run(); status != 0 {
				return statusError{code: status} // what there is to say is on stderr already
			}
			return nil
		},
	}
}

func newRuntimeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runtime",
		Short: "the runtime layer: what ipvsadm has changed",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	clear := &cobra.Command{
		Use:     "clear",
		Short:   "forget what ipvsadm has changed: the file has its say again",
		Long:    "Removes services that ipvsadm added, and gives those of the file back what the file says.",
		Example: "  lvx runtime clear",
		Args:    noArguments,
	}
	clear.RunE = ask(socketFlag(clear), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		r, err := c.ClearRuntime(cmd.Context())
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
	})
	cmd.AddCommand(clear)
	return cmd
}

func newExportCmd() *cobra.Command {
	var runtimeOnly bool
	var output string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "write what runs as a configuration file",
		Long: `Writes what runs as the text of a configuration: the file as it was read, comments
too, with what lvx ipvsadm, lvx weight and lvx drain have changed. Put in the
place of the file and reloaded, it changes nothing.`,
		Example: `  lvx export -o lvx.yaml && lvx check -c lvx.yaml
  lvx export --runtime     # only the services that ipvsadm has added or changed`,
		Args: noArguments,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to `file`, made with mode 0600, instead of to stdout")
	cmd.Flags().BoolVar(&runtimeOnly, "runtime", false, "only the services that ipvsadm has added or changed")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		text, err := c.Export(cmd.Context(), runtimeOnly)
		if err != nil {
			return err
		}
		return writeConfig(cmd.OutOrStdout(), cmd.ErrOrStderr(), output, []byte(text), secretKey.MatchString(text))
	})
	return cmd
}

// secretKey is a key of a configuration whose value is a password.
var secretKey = regexp.MustCompile(`\bauth_pass:`)

// writeConfig writes a configuration to a file that root alone can read, or to
// stdout, where it says if there are passwords in it.
func writeConfig(stdout, stderr io.Writer, file string, text []byte, hasSecret bool) error {
	if file != "" {
		return writeSecret(file, text)
	}
	_, err := stdout.Write(text)
	if err == nil && hasSecret {
		fmt.Fprintln(stderr, "lvx: the output holds passwords: use -o FILE, which is made with mode 0600")
	}
	return err
}

// defaultSocket is the daemon's socket, unless a flag names another.
func defaultSocket() string {
	if s := os.Getenv("LVX_SOCKET"); s != "" {
		return s
	}
	return config.DefaultSocket
}

// ipvsadmClient is a daemon as ipvsadm needs it.
type ipvsadmClient struct{ *admin.Client }

// Edit implements [ipvsadm.Director].
func (c ipvsadmClient) Edit(commands []ipvsadm.Command) (ipvsadm.Result, error) {
	return c.Client.Edit(context.Background(), commands)
}

// List implements [ipvsadm.Director].
func (c ipvsadmClient) List(v ipvsadm.View) (ipvsadm.Listing, error) {
	l, err := c.Client.List(context.Background(), director.Want{Connections: v.Connections})
	if err != nil {
		return ipvsadm.Listing{}, err
	}
	state := lb.State{Services: l.Services, Timeouts: l.Timeouts}
	listing := ipvsadm.NewListing(state, l.Observed, l.Stats, l.Rates, l.Connections)
	listing.Daemons = l.Daemons
	return listing, nil
}

// systemHost knows what this host knows.
type systemHost struct{ *systemNames }

// Addr implements [ipvsadm.Host].
func (systemHost) Addr(name string) (netip.Addr, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}, false
	}
	return addrs[0].Unmap(), true
}

// Port implements [ipvsadm.Host].
func (h systemHost) Port(name string, proto lb.Protocol) (uint16, bool) {
	return h.ports.Port(name, proto)
}
