package xdp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// errorAbout is the ICMP message that a router sends about a frame.
func errorAbout(frame []byte, kind, code byte, mtu uint16) []byte {
	b := []byte{kind, code, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
	b = append(b, frame[ethernetLen:]...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// tunnelled sends a client's packet, which goes into the tunnel, and gives what it
// became.
func (h *harness) tunnelled(p lb.Packet) []byte {
	h.t.Helper()
	in, err := buildFrame(p, h.dp.Interfaces[0].MAC)
	must(h.t, err)
	return h.want(in, "forwarded", tx)
}

// What routers on a tunnel's way say of its packets, the client hears from the VIP,
// with the size that is left for its own packet (ip_vs_in_icmp).
func TestErrorsAboutTunnels(t *testing.T) {
	for _, k := range tunnelKinds {
		t.Run(k.String(), func(t *testing.T) { testErrorsAboutTunnels(t, k.Encap, ipv4Len+len(k.between)) })
	}
}

func testErrorsAboutTunnels(t *testing.T, e lb.Encap, overhead int) {
	s := serviceIn(e)
	s.Reals = s.Reals[:1]
	h := newTunnel(t, s)
	for _, p := range []lb.Packet{syn(lb.TCP), {Proto: lb.TCP, Src: client, Dst: web, Flags: "A", Size: 1400}} {
		out := h.tunnelled(p)
		for _, x := range []struct {
			kind, code byte
			mtu, want  uint16
		}{{3, 1, 0, 0}, {3, 4, 1300, uint16(1300 - overhead)}, {3, 4, 88, 88}, {3, 4, 0, 0}, {3, 13, 0, 0}, {11, 0, 0, 0}, {4, 0, 0, 0}} {
			e, ok := parseTunnelError(errorAbout(out, x.kind, x.code, x.mtu))
			if !ok || !h.hasTunnelled(e) {
				t.Fatalf("ICMP %d/%d about %+v: not taken for an error about the tunnel", x.kind, x.code, p)
			}
			got := e.answer()
			quote := out[ethernetLen+overhead:]
			want := append(make([]byte, ipv4Len, 600), x.kind, x.code, 0, 0, 0, 0, byte(x.want>>8), byte(x.want))
			want = append(want, quote[:min(len(quote), 548)]...)
			binary.BigEndian.PutUint16(want[ipv4Len+2:], checksum(want[ipv4Len:]))
			copy(want, []byte{0x45, 0xc0, byte(len(want) >> 8), byte(len(want)), 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 100, 198, 51, 100, 9})
			copy(want[12:], web.Addr().AsSlice())
			copy(want[16:], client.Addr().AsSlice())
			if !bytes.Equal(got, want) {
				t.Errorf("ICMP %d/%d: the client hears\n%x, want\n%x", x.kind, x.code, got, want)
			}
		}
	}
}

// Whatever else is said to this host about IPIP reaches no client.
func TestErrorsThatAreNotRelayed(t *testing.T) {
	s := tunnelService()
	s.Reals = s.Reals[:1]
	h := newTunnel(t, s)
	out := h.tunnelled(syn(lb.TCP))
	other := syn(lb.TCP)
	other.Src = netip.AddrPortFrom(client.Addr(), client.Port()+1)
	change := func(at int, value byte) []byte {
		b := errorAbout(out, 3, 1, 0)
		b[at] = value
		b[2], b[3] = 0, 0
		binary.BigEndian.PutUint16(b[2:], checksum(b))
		return b
	}
	const outer, inner = icmpLen, icmpLen + ipv4Len
	damaged := errorAbout(out, 3, 1, 0)
	damaged[40] ^= 1
	unknown := errorAbout(out, 3, 1, 0)
	binary.BigEndian.PutUint16(unknown[inner+ipv4Len:], other.Src.Port())
	unknown[2], unknown[3] = 0, 0
	binary.BigEndian.PutUint16(unknown[2:], checksum(unknown))
	for why, message := range map[string][]byte{
		"a wrong checksum":               damaged,
		"no connection":                  unknown,
		"a redirect":                     errorAbout(out, 5, 1, 0),
		"an echo request":                errorAbout(out, 8, 0, 0),
		"another real":                   change(outer+19, 99),
		"another protocol outside":       change(outer+9, 47),
		"a later fragment of the tunnel": change(outer+7, 1),
		"another protocol inside":        change(inner+9, 47),
		"a later fragment":               change(inner+7, 1),
		"no DF": func() []byte {
			b := change(inner+6, 0)
			b[1] = 4
			b[2], b[3] = 0, 0
			binary.BigEndian.PutUint16(b[2:], checksum(b))
			return b
		}(),
		"half a port":          errorAbout(out[:ethernetLen+2*ipv4Len+7], 3, 1, 0),
		"half an inner header": errorAbout(out[:ethernetLen+ipv4Len+8], 3, 1, 0),
		"nothing":              nil,
	} {
		if e, ok := parseTunnelError(message); ok && h.hasTunnelled(e) {
			t.Errorf("%s: relayed to %s", why, e.client)
		}
	}
	if e, ok := parseTunnelError(errorAbout(out, 3, 1, 0)); !ok || !h.hasTunnelled(e) {
		t.Error("what is not changed is not relayed")
	}
	s.Reals[0].Forward = lb.DR
	h.serveTunnels(s)
	if e, ok := parseTunnelError(errorAbout(out, 3, 1, 0)); ok && h.hasTunnelled(e) {
		t.Error("relayed although no real is by tunnel any more")
	}
}

// A stateless service keeps no connection that could be asked for: it is enough that
// the real is one of its reals by tunnel.
func TestErrorsAboutTunnelsOfAStatelessService(t *testing.T) {
	s := tunnelService()
	s.Reals, s.Scheduler, s.Stateless = s.Reals[:1], lb.MH, true
	h := newTunnel(t, s)
	out := h.tunnelled(syn(lb.TCP))
	e, ok := parseTunnelError(errorAbout(out, 11, 0, 0))
	if !ok || !h.hasTunnelled(e) {
		t.Error("not relayed")
	}
	e.real = netip.AddrPortFrom(realN(2), 0)
	if h.hasTunnelled(e) {
		t.Error("relayed for a real that the service does not have")
	}
}

// FuzzTunnelError: whatever comes as ICMP, what a client would be told is a whole
// message with right checksums, and no longer than 576 bytes.
func FuzzTunnelError(f *testing.F) {
	in, err := buildPacket(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Size: 1000})
	if err != nil {
		f.Fatal(err)
	}
	for _, method := range []bpf.ForwardMethod{bpf.ForwardIpip, bpf.ForwardGue, bpf.ForwardGre} {
		frame := encapsulate(append(make([]byte, ethernetLen), in...), ethernetLen, method, &bpf.Tunnel{Source: bpf.AddressOf(outerSource), Destination: bpf.AddressOf(realN(1))}, 0)
		f.Add(errorAbout(frame, 3, 4, 1300))
		f.Add(errorAbout(frame, 11, 0, 0))
		f.Add(errorAbout(frame[:ethernetLen+2*ipv4Len+8], 3, 1, 0))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		e, ok := parseTunnelError(message)
		if !ok {
			return
		}
		b := e.answer()
		if len(b) > 576 || len(b) < 2*ipv4Len+icmpLen+8 || int(binary.BigEndian.Uint16(b[2:])) != len(b) || checksum(b[ipv4Len:]) != 0 {
			t.Errorf("the client would hear %x", b)
		}
	})
}
