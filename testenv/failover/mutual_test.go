package failover

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// mutual is the configuration of two directors that are each other's real
// servers, the same on both.
func mutual() string {
	return fmt.Sprintf("peers: [%[1]s, %[2]s]\nservices:\n  - name: web\n    listen: [\"%[3]s:80/tcp\"]\n    scheduler: rr\n"+
		"    check: {type: tcp, interval: 200ms, timeout: 1s, fall: 1, rise: 1}\n"+
		"    reals:\n      - {address: %[1]s}\n      - {address: %[2]s}\n", Addr("a"), Addr("b"), VIP)
}

// loops counts the frames for the VIP that were balanced more than once: the
// client sends 64 hops, a director takes one.
func loops(t *testing.T, captures []*testenv.Capture) (seen, more int) {
	t.Helper()
	for _, c := range captures {
		frames, err := c.Select(func(f testenv.Frame) bool {
			d := f.Data
			return len(d) >= 34 && d[12] == 8 && d[13] == 0 && d[23] == 6 && bytes.Equal(d[30:34], VIP.AsSlice())
		})
		must(t, err)
		seen += len(frames)
		for _, f := range frames {
			if f.Data[22] < 63 {
				more++
			}
		}
	}
	return seen, more
}

// alternates opens connections one by one and expects either director to
// answer every other one.
func (p *pair) alternates(what string) {
	p.t.Helper()
	const n = 12
	got := map[string]int{}
	var last string
	for range n {
		conn, who, err := p.connect(80)
		if err != nil {
			p.t.Errorf("%s: a connection failed: %v", what, err)
			continue
		}
		_ = conn.Close()
		if who == last {
			p.t.Errorf("%s: %s answered twice running", what, who)
		}
		got[who]++
		last = who
	}
	if got["a"] != n/2 || got["b"] != n/2 {
		p.t.Errorf("%s: answered by %v, want half by each", what, got)
	}
}

// silentAbout returns, as an error, what a router lacks to be a real server of
// the VIP that says nothing of it.
func (p *pair) silentAbout(host string) error {
	h := p.Host(host)
	link, err := h.Netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	list, err := h.Netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.Equal(VIP.AsSlice()) }) {
		return fmt.Errorf("%s has no VIP on lo", host)
	}
	for key, want := range map[string]string{"arp_ignore": "1", "arp_announce": "2"} {
		if v, err := h.ReadSysctl("net.ipv4.conf.eth0." + key); err != nil || v != want {
			return fmt.Errorf("%s has %s=%s (%v), want %s", host, key, v, err, want)
		}
	}
	return nil
}

// Two directors that are each other's real servers: whoever is master, both
// serve, and no packet is balanced twice, not even while both are master or
// while a daemon is dead. The VIP is answered for by one at a time.
func TestDirectorsThatAreRealServers(t *testing.T) {
	t.Parallel()
	// With a longer prefix than the segment's the VIP would be what the
	// master's checks come from.
	wholeSubnet := func(r *vrrp.Instance) { r.Addresses = []netip.Prefix{netip.PrefixFrom(VIP, 16)} }
	p := newPair(t, LVX{Self: self, Body: mutual()}, setting{"v3", router(3, 100*ms, 150, wholeSubnet), router(3, 100*ms, 100, wholeSubnet)})
	var captures []*testenv.Capture
	for _, name := range []string{"a", "b"} {
		_, err := p.Host(name).ServeWeb(":80")
		must(t, err)
		c, err := p.Switch().Capture(name)
		must(t, err)
		captures = append(captures, c)
		p.await(name+" is a silent real server", func() error { return p.silentAbout(name) })
		out, err := p.program.(LVX).Run(t.Context(), p.Host(name), "status")
		must(t, err)
		if !strings.Contains(out, "on lo as a real server's") {
			t.Errorf("status of %s:\n%s", name, out)
		}
	}
	for host, d := range map[string]*Daemon{"a": p.a, "b": p.b} {
		p.await(host+" finds both well", func() error {
			for _, name := range []string{"a", "b"} {
				if !strings.Contains(d.Output(), fmt.Sprintf("rs %s:80 up", Addr(name))) {
					return fmt.Errorf("%s is not up", name)
				}
			}
			return nil
		})
	}
	begin, said := time.Now(), len(p.b.Output())
	p.alternates("a is master")
	conn, who, err := p.connect(80)
	must(t, err)
	defer conn.Close()

	p.deafen(true)
	p.await("both are master", func() error {
		for _, host := range []string{"a", "b"} {
			if ok, err := p.Has(host, VIP); err != nil || !ok {
				return fmt.Errorf("no VIP on %s: %v", host, err)
			}
		}
		return nil
	})
	// Each balances in a rotation of its own. A client that changes from one to the
	// other within a connection may lose it: that two are master is a fault.
	for _, name := range []string{"a", "b"} {
		tb.Run(p.t, p.Host("c"), "ip", "neighbour", "replace", VIP.String(), "lladdr", p.Host(name).MAC("eth0").String(), "dev", "eth0", "nud", "permanent")
		for range 6 {
			if conn, _, err := p.connect(80); err != nil {
				t.Errorf("by %s, while both are master: %v", name, err)
			} else {
				_ = conn.Close()
			}
		}
	}
	tb.Run(p.t, p.Host("c"), "ip", "neighbour", "del", VIP.String(), "dev", "eth0")
	p.deafen(false)
	p.settle()
	p.alternates("a is master again")
	if n := alive([]held{{conn, who}}); n != 1 {
		t.Errorf("a connection with %s has died", who)
	}

	p.a.Kill()
	p.await("b is master", func() error {
		ok, err := p.Has("b", VIP)
		if err == nil && !ok {
			err = fmt.Errorf("b has no VIP")
		}
		return err
	})
	time.Sleep(lease(p.setting) + 500*ms) // a is silent by now
	p.alternates("b is master, a's daemon is dead")
	silent := time.Now()
	time.Sleep(300 * ms)
	if d := p.watch.Both(silent); d != 0 {
		t.Errorf("two answered for the VIP for %s", d)
	}

	p.a = p.start("a", p.better)
	p.settle()
	p.alternates("a has returned")
	if log := p.b.Output()[said:]; strings.Contains(log, " down: ") {
		t.Errorf("b's checks failed though both were well all the time:\n%s", log)
	}
	p.stop(p.a)
	p.succeeds("b")
	p.purge("a")
	p.restored("a")
	p.stop(p.b)
	p.purge("b")
	p.restored("b")
	if seen, more := loops(t, captures); more != 0 || seen < 100 {
		t.Errorf("%d of %d frames for the VIP were balanced twice", more, seen)
	} else {
		t.Logf("%d frames for the VIP in %s, none balanced twice", seen, time.Since(begin).Round(ms))
	}
}

// deafen lets neither router hear the other's adverts, or both again.
func (p *pair) deafen(on bool) {
	p.t.Helper()
	do := "-A"
	if !on {
		do = "-D"
	}
	for _, name := range []string{"a", "b"} {
		_, err := p.Host(name).Run(p.t.Context(), "iptables", "-w", do, "INPUT", "-p", "112", "-j", "DROP")
		must(p.t, err)
	}
}

// purge takes off what a stopped daemon has left for a successor, as the unit
// does when systemd stops it.
func (p *pair) purge(host string) {
	p.t.Helper()
	h := p.Host(host)
	_, err := h.Run(p.t.Context(), self, "purge", "-c", filepath.Join(h.Dir(), "lvx.yaml"))
	must(p.t, err)
}

// restored expects that nothing is left of a silent real server.
func (p *pair) restored(host string) {
	p.t.Helper()
	h := p.Host(host)
	out, err := h.Run(p.t.Context(), "ip", "-o", "addr", "show")
	must(p.t, err)
	if strings.Contains(out, VIP.String()+"/") {
		p.t.Errorf("a VIP is left on %s:\n%s", host, out)
	}
	for _, scope := range []string{"all", "lo", "eth0"} {
		for _, key := range []string{"arp_ignore", "arp_announce"} {
			if v, err := h.ReadSysctl("net.ipv4.conf." + scope + "." + key); err != nil || v != "0" {
				p.t.Errorf("%s: %s of %s is %s, %v; was 0", host, key, scope, v, err)
			}
		}
	}
}
