package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// drawAddr draws an address that can be a VIP.
func drawAddr(t *rapid.T) netip.Addr {
	if rapid.Bool().Draw(t, "six") {
		b := [16]byte{0: 0x20, 1: 0x01}
		copy(b[2:], rapid.SliceOfN(rapid.Byte(), 14, 14).Draw(t, "bytes"))
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), rapid.Byte().Draw(t, "c"), rapid.Byte().Draw(t, "d")})
}

func drawListener(t *rapid.T, addr netip.Addr, ports uint16) lb.Listener {
	l := lb.Listener{Addr: addr, Proto: rapid.SampledFrom([]lb.Protocol{lb.TCP, lb.UDP}).Draw(t, "proto")}
	if rapid.IntRange(0, 4).Draw(t, "every port") > 0 {
		l.First = rapid.Uint16Range(1, ports).Draw(t, "first")
		l.Last = rapid.Uint16Range(l.First, ports).Draw(t, "last")
	}
	return l
}

// What a listener says of itself can be written into the file.
func TestListenerRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawListener(t, drawAddr(t), 65535)
		got, err := parseListen(l.String())
		if err != nil || !slices.Equal(got, []lb.Listener{l}) {
			t.Fatalf("%s: %v, %v", l, got, err)
		}
	})
}

// An address alone is every port of both protocols.
func TestBareAddressRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawAddr(t)
		want := []lb.Listener{{Addr: a, Proto: lb.TCP}, {Addr: a, Proto: lb.UDP}}
		for _, s := range []string{a.String(), "[" + a.String() + "]"} {
			if got, err := parseListen(s); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s: %v, %v", s, got, err)
			}
		}
	})
}

// Whatever text there is, it is a listener that says the same of itself, or
// one line of error.
func TestParseListenOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`\[?[0-9a-f:.%]{1,12}\]?:?[0-9*-]{0,6}/?(tcp|udp)?`)).Draw(t, "listen")
		ls, err := parseListen(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("error of more than a line: %q", err)
			}
			return
		}
		for _, l := range ls {
			if again, err := parseListen(l.String()); err != nil || !slices.Equal(again, []lb.Listener{l}) {
				t.Fatalf("%q is %v, which is %v, %v", s, l, again, err)
			}
		}
	})
}

// The neighbours that sorting finds are all there is: a file is refused if
// and only if two of its listeners, taken pair by pair, clash.
func TestClashesAgreeWithEveryPair(t *testing.T) {
	vips := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	rapid.Check(t, func(t *rapid.T) {
		var ls []lb.Listener
		var b strings.Builder
		b.WriteString("interface: eth0\nservices:\n")
		for i := range rapid.IntRange(1, 8).Draw(t, "services") {
			l := drawListener(t, rapid.SampledFrom(vips).Draw(t, "vip"), 12)
			ls = append(ls, l)
			fmt.Fprintf(&b, "- {name: s%d, listen: '%s', reals: []}\n", i, l)
		}
		clash := false
		for i, x := range ls {
			for _, y := range ls[:i] {
				same := x.Addr == y.Addr && x.Proto == y.Proto && x.Width() == y.Width()
				clash = clash || same && (x.EveryPort() || x.First <= y.Last && y.First <= x.Last)
			}
		}
		if _, err := Parse("lvx.yaml", []byte(b.String())); (err != nil) != clash {
			t.Fatalf("clash %t, error %v in\n%s", clash, err, b.String())
		}
	})
}

// Marks of lvx's choosing are different, they depend on the name alone, and
// services that are added behind change none of them.
func TestMarksAreStable(t *testing.T) {
	word := rapid.StringMatching(`[a-z]{1,3}`)
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(word, 1, 20, rapid.ID[string]).Draw(t, "names")
		taken := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID[string]).Draw(t, "names whose marks are taken")
		build := func(names []string) []service {
			var all []service
			for _, n := range names {
				all = append(all, service{Service: Service{Service: lb.Service{Name: n}}})
			}
			for i, n := range taken {
				all = append(all, service{Service: Service{Service: lb.Service{Name: fmt.Sprint("explicit", i), Mark: chosen(n, 0)}}})
			}
			new(decoder).marks(all)
			return all
		}
		all := build(names)
		seen := map[uint32]string{}
		for _, s := range all {
			if other, ok := seen[s.Mark]; ok || s.Mark == 0 {
				t.Fatalf("mark %d of %s and %s", s.Mark, s.Name, other)
			}
			seen[s.Mark] = s.Name
			if s.Mark>>markBits != markBase>>markBits {
				t.Fatalf("mark %#x of %s is out of the range", s.Mark, s.Name)
			}
		}
		few := build(names[:rapid.IntRange(0, len(names)).Draw(t, "fewer")])
		for i, s := range few[:len(few)-len(taken)] {
			if s.Mark != all[i].Mark {
				t.Fatalf("mark of %s went from %d to %d when services were added behind it", s.Name, s.Mark, all[i].Mark)
			}
		}
	})
}

// Names that meet at their first choice.
func TestMarksThatMeet(t *testing.T) {
	first := map[uint32]string{}
	for i := 0; ; i++ {
		name := fmt.Sprint("service", i)
		other, ok := first[chosen(name, 0)]
		if !ok {
			first[chosen(name, 0)] = name
			continue
		}
		text := "interface: eth0\nservices:\n- {name: " + other + ", listen: 192.0.2.1, reals: []}\n- {name: " + name + ", listen: 192.0.2.2, reals: []}\n"
		cfg, err := Parse("lvx.yaml", []byte(text))
		if err != nil || cfg.Services[0].Mark != chosen(name, 0) || cfg.Services[1].Mark != chosen(name, 1) {
			t.Errorf("%s and %s: %+v, %v", other, name, cfg, err)
		}
		return
	}
}

// The marks that users see must not change with a version of lvx.
func TestMarksOfRelease(t *testing.T) {
	cfg, err := Parse("lvx.yaml", []byte(`
interface: eth0
services:
  - {name: group, listen: ["192.0.2.1:80/tcp", "192.0.2.1:443/tcp"], reals: []}
  - {name: range, listen: "192.0.2.1:8000-8100/tcp", reals: []}
  - {name: everything, listen: 192.0.2.1, reals: []}
  - {name: port, listen: "192.0.2.1:22/tcp", reals: []}
  - {name: ports, listen: "192.0.2.2:*/tcp", reals: []}
  - {name: named, listen: "192.0.2.1:23/tcp", mark: 10, reals: []}
`))
	if err != nil {
		t.Fatal(err)
	}
	var marks []uint32
	for _, s := range cfg.Services {
		marks = append(marks, s.Mark)
	}
	if want := []uint32{0x4cb91ed3, 0x4cdc0c28, 0x4c022a9d, 0, 0, 10}; !slices.Equal(marks, want) {
		t.Errorf("marks %#x, want %#x", marks, want)
	}
}

// Limits are shown in a form that can be written into the file.
func TestBriefRoundTrip(t *testing.T) {
	for want, d := range map[string]time.Duration{"8h": 8 * time.Hour, "10m": 10 * time.Minute, "20s": 20 * time.Second, "0s": 0, "1h0m5s": time.Hour + 5*time.Second} {
		if got := brief(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<50).Draw(t, "duration"))
		if got, err := time.ParseDuration(brief(d)); err != nil || got != d {
			t.Fatalf("%v is %s, which is %v, %v", d, brief(d), got, err)
		}
	})
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"name", "name", 0}, {"nmae", "name", 2}, {"", "abc", 3}, {"wieght", "weight", 2}, {"reals", "real", 1}, {"x", strings.Repeat("x", 50), 40},
	} {
		if got := distance(c.a, c.b); got != c.want || distance(c.b, c.a) != got {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
