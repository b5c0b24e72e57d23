// Package bfd finds out within parts of a second whether a neighbour is still
// there: it speaks bidirectional forwarding detection in asynchronous mode (RFC
// 5880) with neighbours on the same segment (RFC 5881, UDP port 3784) and with
// those behind routers (RFC 5883, port 4784). A [Speaker] has the sessions and
// reports each change of their state.
//
// It knows nothing of what follows from a session's state. It refuses to speak
// demand mode and echo itself (a neighbour that asks for demand mode gets it),
// to authenticate, to accept a packet that came over more hops than its session
// allows, and to share its ports with another BFD daemon of the same host.
package bfd
