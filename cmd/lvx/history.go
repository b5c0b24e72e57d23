package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/history"
)

func newHistoryCmd() *cobra.Command {
	var f history.Filter
	var kind, since string
	var asJSON bool
	kinds := make([]string, 0, len(history.Kinds()))
	for _, k := range history.Kinds() {
		kinds = append(kinds, string(k))
	}
	cmd := &cobra.Command{
		Use:   "history",
		Short: "what happened, newest last",
		Long: `Prints the last thousand events, newest last: health, roles, reloads, operators'
commands, starts, warnings, messages that could not be delivered. They are kept
in state_dir, across restarts. Without a daemon it prints what is kept there, and says
so on stderr.`,
		Example: `  lvx history --since 1h
  lvx history --since 2026-11-26T03:00:00+01:00 --kind health
  lvx history --subject VI_1 --json`,
		Args: func(cmd *cobra.Command, args []string) (err error) {
			if err := noArguments(cmd, args); err != nil {
				return err
			}
			if kind != "" && !slices.Contains(kinds, kind) {
				return fmt.Errorf("kind %q: unknown (%s)", kind, strings.Join(kinds, ", "))
			}
			f.Kind = history.Kind(kind)
			f.Since, err = parseSince(since, time.Now())
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "not older than this: a `time` (RFC 3339) or how long ago (90m, 12h)")
	flags.StringVar(&kind, "kind", "", "only this `kind`: "+strings.Join(kinds, ", "))
	flags.StringVar(&f.Subject, "subject", "", "only about this `subject`, as printed")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	path := configFlag(cmd)
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		events, err := c.History(cmd.Context(), f)
		if why := err; errors.Is(why, admin.ErrNoDaemon) {
			if events, err = keptHistory(why, *path, f); err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "lvx: %v; this is what it has kept\n", why)
			}
		}
		if err != nil {
			return err
		}
		if asJSON {
			if events == nil {
				events = []history.Event{}
			}
			return writeJSON(cmd.OutOrStdout(), events)
		}
		return printHistory(cmd.OutOrStdout(), events)
	})
	return cmd
}

// keptHistory reads what a daemon that does not answer, which err says, has kept. A
// file that is missing or broken leads to where lvx keeps it without one.
func keptHistory(err error, path string, f history.Filter) ([]history.Event, error) {
	dir := config.DefaultStateDir
	if cfg, broken := newReader().Load(path); broken == nil {
		dir = cfg.StateDir
	}
	events, failed := history.Read(filepath.Join(dir, history.FileName))
	if failed != nil {
		return nil, fmt.Errorf("%w; and what it has kept cannot be read: %w", err, failed)
	}
	return f.Choose(events), nil
}

// parseSince reads a time, or how long before now it was; "" is the beginning.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d.Abs()), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("since %q: neither a time (2026-11-26T03:00:00Z) nor how long ago (90m)", text)
	}
	return at, nil
}

func printHistory(w io.Writer, events []history.Event) error {
	for _, e := range events {
		by := ""
		if e.UID != nil {
			by = fmt.Sprintf(" (uid %d)", *e.UID)
		}
		if _, err := fmt.Fprintf(w, "%s %-8s %s: %s%s\n", e.Time.Local().Format(time.DateTime), e.Kind, guard.Text(e.Subject), guard.Text(e.Text), by); err != nil {
			return err
		}
	}
	return nil
}
