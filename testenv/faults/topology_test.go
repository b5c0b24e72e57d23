package faults

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// secondSegment joins d1 and r1 by a segment of their own: 10.77.0.1 on
// veth7, 10.77.0.12 on eth1.
func secondSegment(t *testing.T, r *rig.Rig) {
	t.Helper()
	d1, r1 := r.Cluster.Host("d1"), r.Cluster.Host("r1")
	commands(t, d1, "ip link add veth7 type veth peer name eth1 netns "+r1.Netns(), "ip link set veth7 up", "ip address add 10.77.0.1/24 dev veth7")
	commands(t, r1, "ip link set eth1 up", "ip address add 10.77.0.12/24 dev eth1")
	must(t, r1.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
	must(t, r1.Sysctl("net.ipv4.conf.eth1.rp_filter", "0"))
}

// What can be forwarded to can be checked: through the VIP and at the real's
// own address, where the real is behind an interface that no configuration
// names, and where the named one is a port of a bridge that has the address. A
// check that has no way says so.
func TestFault04ChecksLeaveByTheRoute(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, via := range []string{"vip", "real"} {
		t.Run("second interface, via "+via, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			secondSegment(t, r)
			must(t, r.Direct(t.Context(), "d1", "xdp_mode: generic\n"+service("check: {type: http, via: "+via+", interval: 300ms, timeout: 2s, fall: 1, rise: 1}", "10.77.0.12")))
			realsUp(t, r, "r1")
			must(t, r.Webs["r1"].Close())
			says(t, r, "status", "10.77.0.12", "refused")
		})
		t.Run("port of a bridge, via "+via, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			d1 := r.Cluster.Host("d1")
			own := d1.Addr("eth0").String()
			commands(t, d1, "ip link add br0 type bridge", "ip link set eth0 master br0", "ip address flush dev eth0", "ip address add "+own+"/24 dev br0", "ip link set br0 up")
			must(t, r.Direct(t.Context(), "d1", service("check: {type: http, via: "+via+", interval: 300ms, timeout: 2s, fall: 1, rise: 1}")))
			realsUp(t, r, "r1", "r2")
			says(t, r, "status", "it is a port of br0: frames leave by the bridge, which takes none from native XDP")
			must(t, r.Webs["r1"].Close())
			says(t, r, "status", "172.25.0.12", "refused")
		})
	}
	t.Run("no way", func(t *testing.T) {
		r := newRig(t, testenv.Shape{Directors: 1})
		must(t, r.Direct(t.Context(), "d1", checked("type: http")+"      - {address: 192.0.2.77}\n"))
		realsUp(t, r, "r1", "r2")
		says(t, r, "status", "192.0.2.77", "not asked: route to 192.0.2.77: network is unreachable")
		if log := r.Daemons["d1"].Output(); !strings.Contains(log, "check cannot be asked, the real stays as it was") {
			t.Errorf("the log does not say that a check has no way:\n%s", log)
		}
	})
}

// The addresses of a virtual router go where their network is, or where the
// file says, not to the router's own interface, and are announced there.
func TestFault05AddressesOfARouter(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	secondSegment(t, r)
	d1 := r.Cluster.Host("d1")
	heard, err := r.Client.Capture("eth0")
	must(t, err)
	file, err := r.Config("d1", service("")+`vrrp:
  - name: VI_1
    interface: veth7
    virtual_router_id: 51
    priority: 100
    version: 3
    advert_interval: 100ms
    addresses: [`+rig.VIP+`/24, 10.77.0.100/24, {address: 10.78.0.100/24, interface: eth0}]
`)
	must(t, err)
	replaceIn(t, file, "interface: eth0", "interfaces: [eth0, veth7]")
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	for nic, want := range map[string][]string{"eth0": {rig.VIP + "/24", "10.78.0.100/24"}, "veth7": {"10.77.0.100/24"}} {
		out := run(t, d1, "ip", "address", "show", "dev", nic)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s has no %s:\n%s", nic, w, out)
			}
		}
		if n := strings.Count(out, ".100/24"); n != len(want) {
			t.Errorf("%s has %d addresses of the router, want %d:\n%s", nic, n, len(want), out)
		}
	}
	eventually(t, func() error {
		said := map[string]bool{}
		frames, err := heard.Frames()
		if err != nil {
			return err
		}
		for _, f := range frames {
			if by, addr := announced(f.Data); by == d1.MAC("eth0").String() {
				said[addr.String()] = true
			}
		}
		if !said[rig.VIP] || !said["10.78.0.100"] || said["10.77.0.100"] {
			return fmt.Errorf("announced on eth0: %v", said)
		}
		return nil
	})
}

// announced reads a gratuitous ARP frame: who says that it has which address.
func announced(frame []byte) (by string, addr netip.Addr) {
	const arp = 14 // after the Ethernet header
	if len(frame) < arp+28 || frame[12] != 8 || frame[13] != 6 || [4]byte(frame[arp+14:]) != [4]byte(frame[arp+24:]) {
		return "", netip.Addr{}
	}
	m := frame[arp+8:]
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]), netip.AddrFrom4([4]byte(frame[arp+14:]))
}

// Where lvx's own view of the neighbours and the user's word differ, the
// user's word counts, as frames show: permanent entries of the kernel's
// table, mac: in the file, and both where the interface does no ARP; and what
// the user changes is followed.
func TestFault06UsersWordOfNeighbours(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	mac := map[string]string{}
	for _, name := range []string{"d1", "r1", "r2"} {
		mac[name] = r.Cluster.Host(name).MAC("eth0").String()
	}
	body := service("", "172.25.0.12")
	must(t, r.Direct(t.Context(), "d1", body))
	realsUp(t, r, "r1")
	permanent := "ip neighbour replace 172.25.0.12 dev eth0 nud permanent lladdr "
	commands(t, d1, permanent+mac["r2"])
	realsUp(t, r, "r2")
	commands(t, d1, permanent+mac["r1"])
	realsUp(t, r, "r1")
	commands(t, d1, permanent+mac["r2"])
	realsUp(t, r, "r2")
	commands(t, d1, "ip neighbour del 172.25.0.12 dev eth0")
	realsUp(t, r, "r1")
	bound := strings.Replace(body, "{address: 172.25.0.12}", "{address: 172.25.0.12, mac: \""+mac["r2"]+"\"}", 1)
	must(t, r.Direct(t.Context(), "d1", bound))
	realsUp(t, r, "r2")
	must(t, r.Direct(t.Context(), "d1", body))
	realsUp(t, r, "r1")

	commands(t, r.Client, "ip neighbour replace "+rig.VIP+" dev eth0 nud permanent lladdr "+mac["d1"])
	commands(t, d1, "ip link set eth0 arp off")
	says(t, r, "status", "172.25.0.12", "eth0 does no ARP")
	commands(t, d1, permanent+mac["r2"])
	realsUp(t, r, "r2")
	commands(t, d1, "ip neighbour del 172.25.0.12 dev eth0")
	must(t, r.Direct(t.Context(), "d1", bound))
	realsUp(t, r, "r2")
}

// A VIP is back on an interface that was removed and made anew, and so is the
// packet path.
func TestFault13InterfaceMadeAnew(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	secondSegment(t, r)
	d1, r1 := r.Cluster.Host("d1"), r.Cluster.Host("r1")
	file, err := r.Config("d1", strings.Replace(service(""), "listen: [\"", "listen: [\"10.77.0.100:80/tcp\", \"", 1))
	must(t, err)
	replaceIn(t, file, "interface: eth0", "interfaces: [eth0, veth7]")
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	for range 3 {
		commands(t, d1, "ip link del veth7")
		secondSegment(t, r)
		begin := time.Now()
		eventually(t, func() error {
			out := run(t, d1, "ip", "-details", "address", "show", "dev", "veth7")
			if !strings.Contains(out, "10.77.0.100/32") || !strings.Contains(out, "xdp") {
				return fmt.Errorf("the VIP or the program is not back:\n%s", out)
			}
			return nil
		})
		t.Logf("VIP and program are back after %s", time.Since(begin))
		eventually(t, func() error { // the segment hears of it
			_, err := r1.Run(t.Context(), "arping", "-c", "1", "-w", "1", "-I", "eth1", "10.77.0.100")
			return err
		})
	}
	realsUp(t, r, "r1", "r2")
}
