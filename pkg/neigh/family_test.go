package neigh_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// six gives hosts IPv6 addresses that are usable at once.
func six(t *testing.T, c *testenv.Cluster, hosts map[string]string) {
	t.Helper()
	for name, addr := range hosts {
		h := c.Host(name)
		for _, key := range []string{"all", "eth0"} {
			if err := h.Sysctl("net.ipv6.conf."+key+".disable_ipv6", "0"); err != nil {
				t.Fatal(err)
			}
		}
		tb.Run(t, h, "ip", "-6", "address", "add", addr+"/64", "dev", "eth0", "nodad")
	}
}

// A real's IPv6 address is found by neighbour discovery, followed when its
// MAC changes, and missed when it is not there.
func TestResolveIPv6(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 2})
	real1, real2, dead := netip.MustParseAddr("fd99::12"), netip.MustParseAddr("fd99::13"), netip.MustParseAddr("fd99::77")
	six(t, c, map[string]string{"d1": "fd99::10", "r1": real1.String(), "r2": real2.String()})
	r := resolver(t, c, r1, real1, real2, dead, netip.MustParseAddr("fd99::10"))
	waitMAC(t, r, real1, c.Host("r1").MAC("eth0").String())
	waitMAC(t, r, real2, c.Host("r2").MAC("eth0").String())
	waitMAC(t, r, r1, c.Host("r1").MAC("eth0").String())
	waitErr(t, r, dead, "fd99::77 does not answer neighbour discovery on eth0")
	if e := r.Lookup(netip.MustParseAddr("fd99::10")); !e.Local {
		t.Errorf("own address: %+v, want local", e)
	}
	const mac = "02:00:00:00:00:ab"
	start := time.Now()
	tb.Run(t, c.Host("r1"), "ip", "link", "set", "eth0", "address", mac)
	r.Recheck(real1)
	waitMAC(t, r, real1, mac)
	t.Logf("the new MAC was seen after %s", time.Since(start))
}

// A real of IPv6 that is behind a router has the router's MAC, by a global or a
// link-local address of it, and follows when the route or the router is another one.
func TestRealBehindIPv6Router(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 2})
	far := netip.MustParseAddr("fd98::50")
	six(t, c, map[string]string{"d1": "fd99::10", "r1": "fd99::12", "r2": "fd99::13"})
	d1, router, other := c.Host("d1"), c.Host("r1"), c.Host("r2")
	via := func(gateway string) {
		tb.Run(t, d1, "ip", "-6", "route", "replace", far.String(), "via", gateway, "dev", "eth0")
	}
	via("fd99::12")
	r := resolver(t, c, far)
	e := waitMAC(t, r, far, router.MAC("eth0").String())
	if e.Gateway != netip.MustParseAddr("fd99::12") || e.SrcAddr != netip.MustParseAddr("fd99::10") {
		t.Errorf("the real is behind %s and is spoken to from %s", e.Gateway, e.SrcAddr)
	}
	via("fd99::13")
	waitMAC(t, r, far, other.MAC("eth0").String())
	tb.Run(t, other, "ip", "link", "set", "eth0", "address", "02:00:00:00:77:02")
	r.Recheck(far)
	waitMAC(t, r, far, "02:00:00:00:77:02")

	tb.Run(t, router, "ip", "-6", "address", "add", "fe80::12/64", "dev", "eth0", "nodad")
	via("fe80::12")
	e = waitMAC(t, r, far, router.MAC("eth0").String())
	if e.Gateway != netip.MustParseAddr("fe80::12") || e.SrcAddr != netip.MustParseAddr("fd99::10") {
		t.Errorf("the real is behind %s and is spoken to from %s", e.Gateway, e.SrcAddr)
	}
	tb.Run(t, router, "ip", "-6", "address", "del", "fe80::12/64", "dev", "eth0")
	tb.Run(t, other, "ip", "-6", "address", "add", "fe80::12/64", "dev", "eth0", "nodad")
	r.Recheck(far)
	waitMAC(t, r, far, "02:00:00:00:77:02")

	via("fe80::77")
	waitErr(t, r, far, "the router of fd98::50: fe80::77 does not answer neighbour discovery on eth0")
	if err := r.CannotAsk(far); err == nil {
		t.Error("the real is blamed for its router")
	}
	tb.Run(t, d1, "ip", "-6", "route", "replace", far.String(), "dev", "eth0")
	waitErr(t, r, far, "fd98::50 does not answer neighbour discovery on eth0")
}

// The user's word, a permanent entry of the kernel's table, counts more than
// what stations say, also where there is no ARP; and it is followed.
func TestPermanentEntry(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	d1 := c.Host("d1")
	r := resolver(t, c, r1)
	const fixed, other = "02:00:00:00:00:cc", "02:00:00:00:00:cd"
	waitMAC(t, r, r1, c.Host("r1").MAC("eth0").String())
	tb.Run(t, d1, "ip", "neigh", "replace", r1.String(), "lladdr", fixed, "dev", "eth0", "nud", "permanent")
	waitMAC(t, r, r1, fixed)
	tb.Run(t, d1, "ip", "neigh", "replace", r1.String(), "lladdr", other, "dev", "eth0", "nud", "permanent")
	waitMAC(t, r, r1, other)
	tb.Run(t, d1, "ip", "neigh", "del", r1.String(), "dev", "eth0")
	waitMAC(t, r, r1, c.Host("r1").MAC("eth0").String())

	tb.Run(t, d1, "ip", "link", "set", "eth0", "arp", "off")
	waitErr(t, r, r1, "eth0 does no ARP")
	r.Bind(map[netip.Addr]neigh.MAC{r1: {2, 0, 0, 0, 0, 0xce}})
	waitMAC(t, r, r1, "02:00:00:00:00:ce")
	r.Bind(nil)
	waitErr(t, r, r1, "eth0 does no ARP")
	tb.Run(t, d1, "ip", "neigh", "replace", r1.String(), "lladdr", fixed, "dev", "eth0", "nud", "permanent")
	waitMAC(t, r, r1, fixed)
}

func TestFindOwner(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	six(t, c, map[string]string{"d1": "fd99::10", "r1": "fd99::12"})
	d1, r1MAC := c.Host("d1"), c.Host("r1").MAC("eth0").String()
	for addr, want := range map[string]string{
		"172.25.0.12": r1MAC, "172.25.0.77": "", "fd99::12": r1MAC, "fd99::77": "",
		"fd99::10": "", // this host's own
	} {
		t.Run(addr, func(t *testing.T) {
			start := time.Now()
			err := d1.Do(func() error {
				owner, found, err := neigh.FindOwner(context.Background(), "eth0", netip.MustParseAddr(addr))
				if owner.String() != want || found != (want != "") {
					t.Errorf("owner %q %v, want %q", owner, found, want)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			t.Logf("took %s", time.Since(start))
		})
	}
	err := d1.Do(func() error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, _, err := neigh.FindOwner(ctx, "eth0", r1)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("cancelled: %v", err)
	}
}

// The director's own new MAC is announced at once, in both families.
func TestOwnMACChange(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	d1, client := c.Host("d1"), c.Host("client")
	vip6 := netip.MustParseAddr("fd99::100")
	six(t, c, map[string]string{"d1": vip6.String(), "client": "fd99::1"})
	if err := d1.AddAddr("eth0", netip.PrefixFrom(testenv.VIP, 32)); err != nil {
		t.Fatal(err)
	}
	a := neigh.NewAnnouncer(nil)
	a.Announce("eth0", []netip.Addr{testenv.VIP, vip6})
	run(t, d1, a.Run)
	for _, vip := range []netip.Addr{testenv.VIP, vip6} {
		tb.Run(t, client, "ping", "-c", "1", "-W", "10", vip.String())
	}
	const mac = "02:00:00:00:00:dd"
	start := time.Now()
	tb.Run(t, d1, "ip", "link", "set", "eth0", "address", mac)
	for _, vip := range []netip.Addr{testenv.VIP, vip6} {
		tb.Eventually(t, silentAfter, func() error {
			return contains(tb.Run(t, client, "ip", "neighbour", "show", vip.String()), mac)
		})
	}
	t.Logf("the client knows after %s", time.Since(start))
}
