package failover

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
)

// of6 makes a virtual router one of IPv6. The first address is link-local, as
// RFC 5798 wants it.
func of6(i *vrrp.Instance) {
	i.Addresses = []netip.Prefix{netip.MustParsePrefix("fe80::5:100/64"), netip.MustParsePrefix("fd99::100/64")}
}

var v3tenth6 = setting{"v3, 100 ms, IPv6", router(3, 100*ms, 150, of6), router(3, 100*ms, 100, of6)}

// newPair6 is a segment whose hosts have IPv6 too, with no router yet.
func newPair6(t *testing.T) *pair {
	t.Helper()
	p := &pair{Segment: newSegment(t), setting: v3tenth6, t: t}
	p.enableIPv6()
	return p
}

func (p *pair) enableIPv6() {
	p.t.Helper()
	for name := range addrs {
		h := p.Host(name)
		must(p.t, h.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0"))
		must(p.t, h.AddAddr("eth0", netip.PrefixFrom(addr6(name), 64)))
	}
}

// serves6 waits until a router alone has the VIP and c knows it.
func (p *pair) serves6(with, without string) {
	p.t.Helper()
	p.await(with+" alone has the VIP", func() error {
		for _, a := range p.better.Addresses {
			if err := p.Alone(with, without, a.Addr()); err != nil {
				return err
			}
		}
		return nil
	})
	p.known6(with)
}

// known6 waits until c knows a router to have the VIP: it is not asked for again
// meanwhile, so that only an advertisement can have said so.
func (p *pair) known6(host string) {
	p.t.Helper()
	p.await("c knows "+host, func() error {
		out, err := p.Host("c").Run(p.t.Context(), "ip", "-6", "neigh", "show", p.vip().String(), "dev", "eth0")
		if mac := p.Host(host).MAC("eth0").String(); err != nil || !strings.Contains(out, mac) {
			return fmt.Errorf("c has %q, %v; want %s", out, err, mac)
		}
		return nil
	})
}

// unsolicited are the neighbour advertisements of the VIP that a host has sent
// to all nodes: not solicited, to override what they know (RFC 4861, 7.2.6).
func (p *pair) unsolicited(all *testenv.Capture, host string) int {
	p.t.Helper()
	allNodes, vip := netip.MustParseAddr("ff02::1"), p.vip()
	frames, err := all.Select(func(f testenv.Frame) bool {
		b := f.Data
		return len(b) >= 14+40+24 && b[12] == 0x86 && b[13] == 0xdd && b[20] == 58 && b[21] == 255 && b[54] == 136 &&
			b[58]&0x60 == 0x20 && netip.AddrFrom16([16]byte(b[38:54])) == allNodes && netip.AddrFrom16([16]byte(b[62:78])) == vip &&
			slices.Equal(b[6:12], p.Host(host).MAC("eth0"))
	})
	must(p.t, err)
	return len(frames)
}

// advert6 is the last advertisement of a's, from the IPv6 header to the end,
// without what each packet may have its own of: the flow label.
func (p *pair) advert6(all *testenv.Capture) string {
	p.t.Helper()
	isAdvert := func(f testenv.Frame) bool {
		b := f.Data
		return len(b) >= 14+40+8 && b[12] == 0x86 && b[13] == 0xdd && b[20] == vrrpProtocol && b[56] == p.better.Priority &&
			slices.Equal(b[6:12], p.Host("a").MAC("eth0"))
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), Patience)
	defer cancel()
	_, err := all.Wait(ctx, isAdvert)
	must(p.t, err)
	frames, err := all.Select(isAdvert)
	must(p.t, err)
	b := slices.Clone(frames[len(frames)-1].Data)
	b[15] &= 0xf0
	b[16], b[17] = 0, 0
	return fmt.Sprintf("%x to %x", b[14:], b[:6])
}

// An IPv6 VIP beside keepalived, each as the better one of a pair and as the
// worse: who is master follows priorities, every takeover is told to all nodes,
// clients reach the VIP all along, and what is sent is the same to the last
// byte.
func TestIPv6BesideKeepalived(t *testing.T) {
	t.Parallel()
	p := newPair6(t)
	all, err := p.Switch().Capture("a")
	must(t, err)
	atClient, err := p.Switch().Capture("c")
	must(t, err)
	p.probe(p.vip())
	lvx := LVX{Self: self, Body: "services: []\n"}

	p.b = start(t, Keepalived{}, p.Host("b"), p.worse)
	p.serves6("b", "a")
	p.a = start(t, lvx, p.Host("a"), p.better)
	p.serves6("a", "b")
	ours := p.advert6(all)
	p.takesOver6("keepalived, from lvx that stops", atClient, "b", func() {
		p.stop(p.a)
		p.succeeds("b")
	})
	p.stop(p.b)

	p.a, p.b = start(t, Keepalived{}, p.Host("a"), p.better), nil
	p.serves6("a", "b")
	if theirs := p.advert6(all); ours != theirs {
		t.Errorf("lvx sends\n%s, keepalived\n%s", ours, theirs)
	}
	p.b = start(t, lvx, p.Host("b"), p.worse)
	must(t, p.b.WaitOutput(t.Context(), "to=BACKUP"))
	p.takesOver6("lvx, from keepalived that stops", atClient, "b", func() {
		p.stop(p.a)
		p.serves6("b", "a")
	})
	if !strings.Contains(p.b.Output(), "has resigned") {
		t.Error("lvx did not hear keepalived resign")
	}
	p.takesOver6("keepalived, that returns", atClient, "a", func() {
		p.a = start(t, Keepalived{}, p.Host("a"), p.better)
		p.serves6("a", "b")
	})
	p.stop(p.b)
	p.stop(p.a)
}

// takesOver6 lets something happen, and waits for it, by which a host becomes master.
func (p *pair) takesOver6(what string, atClient *testenv.Capture, host string, happens func()) {
	p.t.Helper()
	begin, before := time.Now(), p.unsolicited(atClient, host)
	happens()
	p.known6(host)
	announced := p.unsolicited(atClient, host) - before
	if announced == 0 {
		p.t.Errorf("%s: no unsolicited advertisement", what)
	}
	loss := p.echo.Since(begin)
	p.t.Logf("%s: %d unsolicited advertisements, %d of %d probes lost, %s", what, announced, loss.Lost, loss.Probes, loss.Outage.Round(ms))
	p.await("the VIP answers", func() error {
		if l := p.echo.Since(time.Now().Add(-late)); l.Probes == 0 || l.Lost > 0 {
			return fmt.Errorf("%d of %d probes lost", l.Lost, l.Probes)
		}
		return nil
	})
}

// Connections of IPv6 by mh go on through a clean stop of the master, its
// return and kill -9, under a load of new ones.
func TestIPv6ConnectionsSurvive(t *testing.T) {
	t.Parallel()
	p := newPair6(t)
	p.program = LVX{Self: self, Body: fmt.Sprintf("sloppy_tcp: true\nservices:\n  - name: mh\n    listen: [\"[%s]:81/tcp\"]\n"+
		"    scheduler: mh\n    flags: [mh-port]\n    reals: [{address: %q}, {address: %q}]\n", p.vip(), addr6("r1"), addr6("r2"))}
	for _, name := range []string{"r1", "r2"} {
		h := p.Host(name)
		_, err := h.Run(t.Context(), self, "real", "up", "--vip", p.vip().String(), "--interface", "eth0", "--state", filepath.Join(h.Dir(), "real.json"))
		must(t, err)
		_, err = h.ServeWeb("[::]:81")
		must(t, err)
	}
	p.probe(p.vip())
	p.a = p.start("a", p.better)
	p.await("a has the VIP", func() error { return p.Alone("a", "b", p.vip()) })
	p.b = p.start("b", p.worse)
	must(t, p.b.WaitOutput(t.Context(), "BACKUP"))
	p.await("a real answers", func() error {
		conn, _, err := p.connect(81)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	conns, visits := p.hold(81), p.visit(81)
	check := func(what string) {
		t.Helper()
		if n := alive(conns); n != connections {
			t.Errorf("after %s %d of %d connections live", what, n, connections)
		}
	}
	p.stop(p.a)
	p.succeeds("b")
	p.known6("b")
	check("a clean stop")
	p.a = p.start("a", p.better)
	p.serves6("a", "b")
	check("the return")
	p.a.Kill()
	p.await("b is master", func() error {
		if ok, err := p.Has("b", p.vip()); err != nil || !ok {
			return fmt.Errorf("no VIP on b: %v", err)
		}
		return nil
	})
	time.Sleep(time.Second) // a is silent by now
	check("kill -9")
	p.a = p.start("a", p.better)
	p.serves6("a", "b")
	check("the second return")
	total, lost := visits.stop()
	t.Logf("%d of %d new connections failed: %v", len(lost), total, lost)
	if len(lost) > slackLost {
		t.Errorf("%d of %d new connections failed: %v", len(lost), total, lost)
	}
}
