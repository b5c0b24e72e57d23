//go:build ipvsvm

package wiring

import (
	"os/exec"
	"testing"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// tag moves a host's address to VLAN 100 of a NIC.
func (l *lab) tag(host, nic, addr string) {
	l.Helper()
	l.ip(host, "address flush dev "+nic)
	l.addVLAN(host, nic, "100", addr)
}

// addVLAN gives a host an address in a VLAN of a NIC.
func (l *lab) addVLAN(host, nic, id, addr string) {
	l.Helper()
	name := nic + "." + id
	l.ip(host, "link add link "+nic+" name "+name+" type vlan id "+id+"\naddress add "+addr+" dev "+name+"\nlink set dev "+name+" up")
	if l.hasIPv6 {
		l.ip(host, "address add "+six(addr)+" dev "+name+" nodad")
	}
}

// keepTags has tags stay in the frames: what NICs do that put them in and take them out
// themselves, a veth only says, and so the sender's has to be told, too.
func (l *lab) keepTags(host, nic, port string) {
	l.Helper()
	tb.Run(l, l.Host(host), "ethtool", "-K", nic, "rxvlan", "off")
	tb.Run(l, l.Host("lan"), "ethtool", "-K", port, "txvlan", "off")
}

func (l *lab) tagAll() {
	l.Helper()
	l.tag("client", "eth0", client)
	for name, addr := range reals {
		l.tag(name, "eth0", addr)
	}
}

// bond makes a bond of a host's two NICs.
func (l *lab) bond(mode string) {
	l.Helper()
	l.ip("director", "link add bond0 type bond mode "+mode+` miimon 100
		link set dev eth0 down
		link set dev eth1 down
		link set dev eth0 master bond0
		link set dev eth1 master bond0
		link set dev bond0 up`)
}

// A bond has the program on both of its NICs, in native mode.
func TestBond(t *testing.T) {
	l := newLab(t, nic("lan"), nic("lan"))
	l.bond("active-backup")
	l.ip("director", "address add "+director+" dev bond0")
	l.serve("interface: bond0", reals)
	l.served()
	l.says(l.status(), "bond0: native")
	l.says(l.lvx("check", "-c", l.file), "bond0 driver bonding, MTU 1500, native XDP", "backend xdp, native on bond0")
	l.ip("director", "link set dev eth0 down") // the other NIC takes over
	l.served()
	l.losesFrames("lan", "director.1", "bond0", "xdp_redirect")
}

// A VLAN of a bond by 802.3ad, with the switch's ports as its partner. As long as NICs
// take tags out of frames the VLAN's own interface has the program, in generic mode; then
// the bond has it, in native mode.
func TestVLANOfBond(t *testing.T) {
	l := newLab(t, nic("lan"), nic("lan"))
	l.bond("802.3ad")
	l.ip("lan", `link add bond0 type bond mode 802.3ad miimon 100 lacp_rate fast
		link set dev director down
		link set dev director.1 down
		link set dev director master bond0
		link set dev director.1 master bond0
		link set dev bond0 master br0
		link set dev bond0 up`)
	l.tagAll()
	l.tag("director", "bond0", director)
	const reason = "eth0 takes VLAN tags out of frames before XDP sees them (ethtool -K eth0 rxvlan off)"
	stop := l.serve("interface: bond0.100", reals)
	l.served()
	l.says(l.status(), "bond0.100: generic (native refused: "+reason)
	l.says(l.lvx("check", "-c", l.file), "backend xdp, generic on bond0.100 ("+reason)
	l.says(l.lvx("doctor", "-c", l.file), "is served in generic mode, which is slower: "+reason)
	stop()
	l.keepTags("director", "eth0", "director")
	l.keepTags("director", "eth1", "director.1")
	l.serve("interface: bond0.100", reals)
	l.served()
	l.says(l.status(), "bond0.100: native on bond0")
	l.says(l.lvx("check", "-c", l.file), "backend xdp, native on bond0.100 (its frames are served on bond0)")
	tb.Run(l, l.Host("director"), "ethtool", "-K", "eth0", "rxvlan", "on")
	l.says(l.lvx("doctor", "-c", l.file), "wrong interface bond0.100: is served on bond0, which cannot see its frames: "+reason)
}

// Clients are in one VLAN of a NIC, reals in another one: one program on the NIC
// changes the tag, of both families. Replies by NAT change it back.
func TestVLANs(t *testing.T) {
	for _, forward := range []string{"dr", "nat"} {
		t.Run(forward, func(t *testing.T) {
			l := newLab(t, nic("lan"))
			l.keepTags("director", "eth0", "director")
			if forward == "dr" {
				l.addIPv6()
			}
			l.tag("client", "eth0", client)
			l.tag("director", "eth0", director)
			l.addVLAN("director", "eth0", "200", "10.79.0.7/24")
			for name, addr := range reals {
				l.ip(name, "address flush dev eth1\naddress flush dev eth0")
				l.addVLAN(name, "eth0", "200", backReals[name])
				if forward == "nat" {
					l.ip(name, "route add default via 10.79.0.7")
				} else {
					l.addVLAN(name, "eth0", "100", addr)
				}
			}
			if err := l.Host("director").Sysctl("net.ipv4.ip_forward", "1"); err != nil {
				t.Fatal(err)
			}
			l.forward = forward
			l.serve("interfaces: [eth0.100, eth0.200]", backReals)
			l.served()
			l.says(l.status(), "eth0.100, eth0.200: native on eth0")
			l.says(l.lvx("check", "-c", l.file), "native on eth0.100 (its frames are served on eth0), native on eth0.200 (its frames are served on eth0)")
			if n := l.lost("eth0", "xdp_tx"); n != 0 {
				t.Errorf("%d frames are lost while all is well", n)
			}
		})
	}
}

// The NIC of a virtual machine serves in native mode.
func TestVirtio(t *testing.T) {
	l := newLab(t)
	for i, host := range []string{"director", "lan"} {
		device := []string{"eth0", "eth1"}[i]
		if out, err := exec.Command("ip", "link", "set", "dev", device, "netns", l.Host(host).Netns()).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	l.ip("lan", "link set dev eth1 master br0\nlink set dev eth1 up")
	l.ip("director", "address add "+director+" dev eth0\nlink set dev eth0 up")
	l.serve("interface: eth0", reals)
	l.served()
	l.says(l.status(), "eth0: native")
	l.says(l.lvx("check", "-c", l.file), "eth0 driver virtio_net, MTU 1500, native XDP")
	if n := l.lost("eth0", "xdp_tx"); n != 0 {
		t.Errorf("%d frames are lost while all is well", n)
	}
}

// Clients come in at one NIC, reals are behind another one: both have the program.
func TestTwoArms(t *testing.T) {
	l := newLab(t, nic("lan", director), nic("back", "10.79.0.7/24"))
	l.serve("interfaces: [eth0, eth1]", backReals)
	l.served()
	l.says(l.status(), "eth0: native", "eth1: native")
	l.losesFrames("back", "director.1", "eth0", "xdp_redirect")
}
