// Package testenv builds a small network on this machine, in network
// namespaces: clients, a switch, directors, real servers and a router. It
// runs real processes in them, captures their frames, reads their counters
// and takes everything away again, also what a run that was killed left
// behind.
//
// It knows nothing of lvx: tests and `lvx demo` bring the binary and the
// configuration. It needs root and never touches the machine's own interfaces
// or routes.
//
// Three traps are handled here, so that nobody has to know them:
//
//   - XDP_TX out of a veth is dropped unless the other end has an XDP program
//     too. [NIC.XDPPeer] attaches one that passes everything to the switch's
//     end.
//   - A packet whose checksum was left to the hardware loses that mark in
//     native XDP and arrives broken. [NIC.FullChecksum] makes the sender
//     compute it.
//   - `ip netns exec` gives every command a mount namespace of its own, so that
//     what one pins in bpffs is gone in the next. Processes here share the
//     machine's mounts and differ in the network namespace only.
package testenv
