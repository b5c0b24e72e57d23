package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/daemon"
)

// stopTimeout is how long a daemon may take to hand over and end.
const stopTimeout = 30 * time.Second

func newStopCmd() *cobra.Command {
	var path string
	var purge bool
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "end the daemon; with --purge nothing of it stays",
		Long: `Ends the daemon as SIGTERM does, and waits for its end: VRRP hands over, and the
packet path serves on for stop_grace (10 s), so that a daemon that starts by
then loses nothing. Without one the host falls silent. With --purge everything
of lvx is taken off this host at once.`,
		Example: "  lvx stop\n  lvx stop --purge",
		Args:    noArguments,
	}
	socket := socketFlag(cmd)
	cmd.Flags().BoolVar(&purge, "purge", false, "take everything of lvx off this host")
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration `file`, for --purge (default: what the daemon runs with)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := mustBeRoot("stop", os.Geteuid()); err != nil {
			return err
		}
		client := admin.NewClient(*socket)
		pid, err := client.PID(cmd.Context())
		if err != nil {
			return err
		}
		load := func() (*config.Config, error) { return config.Load(cmp.Or(path, defaultConfig)) }
		if purge && path == "" {
			load = runningConfig(cmd.Context(), client, load)
		}
		if err := endProcess(pid, stopTimeout); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "stopped (process %d)\n", pid)
		if !purge {
			return nil
		}
		return purgeAll(cmd, load)
	}
	return cmd
}

// runningConfig asks the daemon, while it runs, what it runs with: that says where
// it keeps its things. What it cannot say, load does.
func runningConfig(ctx context.Context, client *admin.Client, load func() (*config.Config, error)) func() (*config.Config, error) {
	text, err := client.Export(ctx, false)
	if err != nil {
		return load
	}
	return func() (*config.Config, error) { return config.Parse("what the daemon ran with", []byte(text)) }
}

// endProcess sends SIGTERM and waits for the end.
func endProcess(pid int, timeout time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("SIGTERM to process %d: %w", pid, err)
	}
	for until := time.Now().Add(timeout); ; {
		left := time.Until(until)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, max(0, int(left.Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("process %d: %w", pid, err)
		case n == 0:
			return fmt.Errorf("process %d has not ended within %v (look at its log; kill -9 leaves the packet path serving)", pid, timeout)
		default:
			return nil
		}
	}
}

func newPurgeCmd() *cobra.Command {
	var path string
	var whenStopped bool
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "take off this host what a daemon that has ended left",
		Long: `Takes off this host what a daemon that has ended left serving: first the VIPs,
then the XDP program, its maps, and lvx's services in the kernel's IPVS. A
daemon that runs keeps everything (lvx stop --purge). With --when-stopped it
does so only if systemd is stopping the unit, not if it restarts it: that is
what the unit's ExecStopPost is for.`,
		Example: "  lvx purge\n  lvx purge -c /etc/lvx/lvx.yaml",
		Args:    noArguments,
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`: where lvx keeps its things")
	cmd.Flags().BoolVar(&whenStopped, "when-stopped", false, "only if systemd is stopping lvx")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := mustBeRoot("purge", os.Geteuid()); err != nil {
			return err
		}
		if whenStopped {
			job, err := daemon.SystemdJob(cmd.Context(), os.Getpid())
			if err != nil || job != daemon.JobStop {
				return err
			}
		}
		return purgeAll(cmd, func() (*config.Config, error) { return config.Load(path) })
	}
	return cmd
}

// purgeAll removes everything that the configuration leads to. A file that is
// broken leads to the places that lvx has without one.
func purgeAll(cmd *cobra.Command, load func() (*config.Config, error)) error {
	cfg, err := load()
	if err != nil {
		if _, missing := os.Stat(config.DefaultPinDir); missing != nil {
			return fmt.Errorf("%s; and nothing is in %s (name the file that lvx ran with: -c FILE)", oneLine(err.Error()), config.DefaultPinDir)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "lvx: %s; looking in %s and %s\n", oneLine(err.Error()), config.DefaultPinDir, config.DefaultStateDir)
		cfg = &config.Config{PinDir: config.DefaultPinDir, StateDir: config.DefaultStateDir}
	}
	lock, err := admin.Lock(admin.DefaultLockDir, cfg.PinDir)
	if pid := admin.LockHolder(admin.DefaultLockDir, cfg.PinDir); err != nil && pid != "" {
		return fmt.Errorf("lvx runs with pin_dir %s (process %s); to end it first: lvx stop --purge", cfg.PinDir, pid)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := daemon.Purge(cmd.Context(), cfg); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "nothing of lvx is left")
	return nil
}
