package ipvsadm

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Every listing of the recordings is read, shuffled, sorted and printed again:
// the same bytes must come out. That covers marks, negative ones too,
// persistence with masks, flags, thresholds, and names that sort oddly.
func TestGoldenRoundTrip(t *testing.T) {
	n := 0
	for _, file := range []string{"01-rr.txt", "07-quiesce-delete.txt", "08-persistence.txt", "08b-persistence-more.txt", "09-fwmark.txt", "11-print.txt"} {
		for _, command := range []string{
			"ipvsadm -ln", "ipvsadm -ln --stats", "ipvsadm -ln --rate", "ipvsadm -ln --thresholds",
			"ipvsadm -ln --persistent-conn", "ipvsadm -ln --exact --stats", "ipvsadm -ln --sort", "ipvsadm -lnc", "ipvsadm -lnc --sort",
		} {
			if !recorded(t, file, command) {
				continue
			}
			for _, want := range factsBlocks(t, file, command) {
				n++
				o := optionsOf(command)
				if diff := cmp.Diff(want, printed(t, readListing(t, want, o), o)); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", file, command, diff)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("%d listings found, want 30 at least", n)
	}
}

func recorded(t *testing.T, file, command string) bool {
	t.Helper()
	return slices.Contains(strings.Split(readTestdata(t, file), "\n"), "$ "+command)
}

// readListing reads what Print writes with -n.
func readListing(t *testing.T, text string, o View) Listing {
	t.Helper()
	var l Listing
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "IP") && !strings.HasPrefix(line, "IP  "), f[0] == "Prot", f[0] == "pro", len(f) > 1 && f[1] == "RemoteAddress:Port":
		case o.Connections:
			c := parseConnection(t, f)
			l.Connections = append(l.Connections, NewListing(lb.State{}, lb.Observed{}, lb.Stats{}, nil, []lb.Connection{c}).Connections...)
		case f[0] == "->":
			s := &l.Services[len(l.Services)-1]
			s.Reals = append(s.Reals, readReal(t, f[1:], o))
		default:
			l.Services = append(l.Services, readService(t, f, o))
		}
	}
	shuffle(l.Services)
	slices.SortStableFunc(l.Services, compareServices)
	return l
}

func shuffle[T any](all []T) {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
}

func readNumbers(t *testing.T, fields []string) []uint64 {
	t.Helper()
	all := make([]uint64, 0, 5)
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return append(all, make([]uint64, 5)...)
}

func readService(t *testing.T, f []string, o View) ListedService {
	t.Helper()
	var s ListedService
	if f[0] == "FWM" {
		mark, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s.Mark, f = uint32(mark), f[2:]
		if len(f) > 0 && f[0] == "IPv6" {
			s.IPv6, f = true, f[1:]
		}
	} else {
		at := netip.MustParseAddrPort(f[1])
		s.Proto = map[string]lb.Protocol{"TCP": lb.TCP, "UDP": lb.UDP, "SCTP": 132}[f[0]]
		s.Addr, s.Port, s.IPv6, f = at.Addr(), at.Port(), at.Addr().Is6(), f[2:]
	}
	if o.Stats || o.Rate {
		n := readNumbers(t, f)
		s.Stats = ListedStats{Conns: n[0], InPkts: n[1], OutPkts: n[2], InBytes: n[3], OutBytes: n[4]}
		s.Rates = ListedRates{CPS: n[0], InPPS: n[1], OutPPS: n[2], InBPS: n[3], OutBPS: n[4]}
		return s
	}
	s.Scheduler = f[0]
	for i, word := range f {
		switch {
		case strings.HasPrefix(word, "("):
			s.Flags = strings.Split(strings.Trim(word, "()"), ",")
		case word == "persistent":
			s.Persistence = int(readNumbers(t, f[i+1:i+2])[0])
		case word == "mask":
			s.Mask = f[i+1]
		case word == "ops":
			s.OnePacket = true
		}
	}
	return s
}

func readReal(t *testing.T, f []string, o View) ListedReal {
	t.Helper()
	at := netip.MustParseAddrPort(f[0])
	r := ListedReal{Addr: at.Addr(), Port: at.Port()}
	if !o.Stats && !o.Rate && !o.Thresholds && !o.PersistentConn {
		r.Forward = f[1]
		f = f[1:]
	}
	n := readNumbers(t, f[1:])
	u := func(i int) uint32 { return uint32(n[i]) }
	switch {
	case o.Stats, o.Rate:
		r.Stats = ListedStats{Conns: n[0], InPkts: n[1], OutPkts: n[2], InBytes: n[3], OutBytes: n[4]}
		r.Rates = ListedRates{CPS: n[0], InPPS: n[1], OutPPS: n[2], InBPS: n[3], OutBPS: n[4]}
	case o.Thresholds:
		r.Upper, r.Lower, r.Active, r.Inactive = u(0), u(1), u(2), u(3)
	case o.PersistentConn:
		r.Weight, r.Persist, r.Active, r.Inactive = int32(n[0]), u(1), u(2), u(3)
	default:
		r.Weight, r.Active, r.Inactive = int32(n[0]), u(1), u(2)
	}
	return r
}

// ipvsadm compares by the sign of a 32-bit difference: some networks come in
// an order that surprises.
func TestServiceOrder(t *testing.T) {
	var got []string
	services := []ListedService{
		{Name: "mark 2", Mark: 2}, {Name: "10/80", Proto: lb.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80},
		{Name: "192.168", Proto: lb.TCP, Addr: netip.MustParseAddr("192.168.0.1"), Port: 80},
		{Name: "10/9", Proto: lb.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 9},
		{Name: "mark -1", Mark: 0xffffffff}, {Name: "udp", Proto: lb.UDP, Addr: netip.MustParseAddr("1.1.1.1"), Port: 1},
		{Name: "mark 2 IPv6", Mark: 2, IPv6: true},
		{Name: "v6 b", IPv6: true, Proto: lb.TCP, Addr: netip.MustParseAddr("2001:db8::b"), Port: 1},
		{Name: "v6 a", IPv6: true, Proto: lb.TCP, Addr: netip.MustParseAddr("2001:db8::a"), Port: 2},
	}
	shuffle(services)
	slices.SortStableFunc(services, compareServices)
	for _, s := range services {
		got = append(got, s.Name)
	}
	want := []string{"mark -1", "192.168", "10/9", "10/80", "udp", "v6 a", "v6 b", "mark 2", "mark 2 IPv6"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What the kernel holds is what is listed: a service it lacks is not, a real
// it has beyond the state (a sorry server) is.
func TestNewListingShowsTheKernel(t *testing.T) {
	vip, sorry := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("127.0.0.1")
	listen := []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}, {Addr: vip, Proto: lb.TCP, First: 443, Last: 443}}
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{
		{Name: "refused", Listeners: listen[:1]},
		{Name: "web", Listeners: listen, Scheduler: lb.RR, Sorry: sorry, Reals: []lb.Real{{Addr: netip.MustParseAddr("10.0.0.11"), Weight: 1}}},
	}}
	o := lb.Observed{Services: []lb.ObservedService{{
		Name: "web", Mark: 7, Reals: []lb.ObservedReal{{Addr: sorry, Weight: 1, Usable: true}},
	}}}
	got := printed(t, NewListing(s, o, lb.Stats{}, nil, nil), View{Numeric: true})
	want := "FWM  7 rr\n  -> 127.0.0.1:0                  Route   1      0          0         \n"
	if !strings.HasSuffix(got, "InActConn\n"+want) {
		t.Errorf("got:\n%s", got)
	}
}

// ipvs-facts/08 section 11: a full mask is not shown.
func TestMasks(t *testing.T) {
	for _, c := range []struct {
		prefix int
		ipv6   bool
		want   string
	}{
		{0, false, ""}, {32, false, ""}, {24, false, "255.255.255.0"}, {1, false, "128.0.0.0"}, {17, false, "255.255.128.0"},
		{0, true, ""}, {128, true, ""}, {64, true, "64"}, {32, true, "32"},
	} {
		if got := maskOf(c.prefix, c.ipv6); got != c.want {
			t.Errorf("/%d: got %q, want %q", c.prefix, got, c.want)
		}
	}
}

// A template of a mark service has no protocol, and its virtual address is the
// mark (ipvs-facts/08).
func TestMarkTemplate(t *testing.T) {
	c := lb.Connection{
		Expires: 59*time.Second + 999*time.Millisecond, State: "NONE", Template: true, Client: netip.MustParseAddrPort("172.16.0.6:0"),
		Virtual: netip.MustParseAddrPort("0.0.0.1:0"), Real: netip.MustParseAddrPort("10.0.0.12:0"),
	}
	got := printed(t, NewListing(lb.State{}, lb.Observed{}, lb.Stats{}, nil, []lb.Connection{c}), View{Connections: true, Numeric: true})
	want := "IP  00:59  NONE        172.16.0.6:0       0.0.0.1:0          10.0.0.12:0\n"
	if !strings.HasSuffix(got, "destination\n"+want) || !strings.Contains(readTestdata(t, "08-persistence.txt"), want) {
		t.Errorf("got:\n%s", got)
	}
}
