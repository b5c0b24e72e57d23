package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

var (
	stranger = neigh.MAC{2, 0, 0, 0, 0, 0x66}
	aReal    = neigh.MAC{2, 0, 0, 0, 0, 0x11}
)

// segment answers the questions of claims, after the time that probes take.
type segment struct {
	mu    sync.Mutex
	owner map[netip.Addr]neigh.MAC
	err   error
	asked int
}

func (s *segment) set(p vip.Place, mac neigh.MAC) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == nil {
		s.owner = map[netip.Addr]neigh.MAC{}
	}
	s.owner[p.Address] = mac
}

func (s *segment) find(_ context.Context, _ string, a netip.Addr) (neigh.MAC, bool, error) {
	time.Sleep(300 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.owner[a], s.owner[a] != (neigh.MAC{}), s.err
}

func (s *segment) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func newTestClaims(s *segment) (c *claims, w *warnings.Registry, calls chan struct{}) {
	w = warnings.New(nil)
	c = newClaims(func(mac neigh.MAC) []netip.Addr {
		if mac == aReal {
			return []netip.Addr{netip.MustParseAddr("172.25.0.12")}
		}
		return nil
	}, w, slog.New(slog.DiscardHandler))
	c.findOwner = s.find
	calls = make(chan struct{}, 100)
	c.changed = func() { calls <- struct{}{} }
	return c, w, calls
}

func at(last byte) vip.Place {
	return vip.Place{Interface: "eth0", Address: netip.AddrFrom4([4]byte{172, 25, 0, last})}
}

func unforced(netip.Addr) bool { return false }

func kinds(w *warnings.Registry) (list []string) {
	for _, x := range w.List() {
		list = append(list, x.Kind+" "+x.Subject)
	}
	return list
}

// A VIP that a stranger has is withheld, it alone, and taken a second after
// the stranger has let go of it.
func TestClaimOfATakenVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &segment{}
		s.set(at(101), stranger)
		c, w, calls := newTestClaims(s)
		want := []vip.Place{at(100), at(101)}
		if may := c.filter(want, want, unforced); len(may) != 0 {
			t.Errorf("taken without a question: %v", may)
		}
		begin := time.Now()
		<-c.allAsked
		if took := time.Since(begin); took != 300*time.Millisecond {
			t.Errorf("known after %v", took)
		}
		synctest.Wait()
		if may := c.filter(want, want, unforced); !slices.Equal(may, want[:1]) || len(calls) != 1 {
			t.Errorf("may take %v, called back %d times", may, len(calls))
		}
		if got := kinds(w); !slices.Equal(got, []string{"vip-taken VIP 172.25.0.101 on eth0"}) {
			t.Errorf("warnings: %v", got)
		}
		time.Sleep(time.Minute)
		s.set(at(101), neigh.MAC{})
		time.Sleep(claimPause + 300*time.Millisecond)
		synctest.Wait()
		if may := c.filter(want, want[1:], unforced); !slices.Equal(may, want) || len(w.List()) != 0 {
			t.Errorf("let go of: may take %v, warnings %v", may, kinds(w))
		}
	})
}

// What is there already is not asked about; what is forced is taken.
func TestClaimsThatAreNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &segment{}
		s.set(at(100), stranger)
		c, w, _ := newTestClaims(s)
		want := []vip.Place{at(100), at(101)}
		may := c.filter(want, want[:1], func(a netip.Addr) bool { return a == at(100).Address })
		synctest.Wait()
		if !slices.Equal(may, want) || s.questions() != 0 || len(w.List()) != 0 {
			t.Errorf("may take %v, asked %d times, warnings %v", may, s.questions(), kinds(w))
		}
		<-c.allAsked
		if may := c.filter(want, want, unforced); !slices.Equal(may, want) {
			t.Errorf("removed by somebody: may take %v", may)
		}
	})
}

// A real or a peer that answers is told of as long as it does, and the VIP
// serves.
func TestClaimOfAVIPThatARealAnswersFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &segment{}
		s.set(at(100), aReal)
		c, w, _ := newTestClaims(s)
		want := []vip.Place{at(100)}
		c.filter(want, want, unforced)
		<-c.allAsked
		synctest.Wait()
		if may := c.filter(want, want, unforced); !slices.Equal(may, want) {
			t.Errorf("may take %v", may)
		}
		if got := w.List(); len(got) != 1 || got[0].Text != "172.25.0.12 (02:00:00:00:00:11) answers ARP for it" {
			t.Errorf("warnings: %+v", got)
		}
		s.set(at(100), neigh.MAC{})
		time.Sleep(answeredPause + time.Second)
		synctest.Wait()
		if got := kinds(w); len(got) != 0 {
			t.Errorf("cured, and warned of: %v", got)
		}
	})
}

// Where nothing can be asked nothing is in the way; what is not wanted any
// more is not asked about.
func TestClaimsWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &segment{err: errors.New("network is down")}
		c, w, _ := newTestClaims(s)
		want := []vip.Place{at(100)}
		c.filter(want, want, unforced)
		<-c.allAsked
		synctest.Wait()
		if may := c.filter(want, want, unforced); !slices.Equal(may, want) {
			t.Errorf("may take %v", may)
		}
		s.set(at(101), stranger)
		want = []vip.Place{at(101)}
		c.filter(want, want, unforced)
		time.Sleep(time.Second)
		c.filter(nil, nil, unforced)
		time.Sleep(10 * time.Second)
		asked := s.questions()
		time.Sleep(time.Minute)
		if now := s.questions(); now != asked || len(w.List()) != 0 {
			t.Errorf("asked %d times more, warnings %v", now-asked, kinds(w))
		}
	})
}

// Once the daemon ends nobody is asked any more: another one may follow in the same
// process, which takes the VIP or does not want it.
func TestClaimsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &segment{}
		s.set(at(101), stranger)
		c, w, calls := newTestClaims(s)
		want := []vip.Place{at(101)}
		c.filter(want, want, unforced)
		time.Sleep(5 * time.Second)
		c.end()
		time.Sleep(time.Minute) // who asks now ends
		asked := s.questions()
		c.filter(want, want, unforced)
		s.set(at(101), neigh.MAC{})
		time.Sleep(time.Minute)
		if n := s.questions(); n != asked || len(calls) != 0 {
			t.Errorf("asked %d times after the end, and called back %d times", n-asked, len(calls))
		}
		if got := kinds(w); !slices.Equal(got, []string{"vip-taken VIP 172.25.0.101 on eth0"}) {
			t.Errorf("warnings: %v", got)
		}
	})
}
