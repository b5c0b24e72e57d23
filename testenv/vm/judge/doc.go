// Package judge compares the two backends with each other, packet by packet:
// the kernel's IPVS and lvx's XDP program stand side by side on two one-armed
// networks of one guest, get the same random configuration, the same live
// edits and the same packets, and must send the same frames. After every
// stretch of time, and every few packets, the tables are compared as well:
// each connection and template with its state, its real and the time it has
// left, and the text of the listing.
//
// It models nothing: what is right is what the kernel does. The differences
// that docs/semantics.md lists are kept out of its way or looked at by rules
// of their own, each named where it is applied: a rotation of rr and wrr after
// an edit, connections of a removed real, which the kernel throws away at once
// and lvx when their next packet comes, ICMP errors that go by the ring, the
// identification of IPv6's fragments, which the kernel makes anew, and IPv6's
// fragments by tunnel, of which the kernel carries the whole datagram.
// Of what routers say about tunnels lvx tells clients more than the kernel: what
// they must hear is written down beside it.
// The probes that tell a rotation are more on lvx's side: they have to end
// before a scheduler that counts connections takes over.
//
// The one trap is time. The kernel's timers are up to 16 s late for long
// timeouts and lvx counts ticks of about a second, so a packet is sent only
// while nothing is about to expire: until then the judge waits for both
// tables to agree. It is meant for a guest whose clock counts instructions,
// where waiting is free.
package judge
