package main

import (
	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
)

func newReloadCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "make the daemon read its configuration again",
		Long: `Makes the daemon read its configuration again. A file with a mistake changes
nothing: the mistake is printed, the exit status is 1, and the daemon goes on
with what it had. Connections, checks and VRRP are not disturbed.`,
		Example: "  lvx check -c /etc/lvx/lvx.yaml && lvx reload",
		Args:    cobra.NoArgs,
	}
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		return c.Reload(cmd.Context())
	})
	return cmd
}
