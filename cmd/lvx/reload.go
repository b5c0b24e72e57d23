package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
)

func newReloadCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "make the daemon read its configuration again",
		Long: `Makes the daemon read its configuration again and prints what has changed, a
line for each change. A file with a mistake changes nothing: the mistake is
printed, the exit status is 1, and the daemon goes on with what it had. What has
not changed is not disturbed: connections, checks, VRRP.`,
		Example: `  lvx diff && echo "nothing to do"
  lvx reload`,
		Args: noArguments,
	}
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		before, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		pid, err := c.PID(cmd.Context())
		if err != nil {
			return err
		}
		r, err := c.Reload(cmd.Context())
		if err != nil {
			return err
		}
		if r.Renews {
			after, err := awaitRenewal(cmd, c, pid, before)
			if err != nil {
				return err
			}
			if after.Reload.Error != "" {
				return errors.New(guard.Text(after.Reload.Error))
			}
		}
		if len(r.Did) == 0 {
			r.Did = []string{"reloaded, nothing has changed"}
		}
		return printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
	})
	return cmd
}

// printResult prints what a command has done, and on stderr what is odd about
// it.
func printResult(out, errs io.Writer, r director.Result) error {
	for _, line := range r.Did {
		if _, err := fmt.Fprintln(out, guard.Text(line)); err != nil {
			return err
		}
	}
	if r.Warning != "" {
		fmt.Fprintln(errs, "lvx: warning: "+guard.Text(r.Warning))
	}
	return nil
}
