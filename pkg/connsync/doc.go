// Package connsync speaks the connection synchronisation protocol of kernel
// IPVS: the datagrams by which a master tells its backups which real server
// each connection and persistence template belongs to (net/netfilter/ipvs/
// ip_vs_sync.c, versions 0 and 1).
//
// [Parse] and its counterparts turn bytes into [Record]s and records into bytes, without a
// socket or a clock. [Wire] speaks the kernel's protocol on the segment, and [Mesh]
// an authenticated one with each of the other lvx directors.
//
// It knows nothing of flow tables: whether a record is believed, and which local
// real it means, is decided by its callers.
//
// The trap in it: a timeout on the wire is the whole timeout of the state, not
// what is left of it, and the receiver starts it anew.
package connsync
