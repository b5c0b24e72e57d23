package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// statusError is an exit status of its own: of a verb whose status is an
// answer. Without an error there is nothing to print.
type statusError struct {
	code int
	error
}

func (e statusError) Unwrap() error { return e.error }

// run executes one command line and gives its exit code. Errors are one line
// on stderr.
func run(args []string, stdout, stderr io.Writer) int {
	root := newRootCmd()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return exitDone
	}
	var status statusError
	if errors.As(err, &status) {
		if status.error != nil {
			fmt.Fprintf(stderr, "lvx: %s\n", oneLine(status.Error()))
		}
		return status.code
	}
	if errors.As(err, new(usageError)) {
		fmt.Fprintf(stderr, "lvx: %s (see %s --help)\n", oneLine(err.Error()), cmd.CommandPath())
		return exitUsage
	}
	if errors.As(err, new(lostError)) {
		return exitLost // the account says what, and ends with its total
	}
	fmt.Fprintf(stderr, "lvx: %s\n", oneLine(err.Error()))
	return exitFailed
}

// oneLine joins what several failures said.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "lvx",
		Short: "LVS direct routing in XDP",
		Long: `lvx is a layer 4 load balancer: LVS direct routing, done by an XDP program
instead of IPVS, with health checks, VRRP and everything else that a director
needs, in one daemon with one configuration file.`,
		Example: `  lvx check -c /etc/lvx/lvx.yaml
  lvx run -c /etc/lvx/lvx.yaml
  lvx list -n
  lvx status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{explainFlagError(err)} })
	root.AddCommand(
		newRunCmd(), newCheckCmd(), newConfigCmd(), newDiffCmd(), newReloadCmd(), newStopCmd(), newPurgeCmd(), newUpgradeCmd(),
		newListCmd(), newStatusCmd(), newTopCmd(), newHistoryCmd(), newMetricsCmd(), newDoctorCmd(), newExplainCmd(),
		newTraceCmd(), newCaptureCmd(),
		newWeightCmd(), newDrainCmd(), newSyncCmd(), newIpvsadmCmd(), newRuntimeCmd(), newExportCmd(),
		newImportCmd(), newRealCmd(), newDemoCmd(), newVersionCmd(), newManCmd(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	refuseUnknown(root)
	markUsage(root)
	return root
}

// markUsage makes an error of any command's Args one of usage.
func markUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
}

// socketFlag adds --socket to a verb that asks the daemon.
func socketFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("socket", defaultSocket(), "`path` of the daemon's socket (or LVX_SOCKET)")
}

// ask makes a RunE of a function that needs the daemon.
func ask(socket *string, f func(cmd *cobra.Command, c *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return f(cmd, admin.NewClient(*socket), args)
	}
}
