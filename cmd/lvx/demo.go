package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/testenv/demo"
)

// newDemoCmd makes the command that shows lvx at work on this machine.
func newDemoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "demo [SCENE...]",
		Short: "play the classic LVS scenes in network namespaces of this machine",
		Long: `Builds a client, directors and real servers in network namespaces, runs this
very binary on the directors, and shows what an LVS article shows: round robin,
weights, quiescing, persistence, the sorry server, tunnels, NAT and more. It touches nothing
of this machine's own network and leaves nothing behind.

Scenes: ` + strings.Join(demo.Scenes(), ", "),
		Example: "  lvx demo\n  lvx demo rr wrr\n  lvx demo nat tunnel",
		Args: func(_ *cobra.Command, args []string) error {
			for _, a := range args {
				if !slices.Contains(demo.Scenes(), a) {
					return fmt.Errorf("no scene %q (there are: %s)", a, strings.Join(demo.Scenes(), ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("demo: network namespaces need root (try `sudo lvx demo`)")
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("demo: own path: %w", err)
			}
			info, err := os.Stdout.Stat()
			color := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""
			_, err = demo.Run(cmd.Context(), demo.Options{Self: self, Out: cmd.OutOrStdout(), Color: color, Scenes: args})
			return err
		},
	}
}
