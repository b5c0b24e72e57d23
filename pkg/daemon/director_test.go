package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// directorEnv makes the test binary a director in its own right: a process of
// its own, because a network namespace is a thread's and a director has many.
const directorEnv = "LVX_TEST_DIRECTOR"

func TestMain(m *testing.M) {
	if file := os.Getenv(directorEnv); file != "" {
		if err := runDirector(file); err != nil {
			fmt.Fprintln(os.Stderr, "director:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runDirector runs a director until SIGTERM. The job that systemd has for it is
// in the environment.
func runDirector(file string) error {
	if job, ok := os.LookupEnv("LVX_TEST_JOB"); ok {
		dir, err := os.MkdirTemp("", "lvx-bus-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		l, err := bus{job: job}.listen(filepath.Join(dir, "bus"))
		if err != nil {
			return err
		}
		defer l.Close()
		os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(dir, "bus"))
		os.Setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
	}
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	_, err = Serve(ctx, Options{
		Config: cfg, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Load: func() (*config.Config, error) { return config.Load(file) },
	})
	return err
}

// inProcess is a director that runs on a host.
type inProcess struct {
	*testenv.Host
	file, hooks string
	p           *testenv.Process
}

func newDirector(t *testing.T, h *testenv.Host) *inProcess {
	t.Helper()
	w := &inProcess{Host: h, file: filepath.Join(h.Dir(), "lvx.yaml"), hooks: filepath.Join(h.Dir(), "hooks.log")}
	text := fmt.Sprintf(`interface: eth0
pin_dir: %s
state_dir: %s
admin: {socket: %s}
notify: {exec: ["/bin/sh %s"]}
services:
  - {name: web, listen: ["172.25.0.100:80/tcp"], reals: [{address: 172.25.0.12}]}
  - {name: other, listen: ["172.25.0.101:80/tcp"], reals: [{address: 172.25.0.12}]}
vrrp:
  - {name: VI_1, interface: eth0, virtual_router_id: 51, priority: 100, version: 3, advert_interval: 100ms, addresses: [172.25.0.101/24]}
`, h.PinDir(), h.Dir(), filepath.Join(h.Dir(), "lvx.sock"), filepath.Join(h.Dir(), "hook"))
	hook := fmt.Sprintf("echo $LVX_KIND $LVX_NAME $LVX_NEW >> %s\n", w.hooks)
	for name, text := range map[string]string{w.file: text, filepath.Join(h.Dir(), "hook"): hook} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		tb.Do(t, h, func() error {
			cfg, err := config.Load(w.file)
			if err != nil {
				return err
			}
			return Purge(context.Background(), cfg)
		})
	})
	return w
}

// start runs it and waits until it is master of what VRRP has.
func (w *inProcess) start(t *testing.T, env ...string) {
	t.Helper()
	var err error
	argv := append([]string{"env", directorEnv + "=" + w.file}, env...)
	if w.p, err = w.Start(append(argv, os.Args[0])...); err != nil {
		t.Fatal(err)
	}
	tb.Eventually(t, time.Minute, func() error {
		select {
		case <-w.p.Done():
			return testenv.Final(fmt.Errorf("it ended: %s", w.p.Output()))
		default:
		}
		log := w.p.Output()
		if own, vrrp := w.hasVIPs(t); !own || !vrrp || !strings.Contains(log, "msg=serving") || !strings.Contains(log, "to=MASTER") {
			return fmt.Errorf("VIPs: own %v, VRRP's %v\n%s", own, vrrp, log)
		}
		return nil
	})
}

// stop ends it and returns what its log says after that began.
func (w *inProcess) stop(t *testing.T) string {
	t.Helper()
	before := len(w.p.Output())
	if err := w.p.Stop(); err != nil {
		t.Fatalf("%v\n%s", err, w.p.Output())
	}
	return w.p.Output()[before:]
}

func (w *inProcess) hasVIPs(t *testing.T) (own, vrrp bool) {
	t.Helper()
	out := tb.Run(t, w.Host, "ip", "addr", "show", "dev", "eth0")
	return strings.Contains(out, "172.25.0.100/32"), strings.Contains(out, "172.25.0.101/24")
}

// What systemd is about to do decides how a director ends: on a restart nobody
// is told and nothing handed over; otherwise VRRP resigns, and what nobody
// takes over waits for the next start.
func TestEndOfADirector(t *testing.T) {
	for job, c := range map[string]struct {
		env      []string
		says     []string
		silence  []string // what must not be said
		notified bool
	}{
		"restart": {[]string{"LVX_TEST_JOB=restart"}, []string{"serves on for a successor"}, []string{"transition", "stopped"}, false},
		"stop":    {[]string{"LVX_TEST_JOB=stop"}, []string{"serves on for a successor", "no successor spoke: the VIPs wait for the next start"}, nil, true},
		"nobody":  {nil, []string{"serves on for a successor", "no successor spoke: the VIPs wait for the next start"}, nil, true},
	} {
		t.Run(job, func(t *testing.T) {
			w := newDirector(t, tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1}).Host("d1"))
			w.start(t, c.env...)
			log := w.stop(t)
			for _, text := range c.says {
				if !strings.Contains(log, text) {
					t.Errorf("the log does not say %q:\n%s", text, log)
				}
			}
			for _, text := range c.silence {
				if strings.Contains(log, text) {
					t.Errorf("the log says %q:\n%s", text, log)
				}
			}
			hooks, _ := os.ReadFile(w.hooks) // there may be none
			if got := strings.Contains(string(hooks), "vrrp VI_1 INIT"); got != c.notified {
				t.Errorf("notified of the end: %v, want %v:\n%s", got, c.notified, hooks)
			}
			if own, vrrp := w.hasVIPs(t); !own || !vrrp {
				t.Errorf("VIPs after the end: own %v, VRRP's %v", own, vrrp)
			}
			w.start(t)
			if log := w.p.Output(); job == "restart" && !strings.Contains(log, "resumes after a restart") {
				t.Errorf("the successor does not go on as master:\n%s", log)
			}
			_ = w.stop(t)
		})
	}
}

// All of a director is in one process: it serves, answers, reloads, and starts
// anew in place for what it is made of.
func TestDirectorInOneProcess(t *testing.T) {
	w := newDirector(t, tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1}).Host("d1"))
	w.start(t)
	defer w.stop(t)
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "interface: eth0", "xdp_mode: generic\ninterface: eth0", 1)
	if err := os.WriteFile(w.file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string, answer any) error {
		out, err := w.Run(t.Context(), "curl", "-sS", "--fail-with-body", "--unix-socket", filepath.Join(w.Dir(), "lvx.sock"), "-X", method, "-d", "{}", "http://lvx"+path)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return json.Unmarshal([]byte(out), answer)
	}
	var r director.Result
	if err := ask("POST", "/v1/reload", &r); err != nil || !r.Renews || !slices.ContainsFunc(r.Did, func(s string) bool { return strings.HasPrefix(s, "xdp_mode: changed") }) {
		t.Fatalf("reload: %v, %+v\n%s", err, r, w.p.Output())
	}
	tb.Eventually(t, time.Minute, func() error {
		if out := tb.Run(t, w.Host, "ip", "-details", "link", "show", "dev", "eth0"); !strings.Contains(out, "xdpgeneric") {
			return fmt.Errorf("not in generic mode:\n%s\n%s", out, w.p.Output())
		}
		return nil
	})
	if own, vrrp := w.hasVIPs(t); !own || !vrrp {
		t.Errorf("VIPs after the reload: own %v, VRRP's %v", own, vrrp)
	}
}
