package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newListCmd() *cobra.Command {
	o := ipvsadm.View{MarkSynced: true}
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list services and reals as ipvsadm -L does",
		Long: `Lists what the data path holds, in the columns of ipvsadm -L. Reals that health
checks took out are not there: see lvx status. Connections that another director
has told of (sync: in the configuration) end in "sync", until lvx is restarted.
Without a daemon it lists what the packet path still holds, from its pinned maps,
and says so on stderr.`,
		Example: `  lvx list -n
  lvx list -n --stats
  lvx list -nc
  watch -n1 lvx list -n --rate`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := noArguments(cmd, args); err != nil {
				return err
			}
			return ipvsadm.Print(io.Discard, ipvsadm.Listing{}, o) // do the options go together?
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Stats, "stats", false, "counters since the start")
	f.BoolVar(&o.Rate, "rate", false, "rates per second")
	f.BoolVarP(&o.Connections, "connections", "c", false, "connections and persistence templates")
	f.BoolVar(&o.Timeout, "timeout", false, "connection timeouts")
	f.BoolVar(&o.PersistentConn, "persistent-conn", false, "persistence templates of each real")
	f.BoolVar(&o.Thresholds, "thresholds", false, "connection thresholds")
	f.BoolVar(&o.Exact, "exact", false, "large numbers in full")
	f.BoolVarP(&o.Numeric, "numeric", "n", false, "addresses and ports as numbers")
	f.BoolVar(&o.JSON, "json", false, "print JSON, everything at once")
	f.IntVar(&limit, "limit", 0, "list at most this `number` of connections (0 = all)")
	path := configFlag(cmd)
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		if !o.Numeric && !o.JSON {
			o.Names = newSystemNames()
		}
		l, err := c.List(cmd.Context(), director.Want{Connections: o.Connections, Limit: max(limit, 0)})
		if err != nil {
			h, err := lookWithoutDaemon(err, *path, o.Connections, max(limit, 0))
			if err != nil {
				return err
			}
			for _, line := range orphanWords(h) {
				fmt.Fprintln(cmd.ErrOrStderr(), "lvx:", guard.Text(line))
			}
			return ipvsadm.Print(cmd.OutOrStdout(), ipvsadm.NewListing(h.State, h.Observed, h.Stats, nil, h.Connections), o)
		}
		state := lb.State{Services: l.Services, Timeouts: l.Timeouts}
		return ipvsadm.Print(cmd.OutOrStdout(), ipvsadm.NewListing(state, l.Observed, l.Stats, l.Rates, l.Connections), o)
	})
	return cmd
}
