package lb

import (
	"cmp"
	"fmt"
	"slices"
)

// Renamed finds the services of next that are services of old under another name:
// they listen where one did that next no longer has. By the new name it gives the
// old one.
func Renamed(old, next []Service) map[string]string {
	sameName := func(a, b Service) bool { return a.Name == b.Name }
	if slices.EqualFunc(old, next, sameName) {
		return nil
	}
	before, after := make(map[string]bool, len(old)), make(map[string]bool, len(next))
	for i := range old {
		before[old[i].Name] = true
	}
	for i := range next {
		after[next[i].Name] = true
	}
	removed := map[string]string{} // by where they listened
	for i := range old {
		if s := &old[i]; !after[s.Name] && len(s.Listeners) > 0 {
			removed[listenKey(s)] = s.Name
		}
	}
	renamed := map[string]string{}
	for i := range next {
		if s := &next[i]; !before[s.Name] && len(removed) > 0 {
			if was, ok := removed[listenKey(s)]; ok {
				renamed[s.Name] = was
			}
		}
	}
	return renamed
}

// listenKey is the same for services that listen at the same places.
func listenKey(s *Service) string {
	sorted := slices.SortedFunc(slices.Values(s.Listeners), func(a, b Listener) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	return fmt.Sprint(sorted)
}
