// Package lb is the vocabulary of lvx: services, listeners, real servers, the
// state a backend should hold, and the interface every backend implements.
//
// It does no I/O and imports nothing but the standard library. It decides
// nothing either: what is up, what is drained and who is master is decided in
// pkg/director; how a real is picked for a packet is decided in pkg/sched and
// in the backends. The one trap: a [State] is a plain value that is shared
// between goroutines, so whoever received one must not change it; make a
// [State.Clone] first.
package lb
