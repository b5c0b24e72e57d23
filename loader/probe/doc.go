// Package probe makes health checks go through a VIP: packets of sockets
// that are connected to a real server and carry a mark arrive at the real
// with the VIP as their destination, and the replies come back as the
// real's. It needs no spare address and no extra MAC.
//
// It knows nothing of checks. The one trap: replies of several reals come
// from one VIP and are told apart by the local port alone, so every marked
// socket must bind a port of its own before it connects.
package probe
