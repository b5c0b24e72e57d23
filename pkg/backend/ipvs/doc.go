// Package ipvs is the lb.Backend on the kernel's own IPVS: the fallback where
// XDP cannot run or lacks what a service asks for, from the same state.
//
// It writes three things and takes back what it wrote: virtual services and
// their reals by netlink, one nftables table that marks the packets of groups
// and drops denied clients, and a few sysctls. It owns what is in its ledger
// (a file in the state directory) and nothing else: services that somebody
// else made are never touched, there is no flush.
//
// It refuses to decide: which reals are up, which VIPs are ours is in the
// state. It does not put VIPs on interfaces, resolves no neighbours, and
// keeps no lease: a dead daemon leaves the kernel balancing. It does not know
// fellow directors by their MACs either (lb.State's Peers): two directors that
// are each other's reals belong on XDP.
//
// The one trap is order. The kernel puts a new real at the head of its list
// and walks the list from there, so a list that was filled in the order of
// the file is walked last-first, as lvx wants it. A real that returns would
// go to the head; the backend takes the reals behind it out and in again, one
// at a time, which the kernel's connections survive (ipvs-facts/07, case 2),
// so that kernel and XDP walk the same way.
package ipvs
