package lb

import (
	"maps"
	"net/netip"
	"testing"
)

func TestRenamed(t *testing.T) {
	at := func(name string, ports ...uint16) Service {
		s := Service{Name: name}
		for _, p := range ports {
			s.Listeners = append(s.Listeners, Listener{Addr: netip.MustParseAddr("192.0.2.100"), Proto: TCP, First: p, Last: p})
		}
		return s
	}
	for name, test := range map[string]struct {
		old, next []Service
		want      map[string]string
	}{
		"nothing":            {[]Service{at("a", 80)}, []Service{at("a", 80)}, nil},
		"renamed":            {[]Service{at("a", 80, 443), at("b", 53)}, []Service{at("c", 443, 80), at("b", 53)}, map[string]string{"c": "a"}},
		"renamed and moved":  {[]Service{at("a", 80)}, []Service{at("c", 81)}, nil},
		"part of it":         {[]Service{at("a", 80, 443)}, []Service{at("c", 80)}, nil},
		"names change round": {[]Service{at("a", 80), at("b", 81)}, []Service{at("b", 80), at("a", 81)}, nil},
		"by a mark alone":    {[]Service{at("a")}, []Service{at("b")}, nil},
		"added":              {nil, []Service{at("a", 80)}, nil},
		"removed":            {[]Service{at("a", 80)}, nil, nil},
	} {
		if got := Renamed(test.old, test.next); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
