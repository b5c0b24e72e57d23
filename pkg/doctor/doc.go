// Package doctor looks for the classic mistakes around a director before they
// strike: a real that answers ARP for the VIP, a VIP that somebody else has, a
// real behind a gateway, frames that cannot leave a veth. Each finding names
// its subject and its cure, in the words of pkg/warnings.
//
// It asks (the segment by ARP and neighbour discovery, the kernel by netlink
// and sysctl) and changes nothing. What health checks, VRRP and the
// configuration find by themselves it does not find again.
package doctor
