package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/guard"
)

func newDiffCmd() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "what a reload would change, and which connections it would end",
		Long: `Compares a configuration with what the daemon runs and prints a line for each
thing that a reload would change, with the number of connections that this would
end now. Nothing is changed. Without -c it is the file that the daemon was
started with.

The exit status is 0 if there is nothing to change, 1 if there is, 2 if the
question cannot be answered.`,
		Example: `  lvx diff
  lvx diff -c ./new.yaml || lvx reload`,
		Args: noArguments,
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "another configuration `file` to compare with")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		text, err := readConfig(path)
		if err != nil {
			return statusError{exitUsage, err}
		}
		lines, err := c.Diff(cmd.Context(), text)
		if err != nil {
			return statusError{exitUsage, err}
		}
		for _, line := range lines {
			fmt.Fprintln(cmd.OutOrStdout(), guard.Text(line))
		}
		if len(lines) > 0 {
			return statusError{exitFailed, nil}
		}
		return nil
	})
	return cmd
}

// readConfig reads a file that the daemon is to parse; nil if none is named.
// A mistake is found here, where the file's name is known.
func readConfig(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		var failed *fs.PathError
		errors.As(err, &failed)
		return nil, fmt.Errorf("configuration %s: %w", path, failed.Err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, config.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, errors.New(path + ": empty file")
	}
	_, err = config.Parse(path, text)
	return text, err
}
