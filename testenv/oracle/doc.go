// Package oracle is a second, independent opinion on what an lvx director
// does with a packet: IPVS's direct routing as the kernel's sources and
// ipvs-facts have it, with the differences that docs/semantics.md lists. It
// is written to be read, not to be fast, and shares no code with the packet
// path or with pkg/sched: tests run both on the same frames and compare.
//
// It keeps everything in maps, has no capacity, evicts nothing, and knows no
// concurrency. What depends on a table being full is not its business.
package oracle
