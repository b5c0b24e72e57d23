package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/daemon"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
)

// defaultConfig is the file that is read if none is named.
const defaultConfig = "/etc/lvx/lvx.yaml"

func newRunCmd() *cobra.Command {
	var path, format, level string
	var rehearse bool
	var log *slog.Logger
	cmd := &cobra.Command{
		Use:   "run",
		Short: "the director: serve until SIGTERM",
		Long: `Runs the director in the foreground: loads the data path, attaches it, checks
the real servers, holds and announces the VIPs, until SIGTERM or SIGINT. Then
VRRP hands over; what nobody took over the packet path serves on for stop_grace
(10 s), for a daemon that starts by then, and falls silent after that (lvx stop
--purge and lvx purge take everything off at once). SIGHUP or lvx reload reads
the configuration again. A keepalived.conf is recognized by its content and read
as lvx import reads it.`,
		Example: `  lvx run
  lvx run -c ./lvx.yaml --log-level debug
  lvx run -c /etc/keepalived/keepalived.conf
  systemctl reload lvx`,
		Args: func(cmd *cobra.Command, args []string) (err error) {
			if err := noArguments(cmd, args); err != nil {
				return err
			}
			log, err = newLogger(cmd.ErrOrStderr(), format, level)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "config", "c", defaultConfig, "configuration `file`, lvx.yaml or keepalived.conf")
	f.StringVar(&format, "log-format", "text", "`format` of the log on stderr: text or json")
	f.StringVar(&level, "log-level", "info", "least `level` that is logged: debug, info, warn or error")
	f.BoolVar(&rehearse, "rehearse", false, "do all of the start that needs no ownership, and end")
	_ = f.MarkHidden("rehearse") // lvx upgrade's
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		err := runDaemon(cmd, path, rehearse, log)
		if err != nil {
			goBack(log, err)
		}
		return err
	}
	return cmd
}

func runDaemon(cmd *cobra.Command, path string, rehearse bool, log *slog.Logger) error {
	if err := mustBeRoot("run", os.Geteuid()); err != nil {
		return err
	}
	file := newReader()
	cfg, err := load(file, path)
	if err != nil {
		return err
	}
	if rehearse {
		return rehearseStart(cmd.OutOrStdout(), cfg, loader.Verify)
	}
	return serveConfig(cmd.Context(), file, path, cfg, log)
}

// serveConfig runs the daemon until SIGTERM or SIGINT, or until another binary takes
// its place.
func serveConfig(ctx context.Context, file *config.Reader, path string, cfg *config.Config, log *slog.Logger) error {
	lock, err := admin.Lock(admin.DefaultLockDir, cfg.PinDir)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	o := daemon.Options{
		Config: cfg, Version: version, Log: log, Reload: hangups(ctx), Served: forgetFallback,
		Load:  func() (*config.Config, error) { return load(file, path) },
		Text:  file.Text,
		Parse: func(text []byte) (*config.Config, error) { return config.Parse("the file to compare with", text) },
	}
	if w, ok := failedUpgrade(); ok {
		o.Warnings = append(o.Warnings, w)
	}
	binary, err := daemon.Serve(ctx, o)
	_ = lock.Close() // at the end of the process at the latest
	if err != nil || binary == "" {
		return err
	}
	return takeOver(binary) // an error: the packet path serves on, systemd starts this one again
}

// rehearseStart does what a start does and what needs no ownership. Where XDP serves,
// backend auto is no reason to take a binary that would give it up.
func rehearseStart(w io.Writer, cfg *config.Config, verify func() error) error {
	if cfg.Backend != config.BackendIPVS {
		if err := verify(); err != nil && (cfg.Backend == config.BackendXDP || loader.IsAttached(cfg.PinDir)) {
			return err
		}
	}
	_, err := fmt.Fprintln(w, daemon.Rehearsed)
	return err
}

func mustBeRoot(verb string, uid int) error {
	if uid != 0 {
		return fmt.Errorf("%s: needs root, for BPF, addresses and raw sockets (try: sudo lvx %s)", verb, verb)
	}
	return nil
}

// newLogger writes to stderr: systemd adds the time that people read, the
// time here is for files.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: unknown (debug, info, warn or error)", level)
	}
	o.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, fmt.Errorf("log format %q: unknown (text or json)", format)
}

// load reads the configuration and refuses what this host cannot run: the error
// then comes with the configuration. What load warns about is among the
// configuration's warnings.
func load(file *config.Reader, path string) (*config.Config, error) {
	cfg, err := file.Load(path)
	if err != nil {
		return nil, err
	}
	found := daemon.Preflight(cfg, hostinfo.Examine(daemon.Interfaces(cfg)))
	if err := daemon.Refusal(found); err != nil {
		return cfg, err
	}
	warned := *cfg // the reader keeps cfg to compare with
	warned.Warnings = nil
	for _, f := range found {
		if f.Passing { // the daemon says it, as long as it lasts
			continue
		}
		warned.Warnings = append(warned.Warnings, f.Text)
	}
	return &warned, nil
}

// hangups sends a value for every SIGHUP until ctx ends.
func hangups(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	asked := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
			select {
			case asked <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return asked
}
