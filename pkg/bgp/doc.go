// Package bgp announces virtual addresses to routers: which address when, and
// by which attributes, as a pure function of what the director knows
// ([Policy]); and either a BGP speaker that says so ([Speaker]), on GoBGP, or
// another routing daemon of this host that is told to ([Hook]).
//
// It refuses to learn: what a router announces is rejected, nothing is ever
// put into a routing table. It opens no port for BGP and no API of GoBGP's. It
// knows no other daemon's configuration: a hook's program does.
package bgp
