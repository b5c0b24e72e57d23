// Package bgp announces virtual addresses to routers: which address when, and
// by which attributes, as a pure function of what the director knows
// ([Policy]); and a BGP speaker that says so ([Speaker]), on GoBGP.
//
// It refuses to learn: what a router announces is rejected, nothing is ever
// put into a routing table. It opens no port for BGP and no API of GoBGP's.
package bgp
