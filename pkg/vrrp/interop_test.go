package vrrp_test

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

const ms = time.Millisecond

var vip = netip.MustParseAddr("10.99.0.100")

func unicast(peer string) func(*vrrp.Instance) {
	return func(i *vrrp.Instance) { i.UnicastPeers = []netip.Addr{netip.MustParseAddr(peer)} }
}

// six makes an instance one of IPv6. The first address is link-local, as
// keepalived demands.
func six(i *vrrp.Instance) {
	i.Addresses = []netip.Prefix{netip.MustParsePrefix("fe80::5:100/64"), netip.MustParsePrefix("fd99::100/64")}
}

// TestKeepalivedIPv6 is both ways at once: lvx takes over from keepalived
// and gives back.
func TestKeepalivedIPv6(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.keepalived("b", instance(3, 100*ms, 100, six))
	l.eventually("keepalived is master of its own", func() bool { return l.has("b", "fd99::100") })
	lvx := l.lvx("a", instance(3, 100*ms, 150, six))
	l.eventually("lvx preempts keepalived", func() bool { return l.has("a", "fd99::100") && !l.has("b", "fd99::100") })
	if !l.has("a", "fe80::5:100") {
		t.Error("the link-local VIP is missing")
	}
	time.Sleep(time.Second)
	if l.has("b", "fd99::100") {
		t.Error("keepalived does not hear lvx")
	}
	lvx.stop()
	l.eventually("keepalived takes over", func() bool { return l.has("b", "fd99::100") && !l.has("a", "fd99::100") })
}

// variants are the ways to speak VRRP; wire is what a master of priority
// 150 sends, byte for byte keepalived's (vrrp-facts/keepalived-wire).
var variants = []struct {
	name    string
	config  func(priority uint8, peer string) vrrp.Instance
	unicast bool
	wire    string
}{
	{"v2 password", func(p uint8, _ string) vrrp.Instance { return instance(2, time.Second, p) }, false,
		"213396010101" + "01b7" + "0a630064" + "7333637233743132"},
	{"v2 no authentication", func(p uint8, _ string) vrrp.Instance {
		return instance(2, time.Second, p, func(i *vrrp.Instance) { i.AuthPass = "" })
	}, false, "213396010001" + "3e03" + "0a630064" + "0000000000000000"},
	{"v2 password unicast", func(p uint8, peer string) vrrp.Instance { return instance(2, time.Second, p, unicast(peer)) }, true,
		"213396010101" + "01b7" + "0a630064" + "7333637233743132"},
	{"v3", func(p uint8, _ string) vrrp.Instance { return instance(3, 100*ms, p) }, false,
		"31339601000a" + "4307" + "0a630064"},
	{"v3 unicast", func(p uint8, peer string) vrrp.Instance { return instance(3, time.Second, p, unicast(peer)) }, true,
		"313396010064" + "185b" + "0a630064"},
}

// Each variant both ways: lvx as the better router of a pair with
// keepalived, and as the worse.
func TestKeepalived(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			seen := l.capture("b", 0x0800)
			backup := l.keepalived("b", v.config(100, hostAddrs["a"]))
			l.eventually("keepalived is master of its own", func() bool { return l.has("b", vip.String()) })

			lvx := l.lvx("a", v.config(150, hostAddrs["b"]))
			l.eventually("lvx preempts keepalived", func() bool {
				return l.has("a", vip.String()) && !l.has("b", vip.String())
			})
			checkWire(t, seen.adverts(hostAddrs["a"]), v.wire, v.unicast)

			p := l.probe("c", vip)
			time.Sleep(300 * ms)
			begin := time.Now()
			lvx.stop()
			l.eventually("keepalived takes over", func() bool { return l.has("b", vip.String()) })
			if l.has("a", vip.String()) {
				t.Error("lvx has stopped and left the VIP")
			}
			// How soon keepalived's announcement follows its advert is its own
			// business: a clean stop is told from a hard one, which costs
			// keepalived's skew, where the skew is not short.
			got, i := p.since(begin), v.config(100, hostAddrs["a"])
			skew := i.AdvertInterval * (256 - 100) / 256
			if i.AdvertInterval >= time.Second && got.lost > int(skew/probeEvery)/2+got.mayLose {
				t.Errorf("a clean stop lost %d probes (%s), a hard one costs %s", got.lost, got.outage, skew)
			}
			t.Logf("a clean stop lost %d probes (%s)", got.lost, got.outage)
			backup.stop()
			keepalivedFirst(t, l, v.config(150, hostAddrs["b"]), v.config(100, hostAddrs["a"]))
		})
	}
}

// keepalivedFirst runs keepalived as the better one on a and lvx on b.
func keepalivedFirst(t *testing.T, l *lab, better, worse vrrp.Instance) {
	t.Helper()
	first := l.keepalived("a", better)
	l.eventually("keepalived is master", func() bool { return l.has("a", vip.String()) })
	lvx := l.lvx("b", worse)
	l.eventually("lvx is backup", func() bool { return lvx.says("to=BACKUP") })
	time.Sleep(3*better.AdvertInterval + time.Second)
	if l.has("b", vip.String()) {
		t.Error("lvx took the VIP from a better keepalived")
	}
	first.stop()
	l.eventually("lvx takes over", func() bool { return l.has("b", vip.String()) })
	l.keepalived("a", better)
	l.eventually("keepalived is back", func() bool { return l.has("a", vip.String()) && !l.has("b", vip.String()) })
	lvx.stop()
}

// checkWire compares advertisements with what keepalived sends, from
// Ethernet to the last byte.
func checkWire(t *testing.T, adverts []frame, wire string, unicast bool) {
	t.Helper()
	if len(adverts) == 0 {
		t.Fatal("no advertisement captured")
	}
	b := adverts[0].b
	if mac := hex.EncodeToString(b[:6]); !unicast && mac != "01005e000012" {
		t.Errorf("destination MAC %s", mac)
	}
	ip := b[14:]
	dst := netip.AddrFrom4([4]byte(ip[16:20]))
	if want := netip.MustParseAddr(hostAddrs["b"]); unicast && dst != want || !unicast && dst != vrrp.Group4 {
		t.Errorf("destination %s", dst)
	}
	if ip[0] != 0x45 || ip[1] != 0xc0 || ip[6]&0x40 != 0 || ip[8] != 255 || ip[9] != 112 {
		t.Errorf("IP header % x, want version/IHL 45, TOS c0, no DF, TTL 255, protocol 112", ip[:20])
	}
	total := int(ip[2])<<8 | int(ip[3])
	if got := hex.EncodeToString(ip[20:total]); got != wire {
		t.Errorf("message %s\nwant    %s", got, wire)
	}
}
