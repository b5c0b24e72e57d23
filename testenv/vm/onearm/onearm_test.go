package onearm

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// router makes a network whose director just forwards.
func router(t *testing.T, vips ...netip.Addr) *Net {
	t.Helper()
	n, err := New(vips...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, knob := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+knob, []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestForward: frames are told apart by where they go, packets arrive whole.
func TestForward(t *testing.T) {
	n := router(t)
	for _, c := range []struct {
		name string
		p    Packet
		real int
		back bool
	}{
		{"tcp", Packet{Src: ap("172.16.0.5:1000"), Dst: ap("10.0.0.13:80"), Flags: "S"}, 3, false},
		{"udp", Packet{Src: ap("172.16.0.5:1000"), Dst: ap("10.0.0.30:53"), UDP: true, Payload: []byte("hello")}, 20, false},
		{"IPv6", Packet{Src: ap("[2001:db8:1::5]:1000"), Dst: ap("[2001:db8::12]:80"), Flags: "SA"}, 2, false},
		{"back", Packet{Src: ap("10.0.0.11:80"), Dst: ap("172.16.0.5:1000"), Flags: "FA"}, 0, true},
	} {
		seen, err := n.Send(c.p)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		found := false
		for _, s := range seen {
			if s.Frame.Layer(layers.LayerTypeICMPv4) != nil || s.Frame.Layer(layers.LayerTypeICMPv6) != nil {
				continue // redirects
			}
			found = true
			if s.Real != c.real || s.Back != c.back {
				t.Errorf("%s: went to rs%d, back %v", c.name, s.Real, s.Back)
			}
			if udp, ok := s.Frame.Layer(layers.LayerTypeUDP).(*layers.UDP); ok && !bytes.Equal(udp.Payload, c.p.Payload) {
				t.Errorf("%s: payload %q", c.name, udp.Payload)
			}
		}
		if !found {
			t.Errorf("%s: nothing came out", c.name)
		}
	}
	// Nobody has this address: nothing comes out but ARP, which is not seen.
	if got, err := n.Choose(Packet{Src: ap("172.16.0.5:1"), Dst: ap("10.0.0.99:80"), Flags: "S"}); got != 0 || err != nil {
		t.Errorf("packet to nobody: rs%d, %v", got, err)
	}
}

// TestChoose: one real, and no more.
func TestChoose(t *testing.T) {
	n := router(t)
	got, err := n.Choose(Packet{Src: ap("172.16.0.5:1000"), Dst: ap("10.0.0.14:80"), Flags: "S"})
	if got != 4 || err != nil {
		t.Errorf("rs%d, %v; want rs4", got, err)
	}
}

// TestVIP: the director answers for its addresses itself, and TTL is the
// packet's.
func TestVIP(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.100")
	n := router(t, vip)
	seen, err := n.Send(Packet{Src: ap("172.16.0.5:1000"), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || !seen[0].Back {
		t.Fatalf("seen %v", seen)
	}
	if tcp, ok := seen[0].Frame.Layer(layers.LayerTypeTCP).(*layers.TCP); !ok || !tcp.RST {
		t.Errorf("answer to a closed port: %v", seen[0].Frame)
	}
	seen, err = n.Send(Packet{Src: ap("172.16.0.5:1000"), Dst: ap("10.0.0.11:80"), Flags: "S", TTL: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0].Frame.Layer(layers.LayerTypeICMPv4) == nil {
		t.Errorf("TTL 1: %v", seen)
	}
}

// TestSilence: a director that does not answer is an error, not a verdict.
func TestSilence(t *testing.T) {
	n := router(t)
	dev, err := netlink.LinkByName(Device)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(dev); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Send(Packet{Src: ap("172.16.0.5:1"), Dst: ap("10.0.0.11:80"), Flags: "S"}); err == nil {
		t.Error("no error")
	}
}

// TestClose: the thread is back where it was.
func TestClose(t *testing.T) {
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(Device); err != nil {
		t.Errorf("inside: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := net.Interfaces()
	if err != nil || len(after) != len(before) {
		t.Errorf("interfaces before %v, after %v (%v)", before, after, err)
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() != n.affinity.Count() {
		t.Errorf("affinity %d processors, want %d", set.Count(), n.affinity.Count())
	}
}

func TestAddresses(t *testing.T) {
	if Real(1).String() != "10.0.0.11" || Real6(3).String() != "2001:db8::13" || RealMAC(20).String() != "02:00:00:00:01:14" {
		t.Errorf("%s %s %s", Real(1), Real6(3), RealMAC(20))
	}
}
