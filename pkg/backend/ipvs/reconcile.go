package ipvs

import (
	"slices"

	"github.com/cloudflare/ipvs"
)

// An action is one change to the reals of one service.
type action uint8

const (
	addReal  action = iota
	moveReal        // take out and put in again, to make it the newest
	editReal
	removeReal
)

// A step is one action on one real.
type step struct {
	action action
	real   ipvs.Destination
}

// steps turns the list have into want, both oldest first, with what the
// kernel can do: append, edit in place, remove. What both lists begin with
// stays where it is; everything behind it is appended anew in order, one
// after the other, so that never more than one real is missing. Adding comes
// before editing and removing: a sorry server is there before the last real
// is quiesced.
func steps(have, want []ipvs.Destination) []step {
	kept := slices.DeleteFunc(slices.Clone(have), func(d ipvs.Destination) bool { return index(want, d) < 0 })
	prefix := 0
	for prefix < len(kept) && same(kept[prefix], want[prefix]) {
		prefix++
	}
	var out []step
	for _, d := range want[prefix:] {
		if index(have, d) >= 0 {
			out = append(out, step{moveReal, d})
		} else {
			out = append(out, step{addReal, d})
		}
	}
	for i, d := range want[:prefix] {
		if !equal(kept[i], d) {
			out = append(out, step{editReal, d})
		}
	}
	for _, d := range have {
		if index(want, d) < 0 {
			out = append(out, step{removeReal, d})
		}
	}
	return out
}

func index(list []ipvs.Destination, d ipvs.Destination) int {
	return slices.IndexFunc(list, func(e ipvs.Destination) bool { return same(e, d) })
}

// equal compares what an edit can change. The kernel calls a real that is
// the director itself local, whatever it was asked for.
func equal(have, want ipvs.Destination) bool {
	method := have.FwdMethod == want.FwdMethod || have.FwdMethod == ipvs.Local
	tunnel := have.TunnelType == want.TunnelType && have.TunnelPort == want.TunnelPort && have.TunnelFlags == want.TunnelFlags
	return method && tunnel && have.Weight == want.Weight && have.UpperThreshold == want.UpperThreshold && have.LowerThreshold == want.LowerThreshold
}

// sameService compares what an edit of a service can change. The kernel adds
// a flag of its own to services that it holds.
func sameService(have, want ipvs.Service) bool {
	return have.Scheduler == want.Scheduler && have.Flags&^ipvs.ServiceHashed == want.Flags &&
		have.Timeout == want.Timeout && have.Netmask == want.Netmask
}

// oldestFirst strips counters and turns the kernel's list, newest first,
// around.
func oldestFirst(list []ipvs.DestinationExtended) []ipvs.Destination {
	ds := make([]ipvs.Destination, len(list))
	for i, d := range list {
		ds[len(list)-1-i] = d.Destination
	}
	return ds
}
