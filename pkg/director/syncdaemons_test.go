package director

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
)

// fakeDaemons notes what should run.
type fakeDaemons struct{ wanted, ofFile []ipvsadm.Daemon }

func (f *fakeDaemons) SetDaemons(daemons []ipvsadm.Daemon) { f.wanted = slices.Clone(daemons) }
func (f *fakeDaemons) DaemonsOfFile() []ipvsadm.Daemon     { return f.ofFile }
func (f *fakeDaemons) Status() []connsync.WireStatus       { return nil }

// Daemons of connection sync start and stop at once, stay across a restart, and
// end with the runtime layer; those of the file are the file's.
func TestDaemonsOfRuntimeLayer(t *testing.T) {
	const startMaster = "--start-daemon master --mcast-interface lo --syncid 9\n"
	cfg := configOf(service("web", 1, 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		if got := r.edit(startMaster); !strings.Contains(got, "XDP does not run here") {
			t.Errorf("without a table to share: %q", got)
		}
	})
	daemons := &fakeDaemons{}
	in := func(cfg *config.Config, f func(*testing.T, *rig)) {
		inBubble(t, cfg, func(t *testing.T, r *rig) {
			r.opt.SyncDaemons = daemons
			f(t, r)
		})
	}
	in(cfg, func(t *testing.T, r *rig) {
		if got := r.edit(startMaster); got != "" || len(daemons.wanted) != 1 || !daemons.wanted[0].Master || daemons.wanted[0].ID != 9 {
			t.Errorf("started: %q, %+v", got, daemons.wanted)
		}
		if got := r.edit(startMaster); got != "Daemon has already run" {
			t.Errorf("started again: %q", got)
		}
		if got := r.edit("--start-daemon backup --mcast-interface lo --mcast-group ff02::51\n"); !strings.Contains(got, "IPv4") || len(daemons.wanted) != 1 {
			t.Errorf("in a group of IPv6: %q, %+v", got, daemons.wanted)
		}
		if l, err := r.List(t.Context(), Want{}); err != nil || len(l.Daemons) != 1 {
			t.Errorf("listed: %+v, %v", l.Daemons, err)
		}
		if got := r.edit("--stop-daemon backup\n--stop-daemon master\n"); got != "No daemon is running" || len(daemons.wanted) != 0 {
			t.Errorf("stopped: %q, %+v", got, daemons.wanted)
		}
		r.edit(startMaster)
	})
	in(cfg, func(t *testing.T, r *rig) { // a restart: the layer is read before it is known who runs daemons
		if l, err := r.List(t.Context(), Want{}); err != nil || len(l.Daemons) != 1 {
			t.Errorf("after a restart: %+v, %v", l.Daemons, err)
		}
		if _, err := r.ClearRuntime(context.Background()); err != nil || len(daemons.wanted) != 0 {
			t.Errorf("layer forgotten: %v, %+v", err, daemons.wanted)
		}
	})
	own := *cfg
	own.Sync = config.Sync{SyncID: 5}
	daemons.ofFile = []ipvsadm.Daemon{{Master: true, Interface: "lo", ID: 5}}
	in(&own, func(t *testing.T, r *rig) {
		for rule, want := range map[string]string{
			startMaster: "Daemon has already run", "--stop-daemon master\n": "the configuration file runs",
			"--stop-daemon backup\n": "No daemon is running", "--start-daemon backup --mcast-interface lo\n": "the configuration file runs",
		} {
			if got := r.edit(rule); !strings.Contains(got, want) {
				t.Errorf("%s beside sync: in the file: %q", rule, got)
			}
		}
		if l, err := r.List(t.Context(), Want{}); err != nil || !slices.Equal(l.Daemons, daemons.ofFile) || len(daemons.wanted) != 0 {
			t.Errorf("listed: %+v, %v", l.Daemons, err)
		}
	})
}
