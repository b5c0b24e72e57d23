package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/loader/losses"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// A loss is warned of while there are new ones, by whoever counts them: what was
// lost before the daemon began is none.
func TestLossesAreWarnedOfWhileTheyGoOn(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	frames, errors := uint64(100), uint64(7)
	l := &lossWatch{
		interfaces: []string{"eth0", "eth1"}, warnings: warnings.New(log), log: log,
		kernel: func() ([]losses.Count, error) {
			return []losses.Count{{Interface: "eth0", Loss: losses.TX, Frames: frames}, {Interface: "eth1", Loss: losses.TX}}, nil
		},
		driver: func(iface string) (map[string]uint64, error) {
			if iface == "eth1" {
				return map[string]uint64{"tx_xdp_tx_drops": errors}, nil
			}
			return nil, nil
		},
		said: map[string]map[string]uint64{}, total: map[string]uint64{}, lastOne: map[string]time.Time{},
	}
	now := time.Now()
	look := func(after time.Duration, want ...string) {
		t.Helper()
		now = now.Add(after)
		l.look(now)
		var got []string
		for _, w := range l.warnings.List() {
			got = append(got, w.Kind+" "+w.Subject)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after another %s (-want +got):\n%s", after, diff)
		}
	}
	look(0)
	look(lossPeriod)
	frames++
	look(lossPeriod, "frames-lost interface eth0")
	look(lossMemory-1, "frames-lost interface eth0")
	errors++
	look(1, "frames-lost interface eth1")
	look(lossMemory)
	want := []director.Loss{
		{Interface: "eth0", Counter: "xdp_tx", Frames: 101}, {Interface: "eth1", Counter: "xdp_tx"},
		{Interface: "eth1", Counter: "tx_xdp_tx_drops", IsDrivers: true, Frames: 8},
	}
	if diff := cmp.Diff(want, l.list()); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
}

// Native mode is given up where nearly all of what was sent in one period is
// lost, and never because a count could not be read.
func TestNativeModeIsGivenUpForLosses(t *testing.T) {
	now := balance{sent: 1000, lost: 500} // before the daemon began
	var unreadable error
	var given []balance
	l := &lossWatch{
		log: slog.New(slog.DiscardHandler),
		kernel: func() ([]losses.Count, error) {
			return []losses.Count{{Interface: "eth0", Loss: losses.TX, Frames: now.lost}, {Interface: "eth0", Loss: losses.Redirect, Frames: 1e6}}, nil
		},
		sentBack: func() (uint64, error) { return now.sent, unreadable },
		giveUp:   func(_ context.Context, lost, sent uint64) { given = append(given, balance{sent, lost}) },
	}
	look := func(sent, lost uint64, want ...balance) {
		t.Helper()
		given = nil
		now.sent, now.lost = now.sent+sent, now.lost+lost
		l.judge(t.Context())
		if !slices.Equal(given, want) {
			t.Errorf("%d sent and %d lost: given up for %v, want %v", sent, lost, given, want)
		}
	}
	look(0, 0)
	look(1000, 10)
	look(hopelessFrames-1, hopelessFrames-1)
	look(100, 89)
	unreadable = errors.New("no such map")
	look(0, 100)
	unreadable = nil
	look(1000, 0)
	look(100, 90, balance{sent: 100, lost: 90})
	look(50, 50, balance{sent: 50, lost: 50})
}
