package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// What diff says is what a reload then does, and says.
func TestDiffAndReload(t *testing.T) {
	old := configOf(service("web", 1, 1), service("mail", 1), service("gone", 1, 1))
	for i := range old.Services {
		old.Services[i].Checks = nil
		old.Services[i].Listeners[0].First += uint16(i)
		old.Services[i].Listeners[0].Last += uint16(i)
	}
	cases := []struct {
		name string
		edit func(*config.Config)
		want []string
	}{
		{"nothing", func(*config.Config) {}, nil},
		{"a line moved", func(c *config.Config) { c.Services[0].Line = 99 }, nil},
		{"weight", func(c *config.Config) { c.Services[0].Reals[1].Weight = 5 }, []string{"service web: real 10.0.0.12: weight 1 -> 5"}},
		{"scheduler", func(c *config.Config) { c.Services[0].Scheduler = lb.MH }, []string{"service web: scheduler rr -> mh"}},
		{"real removed", func(c *config.Config) { c.Services[0].Reals = c.Services[0].Reals[:1] }, []string{"service web: remove real 10.0.0.12: ends 2 connections"}},
		{"real removed, kept", func(c *config.Config) { c.Services[0].Reals, c.ExpireNodestConn = c.Services[0].Reals[:1], false }, []string{
			"expire_nodest_conn: changed", "service web: remove real 10.0.0.12",
		}},
		{"service removed", func(c *config.Config) { c.Services = c.Services[:2] }, []string{"remove service gone: 10.0.0.100:82/tcp: ends 4 connections"}},
		{"service added", func(c *config.Config) {
			s := service("new", 1, 1, 1)
			s.Listeners[0].First, s.Listeners[0].Last = 99, 99
			c.Services = append(c.Services, s)
		}, []string{"add service new: 10.0.0.100:99/tcp rr, 3 reals"}},
		{"checks", func(c *config.Config) {
			c.Services[1].Checks, c.Services[1].Quorum = [][]health.Spec{{{Type: health.ICMP}}}, 2
		}, []string{
			"service mail: quorum 1 -> 2, checks changed",
		}},
		{"renamed", func(c *config.Config) { c.Services[0].Name = "www" }, []string{"service web: renamed to www"}},
		{"renamed and less", func(c *config.Config) { c.Services[0].Name, c.Services[0].Reals = "www", c.Services[0].Reals[:1] }, []string{
			"service web: renamed to www", "service www: remove real 10.0.0.12: ends 2 connections",
		}},
		{"listener removed", func(c *config.Config) { // its connections stay: their reals do
			c.Services[0].Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 8080, Last: 8080}}
		}, []string{"service web: listen 10.0.0.100:80/tcp -> 10.0.0.100:8080/tcp"}},
		{"clients", func(c *config.Config) {
			c.Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
			c.Services[0].Deny, c.Services[0].Allow = c.Deny, []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}
		}, []string{"deny: add 198.51.100.0/24", "service web: deny: add 198.51.100.0/24, allow: add 172.16.0.0/12"}},
		{"vrrp added", func(c *config.Config) { c.VRRP = []vrrp.Instance{{Name: "VI_1", VRID: 51, Priority: 150}} }, []string{"add vrrp VI_1: virtual_router_id 51, priority 150"}},
		{"globals", func(c *config.Config) { c.Timeouts.TCP, c.Peers = time.Minute, []netip.Addr{server(9)} }, []string{"peers: changed", "timeouts: tcp 15m0s -> 1m0s"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, cloneConfig(old), func(t *testing.T, r *rig) {
				for i, port := range []uint16{80, 82} { // connections: two a real of web and of gone
					for n := range 4 {
						src := netip.AddrPortFrom(netip.MustParseAddr("172.16.0.1"), uint16(1000*(i+1)+n))
						r.backend.Send(lb.Packet{Proto: lb.TCP, Src: src, Dst: netip.AddrPortFrom(vip, port), Flags: "S"})
					}
				}
				r.next = cloneConfig(old)
				c.edit(r.next)
				got, err := r.Diff(t.Context(), nil)
				if err != nil || !slices.Equal(got, c.want) {
					t.Errorf("diff says %q, %v\nwant %q", got, err, c.want)
				}
				did, err := r.Reload(WithUID(t.Context(), 7))
				if err != nil || !slices.Equal(did.Did, c.want) {
					t.Errorf("reload says %q, %v\nwant %q", did.Did, err, c.want)
				}
				if again, err := r.Diff(t.Context(), nil); err != nil || len(again) != 0 {
					t.Errorf("after the reload: %q, %v", again, err)
				}
				e := r.history.List(history.Filter{Kind: history.Reload})
				if len(e) != 1 || e[0].UID == nil || *e[0].UID != 7 || !strings.HasPrefix(e[0].Text, "reloaded") {
					t.Errorf("history %+v", e)
				}
			})
		})
	}
}

// What a change of a stateless service does to connections that nobody stores.
func TestDiffOfStatelessServices(t *testing.T) {
	counted := &lb.ServiceStats{Counters: lb.Counters{Conns: 900}, Reals: []lb.RealStats{{Addr: server(1), Active: 3}, {Addr: server(2), Inactive: 4}}}
	keeping := lb.Service{Scheduler: lb.MH, Flags: lb.MHPort}
	stateless := keeping
	stateless.Stateless = true
	of := func(change func(*lb.Service)) lb.Service {
		s := stateless
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		before, after lb.Service
		rows          int
		want          string
	}{
		"switched on":         {keeping, stateless, 0, ": 7 connections stay stored until they end, new ones are not"},
		"switched off":        {stateless, keeping, 4093, ": ends the connections that are not stored; 7 are stored, of 900 opened so far"},
		"another scheduler":   {stateless, of(func(s *lb.Service) { s.Scheduler = lb.SH }), 4093, ": ends the connections that are not stored; 7 are stored, of 900 opened so far"},
		"without the port":    {stateless, of(func(s *lb.Service) { s.Flags = 0 }), 4093, ": ends the connections that are not stored; 7 are stored, of 900 opened so far"},
		"another mark":        {stateless, of(func(s *lb.Service) { s.Mark = 7 }), 4093, ""},
		"keeps as before":     {keeping, of(func(s *lb.Service) { s.Stateless, s.Mark = false, 7 }), 0, ""},
		"cannot be stateless": {keeping, of(func(s *lb.Service) { s.OnePacket = true }), 0, ""},
	} {
		counted.Rows = c.rows
		if got := describeStatelessEdit(&c.before, &c.after, counted); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	counted.Rows = 0
	removed := lb.Change{Op: lb.RemoveReal, Real: netip.AddrPortFrom(server(1), 0)}
	if got, want := describeRemoval(removed, counted), ": ends 3 connections"; got != want {
		t.Errorf("a real: %q, want %q", got, want)
	}
	counted.Rows = 4093
	if got, want := describeRemoval(removed, counted), ": ends 3 connections and those that are not stored"; got != want {
		t.Errorf("a real of a stateless service: %q, want %q", got, want)
	}
}

func cloneConfig(c *config.Config) *config.Config {
	n := *c
	n.Services = slices.Clone(c.Services)
	for i := range n.Services {
		n.Services[i].Service = n.Services[i].Service.Clone()
	}
	return &n
}

func TestDiffErrors(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		if _, err := r.Diff(t.Context(), []byte("x")); err == nil {
			t.Error("a text without a parser was compared")
		}
		wrong := errors.New("line 3: wrong")
		r.opt.Parse = func(b []byte) (*config.Config, error) { return nil, fmt.Errorf("%s: %w", b, wrong) }
		if _, err := r.Diff(t.Context(), []byte("x")); !errors.Is(err, wrong) {
			t.Errorf("got %v", err)
		}
		r.opt.Parse = func([]byte) (*config.Config, error) {
			c := configOf(service("web", 1))
			c.Backend = config.BackendIPVS
			return c, nil
		}
		lines, err := r.Diff(t.Context(), []byte("x"))
		if want := []string{"backend: changed, which a reload cannot do (restart lvx)"}; err != nil || !slices.Equal(lines, want) {
			t.Errorf("got %q, %v, want %q", lines, err, want)
		}
	})
}
