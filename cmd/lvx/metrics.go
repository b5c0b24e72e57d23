package main

import (
	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
)

func newMetricsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "print what /metrics says",
		Long: `Prints the daemon's metrics in Prometheus' text format, asked for through the
socket: no admin.listen is needed.`,
		Example: `  lvx metrics | grep lvx_service_up`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		return c.Metrics(cmd.Context(), cmd.OutOrStdout())
	})
	return cmd
}
