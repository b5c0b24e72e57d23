package daemon

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
)

// A director that has joined announces on when a peer of sync goes away: it
// would leave its clients to nobody.
func TestJoiningEndsOnce(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name  string
		looks []bool // a second apart: in step
		want  []bool // under way
	}{
		{"in step from the first", []bool{true, false, true}, []bool{false, false, false}},
		{"in step after a while", []bool{false, false, true, false, false}, []bool{true, true, false, false, false}},
		{"never in step", make([]bool, 40), append(repeat(true, int(syncLimit/time.Second)), repeat(false, 40-int(syncLimit/time.Second))...)},
	} {
		j := joining{began: began}
		for i, isInStep := range test.looks {
			if got := j.isUnderWay(began.Add(time.Duration(i)*time.Second), isInStep); got != test.want[i] {
				t.Errorf("%s: after %d s under way: %t, want %t", test.name, i, got, test.want[i])
			}
		}
	}
}

// Once a stop has begun, undoing an operator's drain announces nothing any more: routers would send
// packets here until the data path has ended.
func TestUndoneDrainWhileTheDaemonStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, isDrained := range map[string]bool{"not drained": false, "drained": true} {
			r := &routes{changed: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler)}
			r.cfg.DrainTime = 5 * time.Second
			announced := bgp.Decision{Addr: netip.MustParseAddr("198.51.100.100"), IsAnnounced: true}
			r.status.VIPs = []bgp.Decision{announced}
			if isDrained {
				r.Drain(true)
			}
			go func() {
				time.Sleep(time.Second)
				r.Drain(false)
				time.Sleep(5 * time.Second)
				r.mu.Lock()
				defer r.mu.Unlock()
				if r.drain.reason(time.Now()) != "" {
					r.status.VIPs = nil // as announce would
				}
			}()
			began := time.Now()
			r.leave(t.Context())
			if took := time.Since(began); took > r.cfg.DrainTime+3*withdrawWait {
				t.Errorf("%s: nothing was withdrawn before the end, after %s", name, took)
			}
		}
	})
}

func repeat(b bool, n int) []bool {
	all := make([]bool, n)
	for i := range all {
		all[i] = b
	}
	return all
}
