package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
)

func newMetricsCmd() *cobra.Command {
	var nonzero bool
	cmd := &cobra.Command{
		Use:   "metrics [NAME...]",
		Short: "print what /metrics says",
		Long: `Prints the daemon's metrics in Prometheus' text format, asked for through the
socket: no admin.listen is needed. With names only the samples of metrics whose
names begin so, without what explains them.`,
		Example: `  lvx metrics
  lvx metrics lvx_service_up
  lvx metrics --nonzero lvx_table lvx_packets lvx_frames_lost`,
	}
	cmd.Flags().BoolVar(&nonzero, "nonzero", false, "only samples that are not 0")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, names []string) error {
		if len(names) == 0 && !nonzero {
			return c.Metrics(cmd.Context(), cmd.OutOrStdout())
		}
		var text bytes.Buffer
		if err := c.Metrics(cmd.Context(), &text); err != nil {
			return err
		}
		return printSamples(cmd.OutOrStdout(), &text, names, nonzero)
	})
	return cmd
}

// printSamples prints the samples of metrics whose names begin with one of names, or
// of all. That there is none of a name is an error: it is misspelt.
func printSamples(w io.Writer, text io.Reader, names []string, nonzero bool) error {
	found := map[string]bool{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		n := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(line, name) })
		if n < 0 && len(names) > 0 {
			continue
		}
		if n >= 0 {
			found[names[n]] = true
		}
		if nonzero && strings.HasSuffix(line, " 0") {
			continue
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	for _, name := range names {
		if !found[name] && !slices.ContainsFunc(names, func(other string) bool { return found[other] && strings.HasPrefix(name, other) }) {
			return fmt.Errorf("metric %q: no name begins so (lvx metrics lists all)", name)
		}
	}
	return lines.Err()
}
