package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func newDrainCmd() *cobra.Command {
	var o director.DrainOptions
	var wait time.Duration
	var isDirector bool
	cmd := &cobra.Command{
		Use:   "drain {SERVICE REAL | --director}",
		Short: "take a real server, or this director, out gently, until it is undone",
		Long: `Gives a real server no new connections; those that it has stay. This wins over
weight and configuration, across reloads and restarts, until it is undone. It
prints how many connections are left, of a real that is down, too. Clients that
persistence binds to the real come back to it until their templates expire, and are
named; with --now-persistent their templates end now, so that the next connection of
each goes elsewhere. With expire_quiescent_template: true this is always so.

The last real that takes connections is drained with --force only.

With --director this host is taken out: by BGP routers are asked to prefer other
directors, and after drain_time its VIPs are withdrawn; virtual routers go to any
other router that preempts. It goes on forwarding what still arrives. This lasts
across restarts, too.`,
		Example: `  lvx drain web 172.25.0.12
  lvx drain web 172.25.0.12 --wait=10m && ssh 172.25.0.12 reboot
  lvx drain web 172.25.0.12 --now-persistent
  lvx drain web 172.25.0.12 --undo
  lvx drain --director --wait && systemctl stop lvx
  lvx drain --director --undo`,
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		return checkDrainArgs(cmd, args, isDirector, o)
	}
	f := cmd.Flags()
	f.BoolVar(&o.Undo, "undo", false, "give it its weight back")
	f.BoolVar(&isDirector, "director", false, "this director, not a real server")
	f.BoolVar(&o.Force, "force", false, "also if no other real takes connections")
	f.BoolVar(&o.NowPersistent, "now-persistent", false, "let clients go that persistence binds to the real")
	f.DurationVar(&wait, "wait", 0, "wait until no connection (with --director: no VIP) is left, at most this `long` (alone: as long as it takes)")
	f.Lookup("wait").NoOptDefVal = "0s"
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		if isDirector {
			return drainDirector(cmd, c, o.Undo, wait)
		}
		r, err := c.Drain(cmd.Context(), args[0], args[1], o)
		if err != nil {
			return err
		}
		if err := printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r); err != nil || !cmd.Flags().Changed("wait") {
			return err
		}
		return waitForReal(cmd, c, wait, args[0], args[1])
	})
	return cmd
}

// waitForReal waits until a drained real has no connection left, and warns if
// clients will come back to it.
func waitForReal(cmd *cobra.Command, c *admin.Client, wait time.Duration, service, real string) error {
	bound := uint64(0)
	rest := leftover{"connections", "the real stays drained (--undo gives it its weight back)"}
	err := waitDrained(cmd.Context(), cmd.OutOrStdout(), wait, rest, func(ctx context.Context) (n uint64, err error) {
		l, err := c.List(ctx, director.Want{})
		if err != nil {
			return 0, err
		}
		n, bound, err = connectionsOf(l.Stats, service, real)
		return n, err
	})
	if err != nil || bound == 0 {
		return err
	}
	return printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), director.Result{
		Warning: fmt.Sprintf("persistence leads %d clients back to it, until their templates expire (--now-persistent lets them go)", bound),
	})
}

// checkDrainArgs refuses what does not go together.
func checkDrainArgs(cmd *cobra.Command, args []string, isDirector bool, o director.DrainOptions) error {
	switch {
	case isDirector && (len(args) != 0 || o.Force || o.NowPersistent):
		return errors.New("--director goes with --undo and --wait alone")
	case !isDirector && len(args) != 2:
		return fmt.Errorf("%d arguments (expected SERVICE REAL, or --director)", len(args))
	case o.Undo && (cmd.Flags().Changed("wait") || o.NowPersistent):
		return errors.New("--undo goes with neither --wait nor --now-persistent")
	}
	return nil
}

// drainDirector takes this director out, or back.
func drainDirector(cmd *cobra.Command, c *admin.Client, undo bool, wait time.Duration) error {
	r, err := c.DrainDirector(cmd.Context(), undo)
	if err != nil {
		return err
	}
	if err := printResult(cmd.OutOrStdout(), cmd.ErrOrStderr(), r); err != nil || !cmd.Flags().Changed("wait") {
		return err
	}
	rest := leftover{"VIPs", "the director stays drained (--undo takes it back)"}
	return waitDrained(cmd.Context(), cmd.OutOrStdout(), wait, rest, func(ctx context.Context) (uint64, error) {
		st, err := c.Status(ctx)
		return attractingVIPs(st), err
	})
}

// attractingVIPs counts the VIPs by which traffic is led here: announced ones,
// which all are until who announces for lvx has been told otherwise, and those of
// virtual routers.
func attractingVIPs(st director.Status) (n uint64) {
	for _, v := range st.VIPs {
		if v.Held && v.Instance != "" {
			n++
		}
	}
	if st.BGP != nil {
		isUntold := slices.ContainsFunc(st.BGP.Hook, func(h bgp.HookStatus) bool { return !h.IsCurrent })
		for _, v := range st.BGP.VIPs {
			if v.IsAnnounced || isUntold {
				n++
			}
		}
	}
	return n
}

// leftover is what a drain waits for.
type leftover struct {
	what  string // that is left: "connections"
	after string // what holds when waiting has ended without success
}

// drainPoll is how often a drain looks at what is left.
const drainPoll = time.Second

// waitDrained waits until left says 0, for as long as limit says; 0 is for
// ever. It prints what is left whenever that has changed.
func waitDrained(ctx context.Context, w io.Writer, limit time.Duration, rest leftover, left func(context.Context) (uint64, error)) error {
	began, last := time.Now(), ^uint64(0)
	for {
		n, err := left(ctx)
		if err != nil {
			return err
		}
		if n != last {
			fmt.Fprintf(w, "%d %s left after %s\n", n, rest.what, time.Since(began).Truncate(time.Second))
			last = n
		}
		if n == 0 {
			return nil
		}
		if limit > 0 && time.Since(began) >= limit {
			return fmt.Errorf("%d %s are left after %s; %s", n, rest.what, limit, rest.after)
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connectionsOf counts the connections of a real of a service, and the clients
// that persistence binds to it.
func connectionsOf(st lb.Stats, service, real string) (n, bound uint64, err error) {
	isKnown := false
	for _, s := range st.Services {
		for _, r := range slices.Concat(s.Reals, s.Absent) {
			name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
			if s.Name == service && (name == real || r.Addr.String() == real) {
				isKnown = true
				n += uint64(r.Active) + uint64(r.Inactive)
				bound += uint64(r.Persist)
			}
		}
	}
	if !isKnown {
		return 0, 0, fmt.Errorf("%s of %s is down: how many connections are left is not known", real, service)
	}
	return n, bound, nil
}
