package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// A probe to a real behind a tunnel is the frame with the VIP, inside a packet
// for the real that has its TOS, TTL and DF.
func TestEncapsulate(t *testing.T) {
	for name, change := range map[string]func(*layers.IPv4){
		"plain":          nil,
		"DF":             func(ip *layers.IPv4) { ip.Flags = layers.IPv4DontFragment },
		"TOS and TTL":    func(ip *layers.IPv4) { ip.TOS, ip.TTL = 0xb9, 7 },
		"options inside": options,
	} {
		for tunnel, encap := range encaps {
			p := loaded(t)
			check(t, p.objects.Probes.Put(uint32(mark), probeTo(real, vip, lb.Tunnel, encap)))
			payload := gopacket.Payload("odd size")[:7]
			got := run(t, p.objects.ProbeOut, mark, frame(t, local, real, change, tcp(40000, 80), payload))
			inner := frame(t, local, vip, change, tcp(40000, 80), payload)
			read := gopacket.NewPacket(inner, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			protocol, between := between(encap, layers.EthernetTypeIPv4, layers.IPProtocolIPv4, len(inner)-14)
			outer := &layers.IPv4{
				Version: 4, TOS: read.TOS, TTL: read.TTL, Flags: read.Flags, Protocol: protocol,
				SrcIP: local.AsSlice(), DstIP: real.AsSlice(),
			}
			want := serialize(t, layers.EthernetTypeIPv4, outer, []gopacket.SerializableLayer{between, gopacket.Payload(inner[14:])})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, tunnel, diff)
			}
		}
	}
}

// The same of IPv6, whose flow label stays inside.
func TestEncapsulateIPv6(t *testing.T) {
	for tunnel, encap := range encaps {
		p := loaded(t)
		check(t, p.objects.Probes.Put(uint32(mark6), probeTo(real6, vip6, lb.Tunnel, encap)))
		payload := gopacket.Payload("odd size")[:7]
		labelled := func(to netip.Addr) []byte {
			f := frame6(t, local6, to, tcp(40000, 80), payload)
			copy(f[14:], []byte{0x6b, 0x91, 0x23, 0x45})
			f[21] = 7
			return f
		}
		got := run(t, p.objects.ProbeOut, mark6, labelled(real6))
		inner := labelled(vip6)
		protocol, between := between(encap, layers.EthernetTypeIPv6, layers.IPProtocolIPv6, len(inner)-14)
		outer := &layers.IPv6{Version: 6, TrafficClass: 0xb9, HopLimit: 7, NextHeader: protocol, SrcIP: local6.AsSlice(), DstIP: real6.AsSlice()}
		want := serialize(t, layers.EthernetTypeIPv6, outer, []gopacket.SerializableLayer{between, gopacket.Payload(inner[14:])})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tunnel, diff)
		}
	}
}

// A probe through a VIP of the other family, and its reply: the frames that would have
// been built with the addresses of that family.
func TestEncapsulateTheOtherFamily(t *testing.T) {
	payload := gopacket.Payload("an odd size that needs no padding")
	echo := append(gopacket.Payload{0, 77, 0, 7}, payload...)
	type layer = gopacket.SerializableLayer
	icmp4 := func(typ uint8) []layer { return []layer{icmp(typ, 77), payload} }
	six := func(typ uint8) []layer { return []layer{icmp6(typ), echo} }
	withPayload := func(l layer) func() []layer { return func() []layer { return []layer{l, payload} } }
	for name, c := range map[string]struct{ out4, out6, back4, back6 func() []layer }{
		"tcp": {withPayload(tcp(40000, 80)), withPayload(tcp(40000, 80)), withPayload(tcp(80, 40000)), withPayload(tcp(80, 40000))},
		"udp": {withPayload(udp(40000, 53)), withPayload(udp(40000, 53)), withPayload(udp(53, 40000)), withPayload(udp(53, 40000))},
		"icmp": {
			func() []layer { return icmp4(layers.ICMPv4TypeEchoRequest) }, func() []layer { return six(128) },
			func() []layer { return icmp4(layers.ICMPv4TypeEchoReply) }, func() []layer { return six(129) },
		},
	} {
		four := func(from, to netip.Addr, above []layer) []byte {
			return frame(t, from, to, func(ip *layers.IPv4) { ip.Flags, ip.TOS, ip.TTL = layers.IPv4DontFragment, 0xb9, 7 }, above...)
		}
		six := func(from, to netip.Addr, above []layer) []byte {
			f := frame6(t, from, to, above...)
			f[14], f[15], f[21] = 0x6b, 0x90, 7
			return f
		}
		for tunnel, encap := range encaps {
			p := loaded(t)
			put := func(mark uint32, real, vip, source netip.Addr) {
				to := probeTo(real, vip, lb.Tunnel, encap)
				to.Source = wire(source)
				check(t, p.objects.Probes.Put(mark, to))
			}
			same := func(what string, want, got []byte) {
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s: %s (-want +got):\n%s", name, tunnel, what, diff)
				}
			}
			// Only the stack's own look at a frame's type is behind the programs.
			typed := func(f []byte, typ layers.EthernetType) []byte {
				binary.BigEndian.PutUint16(f[12:], uint16(typ))
				return f
			}

			put(mark6, real6, vip, local)
			inner := four(local, vip, c.out4())
			protocol, head := between(encap, layers.EthernetTypeIPv4, layers.IPProtocolIPv4, len(inner)-14)
			outer6 := &layers.IPv6{Version: 6, TrafficClass: 0xb9, HopLimit: 7, NextHeader: protocol, SrcIP: local6.AsSlice(), DstIP: real6.AsSlice()}
			if name == "icmp" {
				patchPort(head, encap, 77)
			}
			same("IPv4 in IPv6", serialize(t, layers.EthernetTypeIPv6, outer6, []layer{head, gopacket.Payload(inner[14:])}),
				run(t, p.objects.ProbeOut, mark6, six(local6, real6, c.out6())))
			same("its reply", typed(six(real6, local6, c.back6()), layers.EthernetTypeIPv4), run(t, p.objects.ProbeIn, 0, four(vip, local, c.back4())))

			put(mark, real, vip6, local6)
			inner = six(local6, vip6, c.out6())
			protocol, head = between(encap, layers.EthernetTypeIPv6, layers.IPProtocolIPv6, len(inner)-14)
			outer4 := &layers.IPv4{Version: 4, TOS: 0xb9, TTL: 7, Protocol: protocol, SrcIP: local.AsSlice(), DstIP: real.AsSlice()}
			if name == "icmp" {
				patchPort(head, encap, 77)
			}
			same("IPv6 in IPv4", serialize(t, layers.EthernetTypeIPv4, outer4, []layer{head, gopacket.Payload(inner[14:])}),
				run(t, p.objects.ProbeOut, mark, four(local, real, c.out4())))
			same("its reply", typed(four(real, local, c.back4()), layers.EthernetTypeIPv6), run(t, p.objects.ProbeIn, 0, six(vip6, local6, c.back6())))
		}
	}
}

// patchPort makes a header of GUE one that comes from another port.
func patchPort(head gopacket.Payload, encap lb.Encap, port uint16) {
	if encap.Kind == lb.GUE {
		binary.BigEndian.PutUint16(head, port|0xc000)
	}
}

// encaps are the tunnels.
var encaps = map[string]lb.Encap{
	"ipip": {}, "gue": {Kind: lb.GUE, Port: 5555}, "gre": {Kind: lb.GRE},
}

// between is what a tunnel has between the outer header and a packet of a length from
// port 40000, and the protocol that the outer header names.
func between(encap lb.Encap, of layers.EthernetType, inner layers.IPProtocol, length int) (layers.IPProtocol, gopacket.Payload) {
	switch encap.Kind {
	case lb.GUE:
		b := binary.BigEndian.AppendUint16(nil, 40000|0xc000)
		b = binary.BigEndian.AppendUint16(b, encap.Port)
		b = binary.BigEndian.AppendUint16(b, uint16(length+12))
		return layers.IPProtocolUDP, append(b, 0, 0, 0, byte(inner), 0, 0)
	case lb.GRE:
		return layers.IPProtocolGRE, binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(of))
	}
	return inner, nil
}

// tunnelled is [through] by a tunnel.
func tunnelled(real *testenv.Host, s health.Spec, port uint16) health.Target {
	tgt := through(real, s, port)
	tgt.Forward = lb.Tunnel
	return tgt
}

// behindRouter has r2 behind r1, which knows no way to the VIP: only what is
// encapsulated gets to r2.
func behindRouter(t *testing.T, full bool) (d1, r2 *testenv.Host) {
	t.Helper()
	c := network(t, full)
	d1, r2 = c.Host("d1"), c.Host("r2")
	check(t, c.Host("r1").Sysctl("net.ipv4.ip_forward", "1"))
	tb.Run(t, d1, "ip", "route", "replace", "172.25.0.13/32", "via", "172.25.0.12")
	carry(t, r2)
	web(t, r2, ":80", ":443")
	serveUDP(t, r2, testenv.VIP)
	return d1, r2
}

// Every kind of check goes through the tunnel; what does not decapsulate is down,
// and the reason names the tunnel.
func TestThroughTunnel(t *testing.T) {
	for _, full := range []bool{false, true} {
		d1, r2 := behindRouter(t, full)
		got := one(t, d1, tunnelled(r2, health.Spec{Type: health.HTTP, Timeout: short}, 80))
		if want := "connects on 172.25.0.13 but not through VIP 172.25.0.100 in a tunnel: does the real decapsulate (lvx real status)?"; got != want {
			t.Errorf("without decapsulation: %q, want %q", got, want)
		}
		check(t, r2.Decapsulate("eth0"))
		const times = 20
		want := map[string]int{"pass": times}
		j := job{XDP: full, Times: times, Targets: []health.Target{
			tunnelled(r2, health.Spec{Type: health.TCP}, 80),
			tunnelled(r2, health.Spec{Type: health.HTTP}, 80),
			tunnelled(r2, health.Spec{Type: health.HTTPS, SkipVerify: true}, 443),
			tunnelled(r2, health.Spec{Type: health.UDP, Send: "ping", Expect: "ping"}, 53),
			tunnelled(r2, health.Spec{Type: health.ICMP}, 0),
			straight(r2, health.Spec{Type: health.HTTP}, 80),
		}}
		if diff := cmp.Diff([]map[string]int{want, want, want, want, want, want}, probe(t, d1, j)); diff != "" {
			t.Errorf("full checksums %v: answers (-want +got):\n%s", full, diff)
		}
		// Direct routing does not get past the router.
		const refusal = "path to VIP 172.25.0.100: not asked: real 172.25.0.13 is behind router 172.25.0.12 (direct routing needs it on the segment)"
		if got := one(t, d1, through(r2, health.Spec{Type: health.TCP, Timeout: time.Second}, 80)); got != refusal {
			t.Errorf("direct routing: %q", got)
		}
	}
}

// The other tunnels, of either family in either: the real takes the packets out of each.
func TestThroughEveryTunnel(t *testing.T) {
	for _, full := range []bool{false, true} {
		d1, r1 := network6(t, full)
		check(t, r1.AddAddr("lo", vip32))
		web(t, r1, ":80", ":443")
		serveUDP(t, r1, vip)
		serveUDP6(t, r1, vip6)
		if full { // the VIPs are the director's own addresses, too
			check(t, d1.AddAddr("eth0", vip32))
			check(t, d1.AddAddr("eth0", vip128))
		}
		for _, decapsulates := range []bool{false, true} {
			if decapsulates {
				check(t, r1.Decapsulate("eth0"))
			}
			j := job{XDP: full}
			var want []map[string]int
			for _, tgt := range everyTunnel(decapsulates) {
				answer := "pass"
				if !decapsulates {
					tgt.Spec.Timeout = short
					answer = fmt.Sprintf("connects on %s but not through VIP %s in a tunnel: does the real decapsulate (lvx real status)?", tgt.Real, tgt.VIP)
				}
				j.Targets, want = append(j.Targets, tgt), append(want, map[string]int{answer: 1})
			}
			if diff := cmp.Diff(want, probe(t, d1, j)); diff != "" {
				t.Errorf("full checksums %v, decapsulates %v: answers (-want +got):\n%s", full, decapsulates, diff)
			}
		}
	}
}

// A reply of the VIP's family has to come to this host.
func TestNoAddressOfTheFamily(t *testing.T) {
	c := network(t, false)
	const want = "path to VIP 2001:db8::100: not asked: this host has no address of the family of VIP 2001:db8::100 that is not a VIP (give it one, or set via: real)"
	tgt := tunnelled(c.Host("r1"), health.Spec{Type: health.TCP}, 80)
	tgt.VIP = vip6
	if got := one(t, c.Host("d1"), tgt); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// everyTunnel has questions about services of both families to a real at both of its
// addresses, by every tunnel: those of which a failure names the tunnel, and all.
func everyTunnel(all bool) (targets []health.Target) {
	for _, encap := range []lb.Encap{{}, {Kind: lb.GUE, Port: lb.GUEPort}, {Kind: lb.GRE}} {
		for _, way := range []struct{ real, vip netip.Addr }{{real, vip}, {real6, vip6}, {real6, vip}, {real, vip6}} {
			ask := func(s health.Spec, port uint16) {
				s.Via = health.ViaVIP
				targets = append(targets, health.Target{Spec: timed(s), Real: way.real, Port: port, VIP: way.vip, Forward: lb.Tunnel, Encap: encap})
			}
			ask(health.Spec{Type: health.HTTP}, 80)
			if all {
				ask(health.Spec{Type: health.HTTPS, SkipVerify: true}, 443)
				ask(health.Spec{Type: health.UDP, Send: "ping", Expect: "ping"}, 53)
				ask(health.Spec{Type: health.ICMP}, 0)
				ask(health.Spec{Type: health.HTTP, Path: "/?" + strings.Repeat("x", 1400)}, 80)
			}
		}
	}
	return targets
}

// A segment as long as the interface takes would not fit into the tunnel. Which
// path makes a request that long depends on its header: some twenty bytes of
// length are in question.
func TestTunnelSegments(t *testing.T) {
	d1, r2 := behindRouter(t, false)
	check(t, r2.Decapsulate("eth0"))
	var j job
	var want []map[string]int
	for n := 1300; n < 1450; n += 15 {
		j.Targets = append(j.Targets, tunnelled(r2, health.Spec{Type: health.HTTP, Path: "/?" + strings.Repeat("x", n), Timeout: short}, 80))
		want = append(want, map[string]int{"pass": 1})
	}
	if diff := cmp.Diff(want, probe(t, d1, j)); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}
