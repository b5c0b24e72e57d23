package faults

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// arpReply is an unsolicited reply, to all: by says that it has addr.
func arpReply(t *testing.T, by, addr string) []byte {
	t.Helper()
	mac, err := net.ParseMAC(by)
	must(t, err)
	a := netip.MustParseAddr(addr).As4()
	frame := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame = append(frame, mac...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
	frame = append(append(frame, mac...), a[:]...)
	return append(append(frame, mac...), a[:]...)
}

// stranger is the MAC of a station that the segment does not have.
const stranger = "02:00:00:00:00:66"

// One unsolicited reply moves nothing while the real answers where it was, and
// the log names who has sent it; a real that the user has bound to a MAC is not
// moved either. Somebody who claims the VIP hears at once who has it.
func TestFault26ForeignARP(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, c := range map[string]struct {
		bind func(t *testing.T, r *rig.Rig, body string) string
		says string
	}{
		"answers where it was": {func(_ *testing.T, _ *rig.Rig, body string) string { return body }, "another station claims the address of a real server, which answers where it was"},
		"mac in the file": {func(_ *testing.T, r *rig.Rig, body string) string {
			return strings.Replace(body, "172.25.0.12}", "172.25.0.12, mac: \""+r.Cluster.Host("r1").MAC("eth0").String()+"\"}", 1)
		}, ""},
		"permanent entry": {func(t *testing.T, r *rig.Rig, body string) string {
			commands(t, r.Cluster.Host("d1"), "ip neighbour replace 172.25.0.12 dev eth0 nud permanent lladdr "+r.Cluster.Host("r1").MAC("eth0").String())
			return body
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			must(t, r.Direct(t.Context(), "d1", c.bind(t, r, service("", "172.25.0.12"))))
			realsUp(t, r, "r1")
			for range 5 {
				must(t, r.Client.Send("eth0", arpReply(t, stranger, "172.25.0.12")))
				if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r1" {
					t.Errorf("after an unsolicited reply: %s", got)
				}
			}
			eventually(t, func() error {
				if log := r.Daemons["d1"].Output(); !strings.Contains(log, c.says) {
					return fmt.Errorf("the log does not say %q:\n%s", c.says, log)
				}
				return nil
			})
		})
	}
	t.Run("claim of the VIP", func(t *testing.T) {
		r := newRig(t, testenv.Shape{Directors: 1})
		must(t, r.Direct(t.Context(), "d1", service("")))
		realsUp(t, r, "r1", "r2")
		own := r.Cluster.Host("d1").MAC("eth0").String()
		heard, err := r.Client.Capture("eth0")
		must(t, err)
		must(t, r.Cluster.Host("r2").Send("eth0", arpReply(t, stranger, rig.VIP)))
		eventually(t, func() error {
			var by []string
			frames, err := heard.Frames()
			if err != nil {
				return err
			}
			for _, f := range frames {
				if mac, addr := announced(f.Data); addr.IsValid() && addr.String() == rig.VIP {
					by = append(by, mac)
				}
			}
			if len(by) < 2 || by[0] != stranger || by[1] != own {
				return fmt.Errorf("who said to have the VIP: %q, want %s, then %s", by, stranger, own)
			}
			return nil
		})
		if got := r.Curl(4, "http://"+rig.VIP); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
			t.Errorf("after a claim of the VIP: %s", got)
		}
	})
}

// A new MAC of the director's own is announced by itself, before anybody asks;
// a real's, which says nothing of it, is found as soon as the real does not
// answer a check. Connections go on.
func TestFault28NewMACs(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1, r1 := r.Cluster.Host("d1"), r.Cluster.Host("r1")
	must(t, r.Direct(t.Context(), "d1", checked("type: tcp")))
	realsUp(t, r, "r1", "r2")
	conn, err := r.Hold("r1")
	must(t, err)
	defer conn.Close()

	const own = "02:aa:bb:cc:dd:ee"
	heard, err := r.Client.Capture("eth0")
	must(t, err)
	commands(t, d1, "ip link set dev eth0 address "+own)
	_, err = heard.Wait(t.Context(), func(f testenv.Frame) bool {
		by, addr := announced(f.Data)
		return by == own && addr.IsValid() && addr.String() == rig.VIP
	})
	must(t, err)
	if name, err := rig.Ask(conn); name != "r1" || err != nil {
		t.Errorf("with a new MAC of the director the connection is answered by %q, %v", name, err)
	}
	if log := r.Daemons["d1"].Output(); !strings.Contains(log, "the interface of VIPs has another MAC") {
		t.Errorf("the log says nothing of the new MAC:\n%s", log)
	}

	commands(t, r1, "ip link set dev eth0 address 02:aa:bb:cc:dd:ff")
	if name, err := rig.Ask(conn); name != "r1" || err != nil {
		t.Errorf("with a new MAC of the real the connection is answered by %q, %v", name, err)
	}
	realsUp(t, r, "r1", "r2")
}

// A packet that comes by the wire with an address of this host, or the VIP, as
// its source opens nothing and counts for nothing.
func TestFault18MartianSources(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", strings.Replace(service(""), "scheduler: rr", "scheduler: lc", 1)))
	realsUp(t, r, "r1", "r2")
	before := metricOf(t, r, `lvx_packets_total\{verdict="martian"\}`)
	connections := metricOf(t, r, `lvx_service_connections_total\{service="web"\}`)
	for n, source := range []string{rig.VIP, "172.25.0.11"} {
		frame := synFrame(t, r.Client.MAC("eth0").String(), r.Cluster.Host("d1").MAC("eth0").String(), source, rig.VIP)
		for range 10 {
			must(t, r.Client.Send("eth0", frame))
		}
		eventually(t, func() error {
			if got := metricOf(t, r, `lvx_packets_total\{verdict="martian"\}`) - before; got != 10*(n+1) {
				return fmt.Errorf("%d martians, want %d", got, 10*(n+1))
			}
			return nil
		})
	}
	if got := metricOf(t, r, `lvx_service_connections_total\{service="web"\}`); got != connections {
		t.Errorf("%d connections were scheduled", got-connections)
	}
	if out, err := r.LVX(t.Context(), "d1", "list", "-n", "-c"); err != nil || strings.Contains(out, "172.25.0.11:") || strings.Contains(out, rig.VIP+":4") {
		t.Errorf("connections of martians: %v\n%s", err, out)
	}
}

// VIPs that somebody has: a peer, which is a finding and no refusal; another
// host, over IPv6, which withholds that VIP alone; and a file that takes it
// all the same.
func TestFault15VIPsThatSomebodyHas(t *testing.T) {
	t.Parallel() // it waits most of its time
	second := func(vip, real, extra string) string {
		return "  - {name: other, listen: [\"" + vip + ":80/tcp\"], reals: [{address: \"" + real + "\"}]" + extra + "}\n"
	}
	has := func(t *testing.T, r *rig.Rig, vip string, want bool) {
		t.Helper()
		eventually(t, func() error {
			if out := run(t, r.Cluster.Host("d1"), "ip", "address", "show", "dev", "eth0"); strings.Contains(out, vip+"/") != want {
				return fmt.Errorf("%s is here: %v, want %v\n%s", vip, !want, want, out)
			}
			return nil
		})
	}
	t.Run("force", func(t *testing.T) {
		r := newRig(t, testenv.Shape{Directors: 1})
		must(t, r.Client.AddAddr("eth0", netip.MustParsePrefix("172.25.0.102/32")))
		must(t, r.Direct(t.Context(), "d1", service("")+second("172.25.0.102", "172.25.0.12", ", claim: force")))
		has(t, r, "172.25.0.102", true)
	})
	t.Run("a peer", func(t *testing.T) {
		r := newRig(t, testenv.Shape{Directors: 2})
		must(t, r.Cluster.Host("d2").AddAddr("eth0", netip.MustParsePrefix("172.25.0.102/32")))
		must(t, r.Direct(t.Context(), "d1", "peers: [172.25.0.14]\n"+service("")+second("172.25.0.102", "172.25.0.12", "")))
		has(t, r, "172.25.0.102", true)
		says(t, r, "status", "172.25.0.14", "answers ARP for it")
	})
	t.Run("IPv6", func(t *testing.T) {
		r := newRig(t, testenv.Shape{Directors: 1})
		for name, addr := range map[string]string{"d1": "fd99::11", "client": "fd99::102", "r1": "fd99::12"} {
			h := r.Cluster.Host(name)
			for _, key := range []string{"all", "eth0"} {
				must(t, h.Sysctl("net.ipv6.conf."+key+".disable_ipv6", "0"))
			}
			commands(t, h, "ip -6 address add "+addr+"/64 dev eth0 nodad")
		}
		must(t, r.Direct(t.Context(), "d1", service("")+second("[fd99::102]", "fd99::12", "")))
		says(t, r, "status", "withheld: another host ("+r.Client.MAC("eth0").String()+") has it")
		has(t, r, "fd99::102", false)
		if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
			t.Errorf("the other VIP: %s", got)
		}
		commands(t, r.Client, "ip -6 address del fd99::102/64 dev eth0")
		has(t, r, "fd99::102", true)
	})
	t.Run("a real", func(t *testing.T) {
		r := newRig(t, testenv.Shape{Directors: 1})
		file, err := r.Config("d1", strings.Replace(service("", "172.25.0.12", "172.25.0.13"), rig.VIP+":80", "172.25.0.12:80", 1))
		must(t, err)
		for _, verb := range []string{"check", "run"} {
			out, err := r.Cluster.Host("d1").Run(t.Context(), lvx, verb, "-c", file)
			if err == nil || !strings.Contains(out+err.Error(), "172.25.0.12 is a VIP, of service web") {
				t.Errorf("%s with a VIP that is a real's address: %v\n%s", verb, err, out)
			}
		}
	})
}

// synFrame is a frame that opens a TCP connection with port 80.
func synFrame(t *testing.T, from, to, source, destination string) []byte {
	t.Helper()
	mac := func(text string) net.HardwareAddr {
		m, err := net.ParseMAC(text)
		must(t, err)
		return m
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(destination)}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 80, SYN: true, Window: 1000}
	must(t, tcp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: mac(from), DstMAC: mac(to), EthernetType: layers.EthernetTypeIPv4}, ip, tcp))
	return b.Bytes()
}
