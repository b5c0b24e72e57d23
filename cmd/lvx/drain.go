package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
)

func newDrainCmd() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain SERVICE REAL",
		Short: "take a real server out gently, until it is undone",
		Long: `Gives a real server no new connections; those that it has stay. This wins over
weight and configuration, across reloads and restarts, until it is undone.`,
		Example: `  lvx drain web 172.25.0.12
  lvx list -n            # until its ActiveConn is 0
  lvx drain web 172.25.0.12 --undo`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%d arguments (expected SERVICE REAL)", len(args))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "give it its weight back")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		return c.Drain(cmd.Context(), args[0], args[1], undo)
	})
	return cmd
}
