package testenv_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

func TestLinkErrors(t *testing.T) {
	cluster := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	h := cluster.Host("r1")
	addr := netip.MustParsePrefix("172.25.0.99/32")
	for _, c := range []struct {
		want string
		f    func() error
	}{
		{"interface eth9: Link not found", func() error { return h.AddAddr("eth9", addr) }},
		{"interface eth9: Link not found", func() error { return h.DelAddr("eth9", addr) }},
		{"address 172.25.0.99/32 on eth0", func() error { return h.DelAddr("eth0", addr) }},
		{"address 172.25.0.12/24 on eth0", func() error { return h.AddAddr("eth0", netip.MustParsePrefix("172.25.0.12/24")) }},
		{"interface eth9: Link not found", func() error { return h.SetLink("eth9", true) }},
		{"interface eth9: Link not found", func() error { return h.SetLink("eth9", false) }},
		{"interface eth9: Link not found", func() error { return h.SetRoute(testenv.Route{To: addr, NIC: "eth9"}) }},
		{"route to 172.25.0.99/32", func() error { return h.SetRoute(testenv.Route{To: addr, Via: netip.MustParseAddr("10.9.9.9")}) }},
		{"hop MTU: no router in this network", func() error { return cluster.SetHopMTU(1280) }},
		{"web server on 192.0.2.1:80: listen", func() error { _, err := h.ServeWeb("192.0.2.1:80"); return err }},
		{"listen udp 192.0.2.1:53", func() error { _, err := h.ListenPacket("udp", "192.0.2.1:53"); return err }},
		{"connect: network is unreachable", func() error { _, err := h.Dial(t.Context(), "tcp", "192.0.2.1:80"); return err }},
		{"send on r1 eth9", func() error { return h.Send("eth9", nil) }},
		{"capture on r1 eth9: route ip+net: no", func() error { _, err := h.Capture("eth9"); return err }},
	} {
		if err := c.f(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if a := h.Addr("eth9"); a.IsValid() {
		t.Errorf("Addr of a missing interface: %s", a)
	}
	if m := h.MAC("eth9"); m != nil {
		t.Errorf("MAC of a missing interface: %s", m)
	}
}

// A host with two NICs on two switches, as a director with reals elsewhere.
func TestTwoSegments(t *testing.T) {
	at := func(a string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(a)} }
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "front", NICs: []testenv.NIC{{Addrs: at("172.25.0.1/24")}}},
		{Name: "d1", NICs: []testenv.NIC{
			{Addrs: at("172.25.0.11/24"), XDPPeer: true},
			{Switch: "back", Addrs: at("172.26.0.11/24"), XDPPeer: true, MTU: 1400},
		}},
		{Name: "rear", NICs: []testenv.NIC{{Switch: "back", Addrs: append(at("172.26.0.1/24"), at("fd99::1/64")...)}}},
	}})
	tb.Run(t, c.Host("d1"), "ping", "-c", "1", "-W", "10", "172.25.0.1")
	tb.Run(t, c.Host("d1"), "ping", "-c", "1", "-W", "10", "172.26.0.1")
	if out := tb.Run(t, c.Host("back"), "ip", "-br", "link"); !strings.Contains(out, "d1.1@") || !strings.Contains(out, "rear@") {
		t.Errorf("ports of the second switch:\n%s", out)
	}
	if out := tb.Run(t, c.Host("d1"), "ip", "link", "show", "eth1"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("MTU: %s", out)
	}
	if _, err := c.Host("front").Run(t.Context(), "ping", "-c", "1", "-W", "1", "172.26.0.1"); err == nil {
		t.Error("the segments are connected")
	}
}

// A datagram server on the VIP answers from the VIP.
func TestServeUDP(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	r1, client := c.Host("r1"), c.Host("client")
	if err := r1.AddAddr("eth0", netip.PrefixFrom(testenv.VIP, 32)); err != nil {
		t.Fatal(err)
	}
	s, err := r1.ServeWeb()
	if err != nil {
		t.Fatal(err)
	}
	p, err := r1.ListenPacket("udp", netip.AddrPortFrom(testenv.VIP, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	go s.ServeUDP(p) // ends with p, which the host closes
	conn, err := client.Dial(t.Context(), "udp", netip.AddrPortFrom(testenv.VIP, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "r1\n" {
		t.Errorf("answer %q, %v", buf[:n], err)
	}
}
