package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newDrainCmd() *cobra.Command {
	var o director.DrainOptions
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "drain SERVICE REAL",
		Short: "take a real server out gently, until it is undone",
		Long: `Gives a real server no new connections; those that it has stay. This wins over
weight and configuration, across reloads and restarts, until it is undone. It
prints how many connections are left. Clients that persistence binds to the real
come back to it until their templates expire; expire_quiescent_template: true
makes them go elsewhere at once.

The last real that takes connections is drained with --force only.`,
		Example: `  lvx drain web 172.25.0.12
  lvx drain web 172.25.0.12 --wait=10m && ssh 172.25.0.12 reboot
  lvx drain web 172.25.0.12 --undo`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%d arguments (expected SERVICE REAL)", len(args))
			}
			if o.Undo && cmd.Flags().Changed("wait") {
				return errors.New("--undo and --wait do not go together")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Undo, "undo", false, "give it its weight back")
	f.BoolVar(&o.Force, "force", false, "also if no other real takes connections")
	f.DurationVar(&wait, "wait", 0, "wait until no connection is left, at most this `long` (alone: as long as it takes)")
	f.Lookup("wait").NoOptDefVal = "0s"
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		r, err := c.Drain(cmd.Context(), args[0], args[1], o)
		if err != nil {
			return err
		}
		if err := printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r); err != nil || !cmd.Flags().Changed("wait") {
			return err
		}
		return waitDrained(cmd.Context(), cmd.OutOrStdout(), wait, func(ctx context.Context) (uint64, error) {
			l, err := c.List(ctx, director.Want{})
			return connectionsOf(l.Stats, args[0], args[1]), err
		})
	})
	return cmd
}

// drainPoll is how often a drain looks at what is left.
const drainPoll = time.Second

// waitDrained waits until left says 0, for as long as limit says; 0 is for
// ever. It prints what is left whenever that has changed.
func waitDrained(ctx context.Context, w io.Writer, limit time.Duration, left func(context.Context) (uint64, error)) error {
	began, last := time.Now(), ^uint64(0)
	for {
		n, err := left(ctx)
		if err != nil {
			return err
		}
		if n != last {
			fmt.Fprintf(w, "%d connections left after %s\n", n, time.Since(began).Truncate(time.Second))
			last = n
		}
		if n == 0 {
			return nil
		}
		if limit > 0 && time.Since(began) >= limit {
			return fmt.Errorf("%d connections are left after %s; the real stays drained (--undo gives it its weight back)", n, limit)
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connectionsOf counts the connections of a real of a service.
func connectionsOf(st lb.Stats, service, real string) (n uint64) {
	for _, s := range st.Services {
		for _, r := range s.Reals {
			name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
			if s.Name == service && (name == real || r.Addr.String() == real) {
				n += uint64(r.Active) + uint64(r.Inactive)
			}
		}
	}
	return n
}
