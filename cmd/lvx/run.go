package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
)

// defaultConfig is the file that is read if none is named.
const defaultConfig = "/etc/lvx/lvx.yaml"

func newRunCmd() *cobra.Command {
	var path, format, level string
	var log *slog.Logger
	cmd := &cobra.Command{
		Use:   "run",
		Short: "the director: serve until SIGTERM",
		Long: `Runs the director in the foreground: loads the data path, attaches it, checks
the real servers, holds and announces the VIPs, until SIGTERM or SIGINT. Then
nothing of it is left. SIGHUP or lvx reload reads the configuration again.`,
		Example: `  lvx run
  lvx run -c ./lvx.yaml --log-level debug
  systemctl reload lvx`,
		Args: func(cmd *cobra.Command, args []string) (err error) {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return err
			}
			log, err = newLogger(cmd.ErrOrStderr(), format, level)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "config", "c", defaultConfig, "configuration `file`")
	f.StringVar(&format, "log-format", "text", "`format` of the log on stderr: text or json")
	f.StringVar(&level, "log-level", "info", "least `level` that is logged: debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := mustBeRoot(os.Geteuid()); err != nil {
			return err
		}
		file := new(config.Reader)
		cfg, err := file.Load(path)
		if err != nil {
			return err
		}
		if err := interfacesExist(cfg); err != nil {
			return err
		}
		lock, err := admin.Lock(admin.DefaultLockDir, cfg.PinDir)
		if err != nil {
			return err
		}
		defer lock.Close()
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		d, err := newDaemon(ctx, cfg, func() (*config.Config, error) { return reread(file, path) }, log)
		if err != nil {
			return err
		}
		return d.run(ctx)
	}
	return cmd
}

func mustBeRoot(uid int) error {
	if uid != 0 {
		return errors.New("run: needs root, for BPF, addresses and raw sockets (try: sudo lvx run)")
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

// reread reads the configuration for a reload.
func reread(file *config.Reader, path string) (*config.Config, error) {
	cfg, err := file.Load(path)
	if err != nil {
		return nil, err
	}
	return cfg, interfacesExist(cfg)
}

// interfacesExist finds a misspelt interface before anything is attached.
func interfacesExist(cfg *config.Config) error {
	for _, name := range interfaces(cfg) {
		if _, err := net.InterfaceByName(name); err != nil {
			return fmt.Errorf("interface %s: no such interface (there are %s)", name, interfaceNames())
		}
	}
	return nil
}

// interfaces are all that the configuration names, each once.
func interfaces(cfg *config.Config) []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, name := range cfg.Interfaces {
		add(name)
	}
	for _, inst := range cfg.VRRP {
		add(inst.Interface)
	}
	return names
}

func interfaceNames() string {
	list, err := net.Interfaces()
	if err != nil {
		return "none to be seen"
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return strings.Join(names, ", ")
}

// onHangup calls f for every SIGHUP until ctx ends.
func onHangup(ctx context.Context, f func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			f()
		case <-ctx.Done():
			return
		}
	}
}
