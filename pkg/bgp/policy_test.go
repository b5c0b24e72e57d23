package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	vip    = netip.MustParseAddr("192.0.2.100")
	vip6   = netip.MustParseAddr("2001:db8::100")
	moment = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// ask decides about one address.
func ask(p *Policy, at time.Duration, isServing, isReady, isDraining bool) Decision {
	return p.Decide(moment.Add(at), Input{
		VIPs:    []VIP{{Addr: vip, IsServing: isServing, Why: "no quorum"}},
		IsReady: isReady, NotReady: "sync is not in step", IsDraining: isDraining,
	})[0]
}

func TestFirstAnnouncementWaitsForReadinessAlone(t *testing.T) {
	p := &Policy{HoldUp: 3 * time.Second}
	if d := ask(p, 0, true, false, false); d.IsAnnounced || d.Reason != "sync is not in step" {
		t.Errorf("before it is ready: %+v", d)
	}
	if d := ask(p, time.Millisecond, true, true, false); !d.IsAnnounced || d.Reason != "" {
		t.Errorf("once it is: %+v", d)
	}
	if d := ask(p, time.Second, true, true, true); !d.IsAnnounced || !d.IsDraining {
		t.Errorf("draining: %+v", d)
	}
}

func TestWithdrawnAtOnceAndBackAfterAWhile(t *testing.T) {
	p := &Policy{HoldUp: 3 * time.Second}
	ask(p, 0, true, true, false)
	if d := ask(p, 10*time.Second, false, true, false); d.IsAnnounced || d.Reason != "no quorum" {
		t.Errorf("without quorum: %+v", d)
	}
	d := ask(p, 20*time.Second, true, true, false)
	if d.IsAnnounced || !d.Until.Equal(moment.Add(23*time.Second)) || !Next([]Decision{d}).Equal(d.Until) {
		t.Errorf("with quorum again: %+v", d)
	}
	if d := ask(p, 22*time.Second, false, true, false); d.IsAnnounced {
		t.Errorf("lost again while held: %+v", d)
	}
	if d := ask(p, 23*time.Second, true, true, false); d.IsAnnounced {
		t.Errorf("the hold begins anew: %+v", d)
	}
	if d := ask(p, 26*time.Second, true, true, false); !d.IsAnnounced || !Next([]Decision{d}).IsZero() {
		t.Errorf("after the hold: %+v", d)
	}
}

func TestFlappingWaitsLonger(t *testing.T) {
	p := &Policy{HoldUp: time.Second}
	at := time.Duration(0)
	var waits []time.Duration
	for range 14 {
		for begin := at; ; at += 100 * time.Millisecond {
			if ask(p, at, true, true, false).IsAnnounced {
				waits = append(waits, at-begin)
				break
			}
		}
		at += 100 * time.Millisecond
		ask(p, at, false, true, false)
		d := ask(p, at, true, true, false)
		if is, want := strings.HasPrefix(d.Reason, "flapping, withdrawn"), len(waits) > freeFlaps; is != want {
			t.Errorf("withdrawn %d times: %+v", len(waits), d)
		}
		ask(p, at, false, true, false) // it was not announced: this is no withdrawal
	}
	want := []int{0, 1, 1, 1, 1, 1, 2, 4, 8, 16, 32, 60, 60, 60}
	for i, w := range want {
		if at := time.Duration(w) * time.Second; waits[i] != at {
			t.Errorf("announcement %d after %s (%s)", i, waits[i], at)
		}
	}
	at += flapWindow
	ask(p, at, true, true, false)
	if d := ask(p, at+time.Second, true, true, false); !d.IsAnnounced {
		t.Errorf("five quiet minutes later: %+v", d)
	}
}

// What must hold whatever happens: nothing that does not serve, or before the
// director is ready, is announced; what serves without a break for a minute
// is; nothing is remembered of addresses that are gone.
func TestPolicyHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Policy{HoldUp: time.Duration(rapid.IntRange(0, 5000).Draw(t, "hold up")) * time.Millisecond}
		at, unbroken := time.Duration(0), time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			pause := time.Duration(rapid.IntRange(0, 30_000).Draw(t, "pause")) * time.Millisecond
			serving, ready := rapid.Bool().Draw(t, "serving"), rapid.IntRange(0, 9).Draw(t, "ready") > 0
			at += pause
			d := ask(p, at, serving, ready, false)
			if d.IsAnnounced && (!serving || !ready) {
				t.Fatalf("announced although serving %t, ready %t", serving, ready)
			}
			if !d.IsAnnounced && d.Reason == "" {
				t.Fatal("not announced without a reason")
			}
			if !serving {
				unbroken = at
				continue
			}
			if ready && at-unbroken >= maxHold+30*time.Second && !d.IsAnnounced {
				t.Fatalf("served for %s and is not announced: %+v", at-unbroken, d)
			}
		}
		if p.Decide(moment, Input{}); len(p.known) != 0 {
			t.Fatalf("%d addresses remembered of none", len(p.known))
		}
	})
}
