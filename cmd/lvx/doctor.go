package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/doctor"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

func newDoctorCmd() *cobra.Command {
	var path string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "look for what is wrong around this director, each with its cure",
		Long: `Asks the segment and the kernel, and the daemon if one runs, and prints what is
wrong: services and reals that are down, reals that answer ARP for a VIP, VIPs that another host has, reals behind
a gateway, firewall rules that XDP bypasses, frames that cannot leave a veth, and
whatever else the daemon warns of. Nothing is changed. Notes cost no traffic. The
exit status is 1 if something is wrong.`,
		Example: `  lvx doctor
  lvx doctor --json | jq -r '.[] | select(.note | not) | .subject'`,
		Args: noArguments,
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`: what is examined")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	socket := socketFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := mustBeRoot("doctor", os.Geteuid()); err != nil {
			return err
		}
		cfg, err := newReader().Load(path)
		if err != nil {
			return err
		}
		var found []warnings.Warning
		c := doctor.Case{Config: cfg, Has: isOnThisHost}
		examineAnew(cmd.Context(), *socket)
		if st, err := askStatus(cmd.Context(), *socket); err == nil {
			found, c = append(st.Warnings, doctor.Services(st)...), doctor.NewCase(cfg, st, time.Now())
		} else {
			c.IsDead = errors.Is(err, admin.ErrNoDaemon)
			found = c.Abandoned(err)
		}
		found = mergeWarnings(found, doctor.Examine(cmd.Context(), c, new(doctor.Live)))
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), found)
		} else {
			err = printFindings(cmd.OutOrStdout(), found)
		}
		if err == nil && slices.ContainsFunc(found, func(w warnings.Warning) bool { return !w.Note }) {
			return statusError{exitFailed, nil}
		}
		return err
	}
	return cmd
}

// examineTime is how long the doctor waits for what the daemon warns of to be of now.
const examineTime = 10 * time.Second

// examineAnew has the daemon look anew for what the doctor finds, so that its warnings
// of what was cured since it looked last end. One that cannot keeps them.
func examineAnew(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	_ = admin.NewClient(socket).Examine(ctx)
}

// statusTime is how long the doctor waits for the daemon: what it finds out by
// itself does not need the daemon.
const statusTime = time.Minute

// askStatus asks the daemon, which may hang or talk nonsense, for its status.
func askStatus(ctx context.Context, socket string) (director.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTime, fmt.Errorf("the daemon on %s has not come to the end of its answer in %v", socket, statusTime))
	defer cancel()
	st, err := admin.NewClient(socket).Status(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return st, err
}

// isOnThisHost reports whether an address is on an interface.
func isOnThisHost(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr() == addr
	})
}

// mergeWarnings adds what is not known yet; notes come last.
func mergeWarnings(known, found []warnings.Warning) []warnings.Warning {
	all := slices.Clone(known)
	if all == nil {
		all = []warnings.Warning{} // in JSON a list, also if it is empty
	}
	for _, f := range found {
		if !slices.ContainsFunc(known, func(k warnings.Warning) bool {
			return k.Subject == f.Subject && (k.Kind == f.Kind || k.Text == f.Text)
		}) {
			all = append(all, f)
		}
	}
	slices.SortStableFunc(all, func(a, b warnings.Warning) int {
		switch {
		case a.Note == b.Note:
			return 0
		case a.Note:
			return 1
		}
		return -1
	})
	return all
}

func printFindings(w io.Writer, found []warnings.Warning) error {
	wrong := 0
	for _, f := range found {
		mark := "note"
		if !f.Note {
			mark = "wrong"
			wrong++
		}
		if _, err := fmt.Fprintf(w, "%-5s  %s: %s\n", mark, guard.Text(f.Subject), guard.Text(f.Text)); err != nil {
			return err
		}
		if f.Cure != "" {
			if _, err := fmt.Fprintf(w, "       cure: %s\n", guard.Text(f.Cure)); err != nil {
				return err
			}
		}
	}
	if wrong > 0 {
		return nil
	}
	_, err := fmt.Fprintln(w, "nothing is wrong")
	return err
}
