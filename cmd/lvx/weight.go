package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
)

func newWeightCmd() *cobra.Command {
	var undo bool
	var weight *uint16
	cmd := &cobra.Command{
		Use:   "weight SERVICE REAL N",
		Short: "set a real server's weight, until it is cleared",
		Long: `Sets a real server's weight. It wins over the configuration, across reloads and
restarts, until it is cleared. Weight 0 quiesces: connections stay, no new ones
come.`,
		Example: `  lvx weight web 172.25.0.12 5
  lvx weight web 172.25.0.12:8080 0
  lvx weight web 172.25.0.12 --clear`,
		Args: func(_ *cobra.Command, args []string) (err error) {
			weight, err = parseWeight(args, undo)
			return err
		},
	}
	cmd.Flags().BoolVar(&undo, "clear", false, "give the configuration its say again")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		r, err := c.SetWeight(cmd.Context(), args[0], args[1], weight)
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
	})
	return cmd
}

// parseWeight checks the arguments of weight; with undo there is no weight.
func parseWeight(args []string, undo bool) (*uint16, error) {
	switch {
	case undo && len(args) != 2:
		return nil, fmt.Errorf("%d arguments (expected SERVICE REAL --clear)", len(args))
	case undo:
		return nil, nil
	case len(args) != 3:
		return nil, fmt.Errorf("%d arguments (expected SERVICE REAL N, or SERVICE REAL --clear)", len(args))
	}
	n, err := strconv.ParseUint(args[2], 10, 16)
	if err != nil {
		return nil, fmt.Errorf("weight %q: not a number from 0 to 65535", args[2])
	}
	w := uint16(n)
	return &w, nil
}
