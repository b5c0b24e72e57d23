package lb

import "slices"

// Equal reports whether a backend that holds s has nothing to do for o.
func (s *State) Equal(o *State) bool {
	return s.Timeouts == o.Timeouts && s.SloppyTCP == o.SloppyTCP && s.ExpireNodestConn == o.ExpireNodestConn &&
		s.ExpireQuiescentTempl == o.ExpireQuiescentTempl && equalLists(s.Deny, o.Deny) && equalLists(s.Allow, o.Allow) &&
		equalLists(s.OuterSources, o.OuterSources) && equalLists(s.Peers, o.Peers) && equalLists(s.VIPs, o.VIPs) && slices.EqualFunc(s.Services, o.Services,
		func(a, b Service) bool { return a.Equal(&b) })
}

// Equal reports whether s and o are the same in everything.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Mark == o.Mark && s.Scheduler == o.Scheduler && s.Flags == o.Flags &&
		s.OnePacket == o.OnePacket && s.Stateless == o.Stateless && s.Persistence == o.Persistence &&
		s.Sorry == o.Sorry && s.SorryForward == o.SorryForward && s.SorryEncap == o.SorryEncap &&
		s.SorryPort == o.SorryPort && s.SorryInhibit == o.SorryInhibit && s.Condition == o.Condition &&
		equalLists(s.Listeners, o.Listeners) && equalLists(s.Reals, o.Reals) && equalLists(s.Absent, o.Absent) &&
		equalLists(s.Deny, o.Deny) && equalLists(s.Allow, o.Allow)
}

// equalLists compares lists that are often one and the same.
func equalLists[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
