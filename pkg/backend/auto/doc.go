// Package auto is the lb.Backend that gives every service to the data path
// that can run it: XDP if it can, else the kernel's IPVS, with the reason.
//
// It knows neither of the two: it splits a state, applies the halves in an
// order in which no service is ever without a place, and puts together what
// both report. XDP sees every packet first, and passes what is not its own to
// the kernel; that is all the two data paths know of each other.
//
// A service that changes places takes its new connections to the new place at
// once. Its old ones end where they began: the place it left keeps it, unseen,
// until none of them lives, or until somebody else needs its address there.
// It refuses to weigh: a service that XDP can run never goes to IPVS for load
// or speed, and IPVS is not opened (nor its module loaded) before a service
// needs it.
package auto
