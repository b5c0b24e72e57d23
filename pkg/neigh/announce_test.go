package neigh

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sent is what a fakeSegment saw of one VIP.
type sent map[netip.Addr][]time.Duration

type fakeSegment struct {
	mu     sync.Mutex
	start  time.Time
	up     chan linkEvent
	claims chan claim
	sent   map[string]sent
	bursts map[time.Duration]int
	err    error
	closed bool
}

func (f *fakeSegment) open() (<-chan linkEvent, <-chan claim, error) { return f.up, f.claims, nil }
func (f *fakeSegment) close()                                        { f.closed = true }

// set makes announcements fail from now on.
func (f *fakeSegment) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeSegment) announce(iface string, vips []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if f.sent[iface] == nil {
		f.sent[iface] = sent{}
	}
	at := time.Since(f.start)
	for _, v := range vips {
		f.sent[iface][v] = append(f.sent[iface][v], at)
	}
	f.bursts[at] += len(vips)
	return nil
}

// times are those at which a VIP was announced on eth0.
func (f *fakeSegment) times(vip netip.Addr) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent["eth0"][vip])
}

// announcing runs an Announcer in fake time.
func announcing(t *testing.T, log *slog.Logger, f func(t *testing.T, a *Announcer, s *fakeSegment)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSegment{start: time.Now(), up: make(chan linkEvent), claims: make(chan claim), sent: map[string]sent{}, bursts: map[time.Duration]int{}}
		a := newAnnouncer(log, s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		f(t, a, s)
		cancel()
		if err := <-done; err != nil || !s.closed {
			t.Errorf("Run: %v, closed %v", err, s.closed)
		}
	})
}

const ms = time.Millisecond

var fiveTimes = []time.Duration{0, 10 * ms, 50 * ms, 200 * ms, 1000 * ms}

func after(d time.Duration, at []time.Duration) []time.Duration {
	var moved []time.Duration
	for _, a := range at {
		moved = append(moved, a+d)
	}
	return moved
}

func TestSchedule(t *testing.T) {
	announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
		a.Announce("eth0", nil)
		a.Announce("eth0", []netip.Addr{vip1})
		pass(25 * time.Second)
		want := append(after(0, fiveTimes), 11*time.Second, 21*time.Second)
		if d := cmp.Diff(want, s.sent["eth0"][vip1]); d != "" {
			t.Errorf("announcements (-want +got):\n%s", d)
		}
	})
}

func TestAnnouncedAgain(t *testing.T) {
	announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
		a.Announce("eth0", []netip.Addr{vip1})
		pass(100 * ms)
		a.Announce("eth0", []netip.Addr{vip1, vip1})
		pass(2 * time.Second)
		want := append(after(0, fiveTimes[:3]), after(100*ms, fiveTimes)...)
		if d := cmp.Diff(want, s.sent["eth0"][vip1]); d != "" {
			t.Errorf("announcements (-want +got):\n%s", d)
		}
	})
}

func TestWithdraw(t *testing.T) {
	announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
		a.Withdraw("eth0", []netip.Addr{vip1})
		a.Announce("eth0", []netip.Addr{vip1, r1})
		pass(20 * ms)
		a.Withdraw("eth0", []netip.Addr{vip1})
		pass(5 * time.Second)
		if n := len(s.times(vip1)); n != 2 {
			t.Errorf("%d announcements, want 2", n)
		}
		if n := len(s.sent["eth0"][r1]); n != 5 {
			t.Errorf("the other VIP: %d announcements, want 5", n)
		}
		a.Withdraw("eth0", []netip.Addr{r1})
		pass(time.Hour)
		if n := len(s.sent["eth0"][r1]); n != 5 {
			t.Errorf("the other VIP: %d announcements after its end", n-5)
		}
	})
}

func TestInterfaceThatCameUp(t *testing.T) {
	announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
		a.Announce("eth0", []netip.Addr{vip1})
		a.Announce("eth1", []netip.Addr{r1})
		pass(3 * time.Second)
		s.up <- linkEvent{iface: "eth0"}
		s.up <- linkEvent{iface: "eth7"} // not ours
		pass(3 * time.Second)
		if d := cmp.Diff(append(after(0, fiveTimes), after(3*time.Second, fiveTimes)...), s.sent["eth0"][vip1]); d != "" {
			t.Errorf("eth0 (-want +got):\n%s", d)
		}
		if d := cmp.Diff(fiveTimes, s.sent["eth1"][r1]); d != "" {
			t.Errorf("eth1 (-want +got):\n%s", d)
		}
	})
}

// What has to be done before an interface is spoken for anew comes first, and
// holds up no other interface.
func TestFault28AnnouncedWhenPrepared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSegment{start: time.Now(), up: make(chan linkEvent), claims: make(chan claim), sent: map[string]sent{}, bursts: map[time.Duration]int{}}
		a := newAnnouncer(quiet(), s)
		a.OnLink(func(ctx context.Context, iface string) {
			if iface == "eth1" {
				<-ctx.Done()
			}
			time.Sleep(300 * ms)
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		a.Announce("eth0", []netip.Addr{vip1})
		pass(3 * time.Second)
		s.up <- linkEvent{iface: "eth1"}
		s.up <- linkEvent{iface: "eth0", mac: mac2}
		pass(3 * time.Second)
		if d := cmp.Diff(append(after(0, fiveTimes), after(3300*ms, fiveTimes)...), s.times(vip1)); d != "" {
			t.Errorf("eth0 (-want +got):\n%s", d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNothingIsDroppedFromFullQueues(t *testing.T) {
	for _, count := range []int{1, vipsPerBurst, vipsPerBurst + 1, 700} {
		announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
			var vips []netip.Addr
			v := netip.MustParseAddr("10.0.0.1")
			for range count {
				vips = append(vips, v)
				v = v.Next()
			}
			a.Announce("eth0", vips)
			pass(3 * time.Second)
			for _, v := range vips {
				at := s.sent["eth0"][v]
				if len(at) != len(schedule) {
					t.Fatalf("%d VIPs: %s announced %d times, want %d", count, v, len(at), len(schedule))
				}
			}
			for at, n := range s.bursts {
				if n > vipsPerBurst {
					t.Errorf("%d VIPs: %d frames at once after %s", count, n, at)
				}
			}
		})
	}
}

// Whatever is announced and withdrawn when: what is owned in the end was
// announced five times after its last Announce, what is not owned is silent.
func TestEveryAnnounceIsKept(t *testing.T) {
	pool := []netip.Addr{r1, r2, vip1}
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			Own  bool
			VIP  int
			Wait time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				Own:  rapid.Bool().Draw(t, "own"),
				VIP:  rapid.IntRange(0, len(pool)-1).Draw(t, "vip"),
				Wait: time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * ms,
			}
		}), 1, 20).Draw(rt, "steps")
		announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
			last := map[netip.Addr]time.Duration{}
			for _, st := range steps {
				vip := pool[st.VIP]
				if st.Own {
					a.Announce("eth0", []netip.Addr{vip})
					last[vip] = time.Since(s.start)
				} else {
					a.Withdraw("eth0", []netip.Addr{vip})
					delete(last, vip)
				}
				pass(st.Wait)
			}
			end := time.Since(s.start)
			pass(2 * time.Second)
			for _, vip := range pool {
				from, owned := last[vip]
				n := 0
				for _, at := range s.sent["eth0"][vip] {
					if owned && at >= from || !owned && at > end {
						n++
					}
				}
				if owned && n < len(schedule) || !owned && n > 0 {
					t.Errorf("%s: owned %v, %d announcements", vip, owned, n)
				}
			}
		})
	})
}

// Another station that claims a VIP is reported if the VIP stays ours, and
// not for each of its packets.
func TestClaims(t *testing.T) {
	var log bytes.Buffer
	announcing(t, slog.New(slog.NewTextHandler(&log, nil)), func(t *testing.T, a *Announcer, s *fakeSegment) {
		var announced []string
		a.OnClaim(func(vip netip.Addr, by MAC) {
			announced = append(announced, time.Since(s.start).String()+" "+vip.String()+" "+by.String())
		})
		foe := MAC{2, 0, 0, 0, 0, 66}
		claimed := func(iface string, vip netip.Addr) { s.claims <- claim{place{iface, vip}, foe} }
		want := func(what string, n int, want string) {
			t.Helper()
			synctest.Wait()
			if len(announced) != n || n > 0 && announced[n-1] != want {
				t.Errorf("%s: told %q", what, announced)
			}
		}
		a.Announce("eth0", []netip.Addr{vip1})
		claimed("eth0", r1)
		claimed("eth1", vip1)
		pass(time.Second)
		want("what is not ours", 0, "")
		for range 5 {
			claimed("eth0", vip1)
			pass(100 * ms)
		}
		want("ours", 1, "1.2s "+vip1.String()+" "+foe.String())
		pass(5 * time.Second)
		claimed("eth0", vip1)
		pass(time.Second)
		want("again, too soon", 1, announced[0])
		pass(4 * time.Second)
		claimed("eth0", vip1)
		pass(time.Second)
		want("again, later", 2, "11.7s "+vip1.String()+" "+foe.String())
		pass(time.Minute)
		claimed("eth0", vip1)
		pass(100 * ms)
		a.Withdraw("eth0", []netip.Addr{vip1})
		pass(time.Minute)
		want("handed over", 2, announced[1])
	})
	if n := strings.Count(log.String(), "another host uses a VIP of ours"); n != 2 {
		t.Errorf("log:\n%s", log.String())
	}
}

// A claim to a VIP of ours is answered at once, once a second however often it
// comes, and not at all once the VIP has been handed over.
func TestDefence(t *testing.T) {
	announcing(t, quiet(), func(t *testing.T, a *Announcer, s *fakeSegment) {
		foe := claim{place{"eth0", vip1}, MAC{2, 0, 0, 0, 0, 66}}
		a.Announce("eth0", []netip.Addr{vip1})
		pass(3 * time.Second)
		began := time.Since(s.start)
		for range 20 {
			s.claims <- foe
			pass(100 * ms)
		}
		var at []time.Duration
		for _, d := range s.times(vip1) {
			if d >= began {
				at = append(at, d-began)
			}
		}
		if d := cmp.Diff([]time.Duration{yieldTime, yieldTime + defendInterval}, at); d != "" {
			t.Errorf("announcements after the first claim (-want +got):\n%s", d)
		}
		pass(time.Minute)
		n := len(s.times(vip1))
		s.claims <- foe
		a.Withdraw("eth0", []netip.Addr{vip1})
		pass(time.Minute)
		if len(s.times(vip1)) != n {
			t.Error("defended after the VIP was handed over")
		}
	})
}

func TestInterfaceWithAnotherMAC(t *testing.T) {
	var log bytes.Buffer
	announcing(t, slog.New(slog.NewTextHandler(&log, nil)), func(t *testing.T, a *Announcer, s *fakeSegment) {
		a.Announce("eth0", []netip.Addr{vip1})
		pass(3 * time.Second)
		n := len(s.times(vip1))
		s.up <- linkEvent{"eth0", mac2}
		s.up <- linkEvent{"eth7", mac2}
		pass(time.Second)
		if got := len(s.times(vip1)) - n; got != len(fiveTimes) {
			t.Errorf("announced %d times, want %d", got, len(fiveTimes))
		}
	})
	if n := strings.Count(log.String(), "the interface of VIPs has another MAC"); n != 1 {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestFailuresAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	announcing(t, slog.New(slog.NewTextHandler(&log, nil)), func(t *testing.T, a *Announcer, s *fakeSegment) {
		s.set(errors.New("network is down"))
		a.Announce("eth0", []netip.Addr{vip1})
		pass(time.Minute)
		s.set(nil)
		pass(time.Minute)
		if len(s.times(vip1)) == 0 {
			t.Error("not tried again")
		}
	})
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "network is down") {
		t.Errorf("log of %d lines:\n%s", n, log.String())
	}
}
