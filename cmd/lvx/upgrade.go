package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/internal/progress"
	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
)

// renewalIdle is how long a daemon that starts anew may make no progress.
const renewalIdle = time.Minute

func newUpgradeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade BINARY",
		Short: "let another lvx binary take over, without a loss",
		Long: `Lets another lvx binary take over from the daemon. The binary first does
everything that needs no ownership: it reads the configuration and has the
kernel's verifier look at its packet path. If that fails nothing has changed.
Then it replaces the daemon in its process and adopts the packet path, its
connections and the roles; if it does not come to serve, the old binary is back
in charge. The binary must be owned by root and not writable by others.`,
		Example: "  lvx upgrade /usr/local/bin/lvx",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("expected BINARY")
			}
			return nil
		},
	}
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		binary, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		before, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		pid, err := c.PID(cmd.Context())
		if err != nil {
			return err
		}
		r, err := c.Upgrade(cmd.Context(), binary)
		if err != nil {
			return err
		}
		after, err := awaitRenewal(cmd, c, pid, before)
		if err != nil {
			return err
		}
		for _, w := range after.Warnings {
			if w.Kind == upgradeFailed {
				return errors.New(guard.Text(w.Text))
			}
		}
		r.Did = append(r.Did, fmt.Sprintf("%s serves (before: %s)", after.Version, before.Version))
		return printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
	})
	return cmd
}

// awaitRenewal waits until the daemon has started anew, in the same process.
func awaitRenewal(cmd *cobra.Command, c *admin.Client, pid int, before director.Status) (director.Status, error) {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	stop := progress.Watch(pid, renewalIdle, cancel)
	defer stop()
	return c.AwaitRenewal(ctx, before.Started)
}
