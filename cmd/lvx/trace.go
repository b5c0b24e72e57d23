package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

const filterHelp = `FILTER is words of tcpdump, all of which must hold: host ADDR, net PREFIX, port N
(each twice at most, for both ends), tcp, udp, icmp, icmp6, proto N, ip, ip6; and
verdict NAME[,NAME], as counted in lvx metrics.`

// traceHeader is what a line of a trace needs of a frame: nothing.
const traceHeader = 0

// errEnough ends a trace of which so many packets were wanted.
var errEnough = errors.New("enough")

func newTraceCmd() *cobra.Command {
	var count int
	var verbose, asJSON bool
	cmd := &cobra.Command{
		Use:   "trace [FILTER]",
		Short: "packets as the packet path decides them",
		Long: `Prints a line for each packet: time, interface, client, destination, verdict,
real; and a line for what the driver has lost of what was sent. While it runs
the packet path is one that records what it decides; it serves as ever, and
becomes the usual one again when the trace ends.

` + filterHelp,
		Example: `  lvx trace
  lvx trace host 198.51.100.7 and port 443 --count 20
  lvx trace ip6 verdict no_flow,denied -v`,
		Args: func(_ *cobra.Command, args []string) error {
			_, err := lb.ParseTraceFilter(args)
			return err
		},
	}
	cmd.Flags().IntVar(&count, "count", 0, "end after this `number` of packets (0: at Ctrl-C)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print each step, as lvx explain does")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a packet a line")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		out := cmd.OutOrStdout()
		print := func(p lb.TracedPacket) error {
			if asJSON {
				return writeJSONLine(out, p)
			}
			return printTraced(out, p, verbose)
		}
		lost := func(l director.Loss) error {
			if asJSON {
				return writeJSONLine(out, l)
			}
			_, err := fmt.Fprintf(out, "%s %s - lost %s %d\n", time.Now().Format("15:04:05.000000"), l.Interface, l.Counter, l.Frames)
			return err
		}
		return watch(cmd, c, args, traceHeader, count, print, lost)
	})
	return cmd
}

// watch shows the packets of a filter to see, at most count of them unless
// that is 0, and what drivers have lost meanwhile to lost. It says on stderr how
// many packets could not be shown.
func watch(cmd *cobra.Command, c *admin.Client, words []string, keep, count int, see func(lb.TracedPacket) error, lost func(director.Loss) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	seen, meter := 0, newLossMeter(ctx, c)
	showLosses := func(ctx context.Context) (err error) {
		for _, l := range meter.grown(ctx) {
			err = errors.Join(err, lost(l))
		}
		return err
	}
	started := func() { fmt.Fprintln(cmd.ErrOrStderr(), "watching; Ctrl-C ends it") }
	missed, err := c.Trace(ctx, words, keep, started, func(p lb.TracedPacket) error {
		if err := see(p); err != nil {
			return err
		}
		if meter.isDue() {
			if err := showLosses(ctx); err != nil {
				return err
			}
		}
		if seen++; seen == count {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		err = nil
	}
	err = errors.Join(err, showLosses(context.WithoutCancel(ctx)))
	if err == nil || seen > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d packets, %d more not shown because they came too fast\n", seen, missed)
	}
	return err
}

func printTraced(w io.Writer, p lb.TracedPacket, verbose bool) error {
	real := p.Real
	if real == "" {
		real = "-"
	}
	ends := "-"
	if p.Protocol != "" {
		ends = fmt.Sprintf("%s %s > %s", p.Protocol, p.Source, p.Destination)
	}
	_, err := fmt.Fprintf(w, "%s %s %s %s %s\n", p.Time.Format("15:04:05.000000"), p.Interface, ends, p.Verdict, real)
	if !verbose {
		return err
	}
	for _, step := range p.Steps {
		if err == nil {
			_, err = fmt.Fprintln(w, "    "+step)
		}
	}
	return err
}
