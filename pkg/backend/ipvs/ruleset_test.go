package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func marks(s lb.State) func(lb.Service) uint32 {
	p := plan{marks: assignMarks(s, nil)}
	return p.mark
}

func (s span) String() string {
	return fmt.Sprintf("%s/%s %d-%d %s %d", s.addr, s.proto, s.first, s.last, s.service, s.mark)
}

func TestSpans(t *testing.T) {
	all := named("all", web(nil, "10.0.0.100:*/tcp"))
	some := named("some", web(nil, "10.0.0.100:80-89/tcp", "10.0.0.100:53/udp"))
	some.Mark = 7
	one := named("one", web(nil, "10.0.0.100:80/tcp"))
	s := state(all, some, one)
	var got []string
	for _, sp := range newRuleset(s, marks(s)).spans {
		got = append(got, sp.String())
	}
	want := []string{
		"10.0.0.100/tcp 0-79 all 1819672576",
		"10.0.0.100/tcp 81-89 some 7",
		"10.0.0.100/tcp 90-65535 all 1819672576",
		"10.0.0.100/udp 53-53 some 7",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestSpansOwner: every port goes to the narrowest listener that has it, and
// no port is in two spans.
func TestSpansOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s lb.State
		for i := range rapid.IntRange(1, 6).Draw(t, "services") {
			first := rapid.Uint16Range(0, 30).Draw(t, "first")
			l := lb.Listener{Addr: vip, Proto: lb.TCP, First: first, Last: first + rapid.Uint16Range(0, 12).Draw(t, "width")}
			if slices.ContainsFunc(s.Services, func(o lb.Service) bool { return o.Listeners[0].Width() == l.Width() }) {
				continue // listeners of equal width do not overlap
			}
			s.Services = append(s.Services, lb.Service{Name: fmt.Sprint(i), Listeners: []lb.Listener{l}, Mark: uint32(i + 1)})
		}
		got := spans(s, marks(s))
		for port := range uint16(60) {
			var best *lb.Service
			for i, svc := range s.Services {
				if svc.Listeners[0].Contains(port) && (best == nil || svc.Listeners[0].Width() < best.Listeners[0].Width()) {
					best = &s.Services[i]
				}
			}
			var owners []string
			for _, sp := range got {
				if sp.first <= port && port <= sp.last {
					owners = append(owners, sp.service)
				}
			}
			if best == nil && len(owners) != 0 || best != nil && (len(owners) != 1 || owners[0] != best.Name) {
				t.Fatalf("port %d belongs to %v, want %v", port, owners, best)
			}
		}
	})
}

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestDeniedRanges(t *testing.T) {
	for _, c := range []struct {
		name        string
		deny, allow []netip.Prefix
		want        string
	}{
		{"nothing", nil, nil, "[]"},
		{"one network", prefixes("10.1.0.0/16"), nil, "[10.1.0.0-10.1.255.255]"},
		{"host bits", prefixes("10.1.2.3/16"), nil, "[10.1.0.0-10.1.255.255]"},
		{"hole", prefixes("10.1.0.0/16"), prefixes("10.1.2.0/24"), "[0.0.0.0-10.1.1.255 10.1.3.0-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]"},
		{"everything", prefixes("0.0.0.0/0"), nil, "[0.0.0.0-255.255.255.255]"},
		{"deny wins a tie", prefixes("10.0.0.0/8"), prefixes("10.0.0.0/8"), "[0.0.0.0-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]"},
		{"neighbours merge", prefixes("10.0.0.0/25", "10.0.0.128/25"), nil, "[10.0.0.0-10.0.0.255]"},
		{"IPv6", prefixes("2001:db8::/126"), nil, "[2001:db8::-2001:db8::3]"},
		{"end of the space", prefixes("255.255.255.255/32"), nil, "[255.255.255.255-255.255.255.255]"},
	} {
		if got := fmt.Sprint(deniedRanges(c.deny, c.allow)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestDeniedLongest: the ranges say the same as looking for the longest
// prefix does.
func TestDeniedLongest(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host")})
		return netip.PrefixFrom(a, rapid.IntRange(22, 32).Draw(t, "bits"))
	})
	rapid.Check(t, func(t *rapid.T) {
		deny := rapid.SliceOfN(prefix, 0, 5).Draw(t, "deny")
		allow := rapid.SliceOfN(prefix, 0, 5).Draw(t, "allow")
		ranges := deniedRanges(deny, allow)
		for i := 1; i < len(ranges); i++ {
			if ranges[i].first.Compare(ranges[i-1].last) <= 0 {
				t.Fatalf("ranges overlap: %v", ranges)
			}
		}
		for host := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(host)})
			longest, denied := -1, len(allow) > 0
			for i, p := range slices.Concat(deny, allow) {
				if p.Contains(a) && (p.Bits() > longest || p.Bits() == longest && i < len(deny)) {
					longest, denied = p.Bits(), i < len(deny)
				}
			}
			if contains(ranges, a) != denied {
				t.Fatalf("%s: denied %v, want %v (deny %v, allow %v)", a, !denied, denied, deny, allow)
			}
		}
	})
}

// TestDeniedForAll: lists of the state and of a service both have to let a
// client through; standby VIPs have no rules.
func TestDeniedForAll(t *testing.T) {
	svc := web(nil)
	svc.Deny = prefixes("10.2.0.0/16")
	s := state(svc, named("quiet", web(nil, "10.0.0.101:80/tcp")))
	r := newRuleset(s, marks(s))
	if len(r.spans) != 1 || r.spans[0].service != "web" {
		t.Errorf("spans %v", r.spans)
	}
	s.Deny = prefixes("10.1.0.0/16")
	r = newRuleset(s, marks(s))
	if len(r.spans) != 2 {
		t.Errorf("spans %v", r.spans)
	}
	if got := fmt.Sprint(r.denied["web"], r.denied["quiet"]); got != "[10.1.0.0-10.2.255.255] [10.1.0.0-10.1.255.255]" {
		t.Errorf("denied %s", got)
	}
	s.VIPs = []lb.VIP{{Addr: vip, Standby: true}, {Addr: netip.MustParseAddr("10.0.0.101"), Standby: true}}
	if r := newRuleset(s, marks(s)); !r.empty() {
		t.Errorf("standby: %v", r.spans)
	}
}

func TestAssignMarks(t *testing.T) {
	group := func(name string, mark uint32) lb.Service {
		s := named(name, web(nil, "10.0.0.100:80-81/tcp"))
		s.Mark = mark
		return s
	}
	s := state(group("a", 0), group("b", firstMark), group("c", 0), named("d", web(nil)))
	got := assignMarks(s, nil)
	if len(got) != 2 || got["a"] != firstMark+1 || got["c"] != firstMark+2 {
		t.Errorf("marks %v", got)
	}
	later := state(group("c", 0), group("new", 0), group("a", 0))
	got = assignMarks(later, got)
	if got["a"] != firstMark+1 || got["c"] != firstMark+2 || got["new"] != firstMark {
		t.Errorf("marks of the later state %v", got)
	}
	taken := state(group("a", 0), group("x", firstMark+1))
	if got := assignMarks(taken, got); got["a"] == firstMark+1 {
		t.Errorf("mark of another service kept: %v", got)
	}
}
