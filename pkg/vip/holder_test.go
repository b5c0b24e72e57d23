package vip_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

const (
	patience = 30 * time.Second
	own      = "172.25.0.11/24"
)

// addrs lists the IPv4 addresses of d1's interface.
func addrs(t *testing.T, h *testenv.Host, nic string) []string {
	t.Helper()
	link, err := h.Netlink.LinkByName(nic)
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.Netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, a := range list {
		have = append(have, a.IPNet.String())
	}
	slices.Sort(have)
	return have
}

func addr(last string) netip.Addr { return netip.MustParseAddr("172.25.0." + last) }

func places(nic string, last ...string) []vip.Place {
	var ps []vip.Place
	for _, l := range last {
		ps = append(ps, vip.Place{Interface: nic, Address: addr(l)})
	}
	return ps
}

// reports collects what a holder says about its notes.
type reports struct {
	mu   sync.Mutex
	said []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprint(err))
}

func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said)
}

// start makes a holder as a daemon does; end is how the daemon is killed, with
// its notes on the disk.
func start(t *testing.T, file string) (h *vip.Holder, said *reports, end func()) {
	t.Helper()
	said = new(reports)
	h = vip.NewHolder(file, said.add)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.Run(ctx) }()
	end = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(end)
	return h, said, end
}

func newDirector(t *testing.T) *testenv.Host {
	t.Helper()
	return tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1}).Host("d1")
}

// ipvs-facts/05 section 11: the kernel serves a VIP that the director has; lvx
// puts it there.
func TestHold(t *testing.T) {
	d1 := newDirector(t)
	file := filepath.Join(d1.Dir(), "state", "vips.json")
	if err := d1.AddAddr("eth0", netip.MustParsePrefix("172.25.0.101/24")); err != nil {
		t.Fatal(err)
	}
	check := func(what string, do func() error, vips ...string) {
		t.Helper()
		tb.Do(t, d1, do)
		want := append(vips, "172.25.0.101/24", own)
		slices.Sort(want)
		if d := cmp.Diff(want, addrs(t, d1, "eth0")); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	hold := func(h *vip.Holder, last ...string) func() error {
		return func() error { _, err := h.Hold(places("eth0", last...)); return err }
	}
	h, _, end := start(t, file)
	check("nothing yet", h.Release)
	check("put on", hold(h, "100", "101"), "172.25.0.100/32")
	check("again", hold(h, "100", "101"), "172.25.0.100/32")
	if ours := h.Ours(); !slices.Equal(ours, places("eth0", "100")) {
		t.Errorf("ours: %v", ours)
	}
	if err := d1.DelAddr("eth0", netip.MustParsePrefix("172.25.0.100/32")); err != nil {
		t.Fatal(err)
	}
	check("repaired", hold(h, "100", "101"), "172.25.0.100/32")
	end()

	h, _, end = start(t, file) // killed and started again
	check("another list", hold(h, "102", "101"), "172.25.0.102/32")
	end()
	h, _, end = start(t, file)
	check("and its end", h.Release)
	end()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the notes outlive the VIPs: %v", err)
	}
}

// A VIP moves from one interface to another, and one whose interface is
// missing does not keep the others away.
func TestHoldOnSeveralInterfaces(t *testing.T) {
	d1 := newDirector(t)
	tb.Run(t, d1, "ip", "link", "add", "br0", "type", "bridge")
	h, _, _ := start(t, filepath.Join(d1.Dir(), "vips.json"))
	tb.Do(t, d1, func() error {
		_, err := h.Hold(append(places("eth0", "100"), places("br0", "102")...))
		return err
	})
	tb.Do(t, d1, func() error {
		r, err := h.Hold(append(places("br0", "100"), places("eth9", "103")...))
		if err == nil || !strings.Contains(err.Error(), "VIPs on eth9") {
			t.Errorf("missing interface: %v", err)
		}
		if !slices.Equal(r.Put, places("br0", "100")) || !slices.Equal(r.Held, r.Put) {
			t.Errorf("%+v", r)
		}
		return nil
	})
	if d := cmp.Diff([]string{own}, addrs(t, d1, "eth0")); d != "" {
		t.Errorf("eth0 (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"172.25.0.100/32"}, addrs(t, d1, "br0")); d != "" {
		t.Errorf("br0 (-want +got):\n%s", d)
	}
	tb.Run(t, d1, "ip", "link", "del", "br0")
	tb.Do(t, d1, h.Release) // with its interface an address has gone
	if ours := h.Ours(); len(ours) != 0 {
		t.Errorf("ours: %v", ours)
	}
}

// Somebody takes a VIP away, or its whole interface, or brings that back: the
// watcher hears of it.
func TestWatch(t *testing.T) {
	d1 := newDirector(t)
	ctx, cancel := context.WithCancel(t.Context())
	heard, ended := make(chan struct{}, 1), make(chan error)
	go func() {
		ended <- d1.Do(func() error {
			return vip.Watch(ctx, func() {
				select {
				case heard <- struct{}{}:
				default:
				}
			})
		})
	}()
	listen := func(what string, again func()) {
		t.Helper()
		tb.Eventually(t, patience, func() error {
			again()
			select {
			case <-heard:
				return nil
			case <-time.After(100 * time.Millisecond):
				return errors.New("nothing was heard of " + what)
			}
		})
	}
	prefix := netip.PrefixFrom(testenv.VIP, 32)
	listen("an address that went", func() { // again: it may take a moment until it listens
		if err := errors.Join(d1.AddAddr("eth0", prefix), d1.DelAddr("eth0", prefix)); err != nil {
			t.Fatal(err)
		}
	})
	listen("an interface that came", func() {
		tb.Run(t, d1, "ip", "link", "add", "br0", "type", "bridge")
		tb.Run(t, d1, "ip", "link", "del", "br0")
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Notes count for one boot.
func TestNotesOfAnotherBoot(t *testing.T) {
	d1 := newDirector(t)
	file := filepath.Join(d1.Dir(), "vips.json")
	notes := `{"boot": "another", "vips": [{"interface": "eth0", "address": "172.25.0.100"}]}`
	if err := os.WriteFile(file, []byte(notes), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d1.AddAddr("eth0", netip.MustParsePrefix("172.25.0.100/32")); err != nil {
		t.Fatal(err)
	}
	h, said, _ := start(t, file)
	tb.Do(t, d1, func() error { _, err := h.Hold(places("eth0", "100")); return err })
	tb.Do(t, d1, h.Release)
	if have := addrs(t, d1, "eth0"); len(have) != 2 || len(said.all()) != 0 {
		t.Errorf("addresses %v: took away what somebody put there after the boot; said %v", have, said.all())
	}
}

// VIPs are held without notes: with broken ones, with a directory that takes
// none, and with one that a file is in the way of.
func TestHoldWithoutNotes(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		says  string
	}{
		"empty":   {func(dir string) error { return os.WriteFile(dir+"/vips.json", nil, 0o600) }, "empty file (moved to "},
		"garbage": {func(dir string) error { return os.WriteFile(dir+"/vips.json", []byte("\x01{"), 0o600) }, "moved to "},
		"no directory": {func(dir string) error {
			return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600))
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			d1 := newDirector(t)
			dir := filepath.Join(d1.Dir(), "state")
			if err := errors.Join(os.Mkdir(dir, 0o700), c.spoil(dir)); err != nil {
				t.Fatal(err)
			}
			h, said, _ := start(t, filepath.Join(dir, "vips.json"))
			tb.Do(t, d1, func() error { _, err := h.Hold(places("eth0", "100")); return err })
			if have := addrs(t, d1, "eth0"); len(have) != 2 {
				t.Errorf("addresses %v", have)
			}
			tb.Eventually(t, patience, func() error {
				if text := strings.Join(said.all(), "\n"); !strings.Contains(text, c.says) {
					return fmt.Errorf("reported %q, want %q", text, c.says)
				}
				return nil
			})
			tb.Do(t, d1, h.Release)
			if have := addrs(t, d1, "eth0"); len(have) != 1 {
				t.Errorf("after the end: %v", have)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	n := vip.Networks{}
	for name, texts := range map[string][]string{
		"eth0": {"172.25.0.11/24", "10.9.0.1/32", "fd99::1/64"},
		"eth1": {"172.26.0.11/24", "10.0.0.1/8"},
		"eth2": {"10.1.0.1/16"},
		"eth3": nil,
	} {
		for _, text := range texts {
			n[name] = append(n[name], netip.MustParsePrefix(text))
		}
	}
	all := []string{"eth0", "eth1", "eth2", "eth3", "eth9"}
	for _, c := range []struct {
		interfaces []string
		vip, want  string
	}{
		{all, "172.25.0.100", "eth0"},
		{all, "172.26.0.100", "eth1"},
		{all, "10.1.2.3", "eth2"}, // the smaller of two networks
		{all, "10.2.2.3", "eth1"},
		{all, "192.0.2.1", "eth0"}, // none: the first
		{[]string{"eth1", "eth0"}, "192.0.2.1", "eth1"},
		{all, "10.9.0.1", "eth1"}, // a host is no network
		{all, "fd99::100", "eth0"},
		{[]string{"eth1"}, "172.25.0.100", "eth1"},
		{nil, "172.25.0.100", ""},
	} {
		if got := n.Choose(c.interfaces, netip.MustParseAddr(c.vip)); got != c.want {
			t.Errorf("%s among %v: %q, want %q", c.vip, c.interfaces, got, c.want)
		}
	}
}

func TestBootID(t *testing.T) {
	a, err := vip.BootID()
	b, err2 := vip.BootID()
	if err != nil || err2 != nil || a != b || len(a) != 36 {
		t.Errorf("%q, %q, %v, %v", a, b, err, err2)
	}
}
