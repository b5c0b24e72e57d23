// Package neigh is lvx's hand on layer 2: it finds out which MAC a real
// server has and through which interface it is reached ([Resolver]), tells
// the segment who owns a VIP ([Announcer]), and puts VIPs on an interface
// ([VIPs]).
//
// It keeps out of the kernel's neighbour table: it neither needs entries
// there nor writes any. It does not know services, weights or VRRP.
//
// The Run methods open their sockets in the network namespace of the calling
// thread.
package neigh
