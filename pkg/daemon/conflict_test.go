package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

func texts(found []Finding, l Level) string {
	var all []string
	for _, f := range found {
		if f.Level == l {
			all = append(all, f.Text)
		}
	}
	return strings.Join(all, "\n")
}

// What a start would warn of, or refuse, is said before; what a running lvx
// has itself is neither.
func TestPreflightOfAHost(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	good := hostinfo.Host{Recent: true, Interfaces: []hostinfo.Interface{{Name: "eth0", Native: true}, {Name: "wg0", NoEthernet: true}}}
	for name, c := range map[string]struct {
		spoil    func(t *testing.T, cfg *config.Config)
		refused  string
		warnings string
	}{
		"nothing": {func(*testing.T, *config.Config) {}, "", ""},
		"notes": {func(t *testing.T, cfg *config.Config) {
			if err := os.WriteFile(filepath.Join(cfg.StateDir, "overrides.json"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "", "overrides.json: empty file"},
		"state_dir is a file": {func(t *testing.T, cfg *config.Config) {
			cfg.StateDir = filepath.Join(cfg.StateDir, "file")
			if err := os.WriteFile(cfg.StateDir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "", "state_dir: open "},
		"listener": {func(_ *testing.T, cfg *config.Config) { cfg.Admin.Listen = busy.Addr().String() }, "", "admin.listen: no metrics"},
		"listener of a running lvx": {func(t *testing.T, cfg *config.Config) {
			l, err := net.Listen("unix", cfg.Admin.Socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			cfg.Admin.Listen = busy.Addr().String()
		}, "", ""},
		"socket": {func(t *testing.T, cfg *config.Config) {
			if err := os.Mkdir(cfg.Admin.Socket, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "a file that is no socket is in the way", ""},
		"no Ethernet": {func(_ *testing.T, cfg *config.Config) { cfg.Interfaces = []string{"wg0"} }, "interface wg0: no Ethernet address", ""},
		"scheduler": {func(_ *testing.T, cfg *config.Config) {
			cfg.Services = []config.Service{{Service: lb.Service{Name: "web", Scheduler: "best"}}}
		}, "service web: scheduler", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := &config.Config{Interfaces: []string{"eth0"}, Backend: config.BackendXDP, StateDir: dir}
			cfg.Admin.Socket = filepath.Join(dir, "sock")
			c.spoil(t, cfg)
			found := Preflight(cfg, good)
			if got := texts(found, Refused); (got == "") != (c.refused == "") || !strings.Contains(got, c.refused) {
				t.Errorf("refused: %q, want %q", got, c.refused)
			}
			if got := texts(found, Warning); (got == "") != (c.warnings == "") || !strings.Contains(got, c.warnings) {
				t.Errorf("warnings: %q, want %q", got, c.warnings)
			}
		})
	}
}

// Another XDP program is refused, lvx's own is not.
func TestForeignProgram(t *testing.T) {
	cluster := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	peer := cluster.Switch() // has a program on each of its ports
	var port string
	tb.Do(t, peer, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if x := l.Attrs().Xdp; x != nil && x.Attached {
				port = l.Attrs().Name
			}
		}
		return err
	})
	cfg := &config.Config{Interfaces: []string{port}, PinDir: t.TempDir()}
	tb.Do(t, peer, func() error {
		if err := foreignProgram(cfg); err == nil || !strings.Contains(err.Error(), "another XDP program is attached") {
			t.Errorf("another's program: %v", err)
		}
		if err := os.WriteFile(filepath.Join(cfg.PinDir, "link_"+port), nil, 0o600); err != nil {
			return err
		}
		if err := foreignProgram(cfg); err != nil {
			t.Errorf("lvx's own: %v", err)
		}
		return nil
	})
}
