//go:build ipvsvm

package wiring

import (
	"os/exec"
	"testing"
)

// tag moves a host's address to VLAN 100 of a NIC.
func (l *lab) tag(host, nic, addr string) {
	l.Helper()
	l.ip(host, "link add link "+nic+" name "+nic+".100 type vlan id 100\naddress flush dev "+nic+"\naddress add "+addr+" dev "+nic+".100\nlink set dev "+nic+".100 up")
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

// A VLAN of a bond by 802.3ad, with the switch's ports as its partner: a VLAN device
// takes the program in generic mode, and the tags stay.
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
	l.serve("interface: bond0.100", reals)
	l.served()
	l.says(l.status(), "bond0.100: generic")
	l.says(l.lvx("check", "-c", l.file), "backend xdp, generic on bond0.100 (driver 802.1Q VLAN Support is not known to do XDP)")
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
