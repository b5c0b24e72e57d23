package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// datagrams is a UDP service.
func datagrams(extra string, reals ...string) string {
	return strings.NewReplacer(":80/tcp", ":53/udp", "name: web", "name: dns").Replace(service(extra, reals...))
}

// udpRig serves UDP on every real.
func udpRig(t *testing.T, body string) *rig.Rig {
	t.Helper()
	r := newRig(t, testenv.Shape{Directors: 1})
	for name, w := range r.Webs {
		p, err := r.Cluster.Host(name).ListenPacket("udp", rig.VIP+":53")
		must(t, err)
		go w.ServeUDP(p)
	}
	must(t, r.Direct(t.Context(), "d1", body))
	return r
}

// flow is a client's socket: all that it sends is one flow.
type flow struct {
	*testing.T
	net.Conn
}

func newFlow(t *testing.T, r *rig.Rig) flow {
	t.Helper()
	conn, err := r.Client.Dial(t.Context(), "udp", rig.VIP+":53")
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return flow{t, conn}
}

// ask sends n bytes and gives the name of who answered, or the error.
func (f flow) ask(n int) string {
	f.Helper()
	must(f.T, f.SetDeadline(time.Now().Add(2*time.Second)))
	if _, err := f.Write(make([]byte, n)); err != nil {
		return rig.Brief(err)
	}
	buf := make([]byte, 100)
	n, err := f.Read(buf)
	if err != nil {
		return rig.Brief(err)
	}
	return strings.TrimSpace(string(buf[:n]))
}

func TestUDPFlowsStick(t *testing.T) {
	r := udpRig(t, datagrams(""))
	seen := map[string]int{}
	for range 6 {
		f := newFlow(t, r)
		first := f.ask(10)
		seen[first]++
		for range 5 {
			if got := f.ask(10); got != first {
				t.Errorf("a flow went from %s to %s", first, got)
			}
		}
	}
	if seen["r1"] != 3 || seen["r2"] != 3 {
		t.Errorf("flows: %v", seen)
	}
}

// Flows of a real that is gone, by reload, by a check or because it is silent
// on the segment, move with the next packet; those of a drained one stay.
func TestUDPFlowsMove(t *testing.T) {
	t.Parallel()
	udpCheck := fmt.Sprintf("check: {type: udp, send: ping, expect: r, interval: %s, timeout: %s, fall: 2, rise: 1}", checkEvery, checkTimeout)
	for _, c := range []struct {
		name, check string
		leave       func(*rig.Rig) error
		stays       bool
	}{
		{"reload", "", func(r *rig.Rig) error { return r.Direct(t.Context(), "d1", datagrams("", "172.25.0.13")) }, false},
		{"drain", "", func(r *rig.Rig) error {
			_, err := r.LVX(t.Context(), "d1", "drain", "dns", "172.25.0.12")
			return err
		}, true},
		{"check", udpCheck, func(r *rig.Rig) error {
			_, err := r.Cluster.Host("r1").Run(t.Context(), "iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
			return err
		}, false},
		{"silence", "", func(r *rig.Rig) error { return r.Cluster.Host("r1").SetLink("eth0", false) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := udpRig(t, datagrams(c.check))
			if c.check != "" {
				eventually(t, func() error {
					out, err := r.LVX(t.Context(), "d1", "list", "-n")
					if err != nil || strings.Count(out, "Route") != 2 {
						return fmt.Errorf("not both are up: %v\n%s", err, out)
					}
					return nil
				})
			}
			var flows []flow // of r1
			for len(flows) < 3 {
				if f := newFlow(t, r); f.ask(10) == "r1" {
					flows = append(flows, f)
				}
			}
			must(t, c.leave(r))
			if c.stays {
				for _, f := range flows {
					if got := f.ask(10); got != "r1" {
						t.Errorf("answered by %s", got)
					}
				}
				return
			}
			eventually(t, func() error {
				if got := newFlow(t, r).ask(10) + newFlow(t, r).ask(10); got != "r2r2" {
					return fmt.Errorf("new flows: %s", got)
				}
				return nil
			})
			for _, f := range flows {
				if got := f.ask(10); got != "r2" {
					t.Errorf("the next packet was answered by %s", got)
				}
			}
		})
	}
}

// Datagrams of several fragments arrive whole, at the flow's real.
func TestUDPFragments(t *testing.T) {
	const size = 4000
	r := udpRig(t, datagrams(""))
	completeDatagrams := func(real string) (n int) {
		for _, a := range r.Webs[real].Log() {
			if a.Method == "UDP" && a.Bytes == size {
				n++
			}
		}
		return n
	}
	for range 4 {
		f := newFlow(t, r)
		first := f.ask(10)
		before := completeDatagrams(first)
		for range 3 {
			if got := f.ask(size); got != first {
				t.Errorf("%d bytes: answered by %s, the flow is %s's", size, got, first)
			}
		}
		if n := completeDatagrams(first) - before; n != 3 {
			t.Errorf("%d of 3 datagrams arrived whole at %s", n, first)
		}
	}
	// The first packet of a flow may be a fragmented one, too.
	if got := newFlow(t, r).ask(size); got != "r1" && got != "r2" {
		t.Errorf("first datagram of a flow: %s", got)
	}
}

// Fragments in every order, also with those that have no ports first.
func TestUDPFragmentsInAnyOrder(t *testing.T) {
	const size = 4000
	r := udpRig(t, datagrams(""))
	for i, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1}, {2, 0, 1}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			port := uint16(40000 + i)
			p, err := r.Client.ListenPacket("udp", fmt.Sprintf("172.25.0.50:%d", port))
			must(t, err)
			defer p.Close()
			all := fragmented(t, r, port, uint16(1000+i), size)
			if len(all) != 3 {
				t.Fatalf("%d fragments, want 3", len(all))
			}
			for _, n := range order {
				must(t, r.Client.Send("eth0", all[n]))
			}
			must(t, p.SetReadDeadline(time.Now().Add(rig.Patience)))
			buf := make([]byte, 100)
			n, from, err := p.ReadFrom(buf)
			must(t, err)
			name := strings.TrimSpace(string(buf[:n]))
			if w := r.Webs[name]; w == nil || from.String() != rig.VIP+":53" {
				t.Fatalf("answered by %q from %s", name, from)
			}
			log := r.Webs[name].Log()
			if last := log[len(log)-1]; last.Bytes != size || last.Client.Port() != port {
				t.Errorf("%s got %+v", name, last)
			}
		})
	}
}

// fragmented is a UDP datagram to the VIP as Ethernet frames of at most 1500
// bytes each.
func fragmented(t *testing.T, r *rig.Rig, port, id uint16, size int) [][]byte {
	t.Helper()
	src, dst := net.ParseIP("172.25.0.50"), net.ParseIP(rig.VIP)
	ip := layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src, DstIP: dst, Id: id}
	udp := layers.UDP{SrcPort: layers.UDPPort(port), DstPort: 53}
	must(t, udp.SetNetworkLayerForChecksum(&ip))
	body := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(t, gopacket.SerializeLayers(body, opts, &udp, gopacket.Payload(make([]byte, size))))
	eth := layers.Ethernet{SrcMAC: r.Client.MAC("eth0"), DstMAC: r.Cluster.Host("d1").MAC("eth0"), EthernetType: layers.EthernetTypeIPv4}
	const most = 1480
	var frames [][]byte
	for at, rest := 0, body.Bytes(); len(rest) > 0; at += most {
		part := rest[:min(most, len(rest))]
		rest = rest[len(part):]
		ip.FragOffset, ip.Flags = uint16(at/8), 0
		if len(rest) > 0 {
			ip.Flags = layers.IPv4MoreFragments
		}
		frame := gopacket.NewSerializeBuffer()
		must(t, gopacket.SerializeLayers(frame, opts, &eth, &ip, gopacket.Payload(part)))
		frames = append(frames, frame.Bytes())
	}
	return frames
}

// A tagged frame is forwarded with its tag; replies do not pass the director,
// so what is looked at is what the director sends.
func TestVLAN(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, tags := range map[string][]uint16{"802.1Q": {100}, "QinQ": {200, 100}} {
		for _, mode := range []string{"native", "generic"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				r := newRig(t, testenv.Shape{Directors: 1})
				// Native XDP sees no tag that the NIC takes out of the frame; the
				// other end of a veth does that.
				run(t, r.Cluster.Switch(), "ethtool", "-K", "d1", "txvlan", "off", "tx-vlan-stag-hw-insert", "off")
				must(t, r.Direct(t.Context(), "d1", "xdp_mode: "+mode+"\n"+service("", "172.25.0.12")))
				c, err := r.Cluster.Switch().Capture("d1")
				must(t, err)
				const port = 40123
				must(t, r.Client.Send("eth0", tagged(t, r, port, tags)))
				ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
				defer cancel()
				f, err := c.Wait(ctx, func(f testenv.Frame) bool {
					return string(f.Data[:6]) == string(r.Cluster.Host("r1").MAC("eth0")) && sourcePort(f) == port
				})
				must(t, err)
				got := f.Packet()
				eth := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
				ip := got.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
				var vlans []uint16
				for _, l := range got.Layers() {
					if q, ok := l.(*layers.Dot1Q); ok {
						vlans = append(vlans, q.VLANIdentifier)
					}
				}
				if fmt.Sprint(vlans) != fmt.Sprint(tags) {
					t.Errorf("tags %v, want %v", vlans, tags)
				}
				if eth.SrcMAC.String() != r.Cluster.Host("d1").MAC("eth0").String() || ip.TTL != 63 {
					t.Errorf("source MAC %s, TTL %d", eth.SrcMAC, ip.TTL)
				}
			})
		}
	}
}

func sourcePort(f testenv.Frame) uint16 {
	if tcp, ok := f.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
		return uint16(tcp.SrcPort)
	}
	return 0
}

// tagged is a SYN for the VIP's port 80 with VLAN tags, the outer one first.
func tagged(t *testing.T, r *rig.Rig, port uint16, tags []uint16) []byte {
	t.Helper()
	eth := layers.Ethernet{SrcMAC: r.Client.MAC("eth0"), DstMAC: r.Cluster.Host("d1").MAC("eth0")}
	ls := []gopacket.SerializableLayer{&eth}
	next := &eth.EthernetType
	for i, id := range tags {
		*next = layers.EthernetTypeDot1Q
		if i == 0 && len(tags) > 1 {
			*next = layers.EthernetTypeQinQ
		}
		q := &layers.Dot1Q{VLANIdentifier: id}
		next = &q.Type
		ls = append(ls, q)
	}
	*next = layers.EthernetTypeIPv4
	ip := layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: netip.MustParseAddr("172.25.0.50").AsSlice(), DstIP: netip.MustParseAddr(rig.VIP).AsSlice(),
	}
	tcp := layers.TCP{SrcPort: layers.TCPPort(port), DstPort: 80, SYN: true, Window: 1000}
	must(t, tcp.SetNetworkLayerForChecksum(&ip))
	b := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(ls, &ip, &tcp)...))
	return b.Bytes()
}
