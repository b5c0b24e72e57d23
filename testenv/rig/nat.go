package rig

import (
	"errors"
	"net/netip"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/web"
)

// NATVIP is the virtual address of the network that NewNAT makes.
const NATVIP = "172.16.0.7"

// NewNAT makes the network of NAT as the articles draw it: the reals r1 and r2 have no
// other way out than the director d1, and a page on port 8080. The client is on the
// director's segment; the host far is behind its gateway.
func NewNAT(self string) (*Rig, error) {
	nic := func(sw, addr string, isDirector bool) testenv.NIC {
		return testenv.NIC{Switch: sw, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, XDPPeer: isDirector, FullChecksum: true}
	}
	addr := netip.MustParseAddr
	c, err := testenv.New(testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "client", NICs: []testenv.NIC{nic("wan", "172.16.0.50/24", false)}},
		{Name: "router", Forward: true, NICs: []testenv.NIC{nic("wan", "172.16.0.254/24", false), nic("net", "10.25.0.1/24", false)}},
		{Name: "far", Gateway: addr("10.25.0.1"), NICs: []testenv.NIC{nic("net", "10.25.0.50/24", false)}},
		{Name: "d1", Forward: true, Gateway: addr("172.16.0.254"), NICs: []testenv.NIC{nic("wan", "172.16.0.1/24", true), nic("lan", "192.168.79.1/24", true)}},
		{Name: "r1", Gateway: addr("192.168.79.1"), NICs: []testenv.NIC{nic("lan", "192.168.79.27/24", false)}},
		{Name: "r2", Gateway: addr("192.168.79.1"), NICs: []testenv.NIC{nic("lan", "192.168.79.37/24", false)}},
	}})
	if err != nil {
		return nil, err
	}
	r := &Rig{
		Self: self, Cluster: c, Client: c.Host("client"), Interfaces: []string{"eth0", "eth1"},
		Webs: map[string]*web.Server{}, Daemons: map[string]*testenv.Process{}, loads: new(loads),
	}
	for _, name := range []string{"r1", "r2"} {
		if r.Webs[name], err = c.Host(name).ServeWeb(":8080"); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}
