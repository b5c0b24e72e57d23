package neigh_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket/layers"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
	"github.com/vishvananda/netlink"
)

// silentAfter is how long a test waits for what must happen.
const silentAfter = 60 * time.Second

var (
	r1 = netip.MustParseAddr("172.25.0.12")
	r2 = netip.MustParseAddr("172.25.0.13")
)

// run runs a daemon's Run in a host's namespace until the test ends.
func run(t *testing.T, h *testenv.Host, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Do(func() error { return f(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func resolver(t *testing.T, c *testenv.Cluster, reals ...netip.Addr) *neigh.Resolver {
	t.Helper()
	r := neigh.NewResolver(neigh.Options{})
	r.Avoid([]netip.Addr{testenv.VIP})
	r.Watch(reals)
	run(t, c.Host("d1"), r.Run)
	return r
}

// waitMAC waits until the real is resolved to the host's MAC.
func waitMAC(t *testing.T, r *neigh.Resolver, real netip.Addr, mac string) neigh.Entry {
	t.Helper()
	tb.Eventually(t, silentAfter, func() error {
		if e := r.Lookup(real); !e.Usable() || e.MAC.String() != mac {
			return fmt.Errorf("%s is at %q (%s), want %s", real, e.MAC, e.Err, mac)
		}
		return nil
	})
	return r.Lookup(real)
}

func waitErr(t *testing.T, r *neigh.Resolver, real netip.Addr, text string) {
	t.Helper()
	tb.Eventually(t, silentAfter, func() error {
		if e := r.Lookup(real); !strings.Contains(e.Err, text) {
			return fmt.Errorf("%s: %q, want %q", real, e.Err, text)
		}
		return nil
	})
}

func TestResolve(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 2})
	d1 := c.Host("d1")
	local, loop := d1.Addr("eth0"), netip.MustParseAddr("127.0.0.1")
	far, dead := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("172.25.0.77")
	r := resolver(t, c, r1, r2, local, loop, far, dead)

	link, err := d1.Netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	e := waitMAC(t, r, r1, c.Host("r1").MAC("eth0").String())
	want := neigh.Entry{
		MAC: e.MAC, IfIndex: link.Attrs().Index, Device: "eth0", MTU: 1500,
		SrcMAC: neigh.MAC(d1.MAC("eth0")), SrcAddr: d1.Addr("eth0"),
	}
	if d := cmp.Diff(want, e, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("entry (-want +got):\n%s", d)
	}
	waitMAC(t, r, r2, c.Host("r2").MAC("eth0").String())
	for _, a := range []netip.Addr{local, loop} {
		if e := r.Lookup(a); !e.Local || !e.Usable() {
			t.Errorf("%s: %+v, want local", a, e)
		}
	}
	waitErr(t, r, far, "no route to 192.0.2.1")
	waitErr(t, r, dead, "172.25.0.77 does not answer ARP on eth0")

	neighbours, err := d1.Netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	if len(neighbours) != 0 {
		t.Errorf("the kernel's table has %v, want it untouched", neighbours)
	}
}

// A real beyond a router has the router's MAC, and follows it: when the router
// gets another one, when the route changes to another router, and when there is
// none that answers (ipvs-facts/05 section 9 has a real that no route leads to).
func TestRealBehindRouter(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 2, Routed: true})
	far := netip.MustParseAddr("10.25.0.50")
	r := resolver(t, c, far)
	router, d1 := c.Host("router"), c.Host("d1")
	e := waitMAC(t, r, far, router.MAC("eth0").String())
	if want := router.Addr("eth0"); e.Gateway != want || e.SrcAddr != d1.Addr("eth0") {
		t.Errorf("the real is behind %s and is spoken to from %s, want %s and %s", e.Gateway, e.SrcAddr, want, d1.Addr("eth0"))
	}
	r2 := c.Host("r2")
	tb.Run(t, d1, "ip", "route", "replace", "10.25.0.50/32", "via", r2.Addr("eth0").String())
	waitMAC(t, r, far, r2.MAC("eth0").String())
	setMAC(t, r2, "02:00:00:00:77:02", true)
	waitMAC(t, r, far, "02:00:00:00:77:02")
	tb.Run(t, d1, "ip", "route", "replace", "10.25.0.50/32", "via", "172.25.0.77")
	waitErr(t, r, far, "the router of 10.25.0.50: 172.25.0.77 does not answer ARP")
	if err := r.CannotAsk(far); err == nil {
		t.Error("the real is blamed for its router")
	}
	tb.Run(t, d1, "ip", "route", "replace", "10.25.0.50/32", "dev", "eth0")
	waitErr(t, r, far, "10.25.0.50 does not answer ARP on eth0")
}

// setMAC changes the MAC of a real as a replacement of its machine does. The
// kernel says nothing by itself; with announce, the new machine does.
func setMAC(t *testing.T, h *testenv.Host, mac string, announce bool) {
	t.Helper()
	value := "0"
	if announce {
		value = "1" // arp_notify: a gratuitous ARP when the MAC changes
	}
	if err := h.Sysctl("net.ipv4.conf.eth0.arp_notify", value); err != nil {
		t.Fatal(err)
	}
	tb.Run(t, h, "ip", "link", "set", "eth0", "address", mac)
}

func TestMACChange(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	r := resolver(t, c, r1)
	h := c.Host("r1")
	waitMAC(t, r, r1, h.MAC("eth0").String())

	t.Run("announced", func(t *testing.T) {
		const mac = "02:00:00:00:00:aa"
		start := time.Now()
		setMAC(t, h, mac, true)
		waitMAC(t, r, r1, mac)
		t.Logf("seen after %s", time.Since(start))
	})
	t.Run("silent", func(t *testing.T) {
		const mac = "02:00:00:00:00:bb"
		start := time.Now()
		setMAC(t, h, mac, false)
		waitMAC(t, r, r1, mac)
		t.Logf("seen after %s", time.Since(start))
	})
}

func TestInterfaceFlap(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	r := resolver(t, c, r1)
	d1, mac := c.Host("d1"), c.Host("r1").MAC("eth0").String()
	waitMAC(t, r, r1, mac)

	if err := c.Switch().SetLink("d1", false); err != nil { // the cable
		t.Fatal(err)
	}
	waitErr(t, r, r1, "eth0 has no carrier")
	if err := c.Switch().SetLink("d1", true); err != nil {
		t.Fatal(err)
	}
	waitMAC(t, r, r1, mac)

	if err := d1.SetLink("eth0", false); err != nil {
		t.Fatal(err)
	}
	waitErr(t, r, r1, "no route to 172.25.0.12")
	if err := d1.SetLink("eth0", true); err != nil {
		t.Fatal(err)
	}
	waitMAC(t, r, r1, mac)
}

// A real takes a question in the VIP's name for its own and does not answer.
// So the VIP must not be the sender, even if it is the only address, or the
// one the kernel would choose.
func TestQuestionsAreNotInTheVIPsName(t *testing.T) {
	for name, own := range map[string][]string{
		"VIP first": {"172.25.0.100/24", "172.25.0.11/24"},
		"VIP alone": {"172.25.0.100/24"},
	} {
		t.Run(name, func(t *testing.T) {
			c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
			d1, h := c.Host("d1"), c.Host("r1")
			tb.Run(t, d1, "ip", "address", "flush", "dev", "eth0")
			for _, a := range own {
				if err := d1.AddAddr("eth0", netip.MustParsePrefix(a)); err != nil {
					t.Fatal(err)
				}
			}
			for _, key := range []string{"all", "lo", "eth0"} {
				if err := h.Sysctl("net.ipv4.conf."+key+".arp_ignore", "1"); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.AddAddr("lo", netip.PrefixFrom(testenv.VIP, 32)); err != nil {
				t.Fatal(err)
			}
			// Without Avoid first: later it would hear the answers of the other.
			careless := neigh.NewResolver(neigh.Options{})
			careless.Watch([]netip.Addr{r1})
			run(t, d1, careless.Run)
			waitErr(t, careless, r1, "does not answer")

			r := resolver(t, c, r1)
			waitMAC(t, r, r1, h.MAC("eth0").String())
		})
	}
}

func TestAnnounceOnTheWire(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	d1 := c.Host("d1")
	atClient := tb.Capture(t, c.Host("client"), "eth0")
	a := neigh.NewAnnouncer(nil)
	six := netip.MustParseAddr("fd99::100")
	a.Announce("eth0", []netip.Addr{testenv.VIP, six})
	a.Announce("eth9", []netip.Addr{testenv.VIP}) // missing: no harm
	run(t, d1, a.Run)

	count := func() (arps, nas int) {
		frames, err := atClient.Frames()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			p := f.Packet()
			arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP)
			if ok && arp.Operation == layers.ARPRequest && bytes.Equal(arp.SourceProtAddress, testenv.VIP.AsSlice()) &&
				bytes.Equal(arp.DstProtAddress, testenv.VIP.AsSlice()) && bytes.Equal(arp.SourceHwAddress, d1.MAC("eth0")) {
				arps++
			}
			if na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok && na.TargetAddress.String() == six.String() {
				nas++
			}
		}
		return arps, nas
	}
	wait := func(want int) {
		t.Helper()
		tb.Eventually(t, silentAfter, func() error {
			if arps, nas := count(); arps < want || nas < want {
				return fmt.Errorf("%d ARPs and %d advertisements, want %d", arps, nas, want)
			}
			return nil
		})
	}
	wait(5)
	if err := c.Switch().SetLink("d1", false); err != nil {
		t.Fatal(err)
	}
	tb.Eventually(t, silentAfter, func() error {
		link, err := d1.Netlink.LinkByName("eth0")
		if err == nil && link.Attrs().OperState == netlink.OperUp {
			err = fmt.Errorf("eth0 is still up")
		}
		return err
	})
	if err := c.Switch().SetLink("d1", true); err != nil {
		t.Fatal(err)
	}
	wait(10)
}

// Two hosts that both own a VIP find out about each other.
func TestClaimOnTheWire(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 2, Reals: 1})
	changes := map[string]chan string{}
	for _, name := range []string{"d1", "d2"} {
		changes[name] = make(chan string, 10)
		a := neigh.NewAnnouncer(nil)
		a.OnClaim(func(vip netip.Addr, by neigh.MAC) { changes[name] <- vip.String() + " " + by.String() })
		a.Announce("eth0", []netip.Addr{testenv.VIP})
		run(t, c.Host(name), a.Run)
	}
	for name, other := range map[string]string{"d1": "d2", "d2": "d1"} {
		select {
		case got := <-changes[name]:
			if want := testenv.VIP.String() + " " + c.Host(other).MAC("eth0").String(); got != want {
				t.Errorf("%s heard %q, want %q", name, got, want)
			}
		case <-time.After(silentAfter):
			t.Errorf("%s has not noticed %s", name, other)
		}
	}
}

// The client must follow the VIP from one director to the other at once.
func TestAnnouncementMovesAVIP(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 2, Reals: 1})
	client := c.Host("client")
	for _, name := range []string{"d1", "d2"} {
		h := c.Host(name)
		if err := h.AddAddr("eth0", netip.PrefixFrom(testenv.VIP, 32)); err != nil {
			t.Fatal(err)
		}
		a := neigh.NewAnnouncer(nil)
		if name == "d1" {
			tb.Run(t, client, "ping", "-c", "1", "-W", "10", testenv.VIP.String())
		}
		run(t, h, a.Run)
		a.Announce("eth0", []netip.Addr{testenv.VIP})
		tb.Eventually(t, silentAfter, func() error {
			if out := tb.Run(t, client, "ip", "neighbour", "show", testenv.VIP.String()); !strings.Contains(out, h.MAC("eth0").String()) {
				return fmt.Errorf("client thinks %q, want %s", out, h.MAC("eth0"))
			}
			return nil
		})
		a.Withdraw("eth0", []netip.Addr{testenv.VIP})
		if err := h.DelAddr("eth0", netip.PrefixFrom(testenv.VIP, 32)); err != nil {
			t.Fatal(err)
		}
	}
}
func contains(text, want string) error {
	if !strings.Contains(text, want) {
		return fmt.Errorf("%q, want %s", text, want)
	}
	return nil
}
