package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// The VIP of a virtual router that a reload renumbers, renames, or takes away and
// brings back, is served all the time; after a change that asks for a handover it is
// served in the end.
func TestReloadOfAVirtualRouter(t *testing.T) {
	const line, list = "{name: VI_1, interface: eth0, virtual_router_id: 51,", "[172.25.0.101/24]"
	for _, c := range []struct {
		name      string
		edits     [][]string // by reload, as of strings.NewReplacer
		handsOver bool
	}{
		{"renumbered", [][]string{{line, "{name: VI_1, interface: eth0, virtual_router_id: 52,"}}, false},
		{"renamed", [][]string{{line, "{name: VI_2, interface: eth0, virtual_router_id: 51,"}}, false},
		{"back", [][]string{{"vrrp:\n  - " + line, "#"}, nil}, false},
		{"renumbered with another VIP", [][]string{{line, "{name: VI_1, interface: eth0, virtual_router_id: 52,", list, "[172.25.0.101/24, 172.25.0.102/24]"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newDirector(t, tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1}).Host("d1"))
			text, err := os.ReadFile(w.file)
			if err != nil {
				t.Fatal(err)
			}
			w.start(t)
			defer w.stop(t)
			client := admin.NewClient(filepath.Join(w.Dir(), "lvx.sock"))
			tb.Eventually(t, time.Minute, func() error { return w.serves(t, client) })
			for _, edit := range c.edits {
				if err := os.WriteFile(w.file, []byte(strings.NewReplacer(edit...).Replace(string(text))), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if c.handsOver {
				tb.Eventually(t, time.Minute, func() error {
					if log := w.p.Output(); !strings.Contains(log, "from=MASTER to=INIT") || !strings.HasSuffix(strings.TrimSpace(log), `to=MASTER why="no other master was heard"`) {
						return fmt.Errorf("it has not handed over to itself:\n%s", log)
					}
					return w.serves(t, client)
				})
			}
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && !t.Failed(); time.Sleep(time.Millisecond) {
				if err := w.serves(t, client); err != nil {
					t.Errorf("%v\n%s", err, w.p.Output())
				}
			}
			if _, has := w.hasVIPs(t); !has {
				t.Error("the VIP is gone")
			}
		})
	}
}

// serves reports that packets for VRRP's VIP are met by a data path that is active.
func (w *inProcess) serves(t *testing.T, client *admin.Client) error {
	t.Helper()
	e, err := client.Explain(t.Context(), lb.Packet{
		Proto: lb.TCP, Src: netip.MustParseAddrPort("172.25.0.50:4000"), Dst: netip.MustParseAddrPort("172.25.0.101:80"),
	})
	if err != nil {
		return err
	}
	if slices.Contains([]string{"standby", "lease_over"}, e.Verdict) {
		return fmt.Errorf("packets for the VIP: %s", e.Verdict)
	}
	return nil
}

// Connection sync goes by the virtual routers that there are by now: those that a reload
// brings wait for it, and those that a reload takes away leave it to send and to listen.
func TestSyncFollowsVirtualRouters(t *testing.T) {
	r := newRouter(nil, nil, nil, nil, nil)
	s := &connSync{masters: map[string]bool{}, changed: make(chan struct{}, 1)}
	r.share(s)
	vi := vrrp.Instance{Name: "A", Interface: "nosuch0", VRID: 1, Version: 3, Priority: 100, AdvertInterval: time.Second,
		Addresses: []netip.Prefix{netip.MustParsePrefix("172.25.0.100/24")}}
	for _, c := range []struct {
		instances      []vrrp.Instance
		sends, listens bool
	}{
		{nil, true, true},
		{[]vrrp.Instance{vi}, false, true},
		{nil, true, true},
	} {
		if err := r.Set(c.instances); err != nil {
			t.Fatal(err)
		}
		if sends, listens := s.directions(); sends != c.sends || listens != c.listens {
			t.Errorf("%d virtual routers: sends %v, listens %v", len(c.instances), sends, listens)
		}
	}
	s.doubt()
	if s.hold.release == nil {
		t.Error("no virtual router would wait for peers after a fault")
	}
	s.hold.end()
}

// The role that connection sync knows of goes by the new name of a virtual router, and
// not by the old one for ever.
func TestRoleOfARenamedRouter(t *testing.T) {
	named := func(name string, vrid uint8) vrrp.Instance {
		return vrrp.Instance{Name: name, Interface: "nosuch0", VRID: vrid, Version: 3, Priority: 100, AdvertInterval: time.Second,
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 25, 0, 100 + vrid}), 24)}}
	}
	r := newRouter(nil, nil, nil, nil, nil)
	r.sync = &connSync{masters: map[string]bool{}, changed: make(chan struct{}, 1)}
	for _, instances := range [][]vrrp.Instance{{named("A", 1), named("B", 2)}, {named("A", 1), named("C", 2)}} {
		if err := r.Set(instances); err != nil {
			t.Fatal(err)
		}
		r.sync.setRole(instances[1].Name, true)
	}
	if _, isKnown := r.sync.masters["B"]; isKnown || !r.sync.isMaster() {
		t.Errorf("masters: %v", r.sync.masters)
	}
	r.sync.setRole("C", false)
	if r.sync.isMaster() {
		t.Errorf("masters: %v", r.sync.masters)
	}
}

// Roles go by the new names also where a reload gives one virtual router the name that
// another one had.
func TestRolesOfRoutersThatSwapNames(t *testing.T) {
	named := func(name string, vrid uint8) vrrp.Instance {
		return vrrp.Instance{Name: name, Interface: "nosuch0", VRID: vrid, Version: 3, Priority: 100, AdvertInterval: time.Second,
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 25, 0, 100 + vrid}), 24)}}
	}
	before := []vrrp.Instance{named("A", 1), named("B", 2)}
	for name, c := range map[string]struct {
		after  []vrrp.Instance
		master string // the first one's new name
	}{
		"swapped":          {[]vrrp.Instance{named("B", 1), named("A", 2)}, "B"},
		"one after other":  {[]vrrp.Instance{named("B", 1), named("C", 2)}, "B"},
		"of one that goes": {[]vrrp.Instance{named("B", 1)}, "B"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(nil, nil, nil, nil, nil)
			r.sync = &connSync{masters: map[string]bool{}, changed: make(chan struct{}, 1)}
			if err := r.Set(before); err != nil {
				t.Fatal(err)
			}
			r.sync.setRole("A", true)
			if err := r.Set(c.after); err != nil {
				t.Fatal(err)
			}
			if !r.sync.masters[c.master] {
				t.Errorf("masters: %v", r.sync.masters)
			}
			r.sync.setRole(c.master, false)
			if r.sync.isMaster() {
				t.Errorf("master for ever: %v", r.sync.masters)
			}
		})
	}
}

// The thread that sends adverts does not wait for connection sync, which waits for a data
// path that is being changed.
func TestRecoveryDoesNotWaitForSync(t *testing.T) {
	r := newRouter(nil, nil, nil, health.NewMonitor(health.Options{}), nil)
	s := &connSync{masters: map[string]bool{}, changed: make(chan struct{}, 1)}
	r.share(s)
	looks, applied := make(chan struct{}), make(chan struct{})
	var look sync.WaitGroup
	look.Go(func() {
		s.hold.endIf(func() bool {
			close(looks)
			<-applied
			return false
		})
	})
	<-looks
	returned, ready := make(chan struct{}), make(chan struct{})
	go func() {
		r.recovered("A", func() {
			s.hold.mu.Lock()
			defer s.hold.mu.Unlock()
			if s.hold.release == nil {
				t.Error("ready, and peers have not been asked")
			}
			close(ready)
		})
		close(returned)
	}()
	select {
	case <-returned:
	case <-time.After(5 * time.Second):
		t.Error("adverts wait")
	}
	close(applied)
	look.Wait()
	<-ready
	s.hold.end()
}
