package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/guard"
)

func newSyncCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "connections that are shared with other directors",
		Long: `Connections and persistence templates are told to the directors that sync: in
the configuration names, so that they go on there when this one fails.`,
		Args: noArguments,
	}
	cmd.AddCommand(newSyncStatusCmd(), newSyncImportCmd(), newSyncPushCmd())
	return cmd
}

func newSyncStatusCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "the other directors: who is in step, since when, how far behind",
		Example: `  lvx sync status
  lvx sync status --json | jq '.peers[] | select(.in_sync | not)'`,
		Args: noArguments,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		st, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		if st.Sync == nil {
			st.Sync = &connsync.Status{}
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), st.Sync)
		}
		s := &screen{now: st.Now, color: colors(cmd.OutOrStdout())}
		s.sync(st.Sync)
		if s.b.Len() == 0 {
			s.line("", "connections are shared with nobody (see sync: in the configuration)")
		}
		_, err = io.WriteString(cmd.OutOrStdout(), strings.TrimPrefix(s.b.String(), "\n"))
		return err
	})
	return cmd
}

// sync shows the other directors.
func (s *screen) sync(st *connsync.Status) {
	if st == nil || len(st.Peers) == 0 && len(st.Wires()) == 0 {
		return
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		for _, p := range st.Peers {
			class, state, detail := "down", "no session", guard.Text(p.Reason)
			if p.Cure != "" {
				detail += " (" + guard.Text(p.Cure) + ")"
			}
			if p.IsUp {
				class, state = "drained", "catching up"
				if p.IsInSync {
					class, state = "up", "in step"
				}
				detail = fmt.Sprintf("lag %s, %d sent, %d received, %d rejected, key %s (ours %s)",
					p.Lag.Round(100*time.Microsecond), p.Sent, p.Received, p.Rejected, p.Key, st.Key)
			}
			if len(p.Differs) > 0 {
				detail += ", differs in " + guard.Text(strings.Join(p.Differs, ", "))
			}
			row(class, "sync "+p.Peer.String(), state, s.ago(p.Since), detail)
		}
		for _, w := range st.Wires() {
			row("", fmt.Sprintf("sync with kernel IPVS, syncid %d", w.SyncID), wireRole(&w), "",
				fmt.Sprintf("%d sent, %d received, %d rejected, datagrams: %d malformed, %d of another syncid, %d entries too many, %d not sent %s",
					w.Sent, w.Received, w.Rejected, w.Malformed, w.Foreign, w.Dropped, w.Unsent, guard.Text(w.Fault)))
		}
	})
}

// wireRole is what ipvsadm -L --daemon calls it.
func wireRole(w *connsync.WireStatus) string {
	switch {
	case w.Sends && w.Hears:
		return "master and backup"
	case w.Sends:
		return "master"
	case w.Hears:
		return "backup"
	}
	return "idle"
}

func newSyncImportCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "take the connections of a director that runs kernel IPVS",
		Long: `Takes the connections that /proc/net/ip_vs_conn lists on a director that runs
kernel IPVS, idle ones too: its multicasts tell only of connections that have
traffic. FILE is - for standard input. Connections of real servers that are not up
or not in the configuration here count as taken, and wait a minute for them.`,
		Example: `  ssh lb1 cat /proc/net/ip_vs_conn | lvx sync import -`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) error {
		list, err := readListed(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		r, err := c.SyncImport(cmd.Context(), list)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d connections taken, %d rejected\n", r.Done, r.Rejected)
		return nil
	})
	return cmd
}

// maxListed bounds a list of connections: some 400,000 lines.
const maxListed = 32 << 20

func readListed(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	list, err := io.ReadAll(io.LimitReader(r, maxListed+1))
	if err == nil && len(list) > maxListed {
		err = fmt.Errorf("more than %d MiB: give it in parts, each with whole lines", maxListed>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("list of connections: %w", err)
	}
	return list, nil
}

func newSyncPushCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "push",
		Short: "send every connection to directors that run kernel IPVS",
		Long: `Sends every connection and template to the multicast group of kernel IPVS,
slowly enough for its receive buffer. For a backup that was started late.`,
		Example: `  lvx sync push`,
		Args:    noArguments,
	}
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		r, err := c.SyncPush(cmd.Context())
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d connections sent\n", r.Done)
		return nil
	})
	return cmd
}
