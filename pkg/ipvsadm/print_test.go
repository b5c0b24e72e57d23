package ipvsadm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// The files in testdata are listings of ipvsadm 1.31 on Linux 6.1. factsBlocks
// finds those of one command, each without its "$ ..." line.
func factsBlocks(t *testing.T, file, command string) []string {
	t.Helper()
	var blocks []string
	inside := false
	for _, line := range strings.SplitAfter(readTestdata(t, file), "\n") {
		switch {
		case strings.HasPrefix(line, "$ "):
			if inside = strings.TrimSuffix(line, "\n") == "$ "+command; inside {
				blocks = append(blocks, "")
			}
		case !inside:
		case len(strings.TrimSpace(line)) == 0 || strings.HasPrefix(line, "   ") || strings.HasPrefix(line, "-- "):
			inside = false
		default:
			blocks[len(blocks)-1] += line
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("%s: no listing of %q", file, command)
	}
	return blocks
}

func printed(t *testing.T, l Listing, o View) string {
	t.Helper()
	var b bytes.Buffer
	if err := Print(&b, l, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// optionsOf reads an ipvsadm command line.
func optionsOf(command string) View {
	var o View
	for _, arg := range strings.Fields(command)[1:] {
		switch arg {
		case "-ln", "-Ln":
			o.Numeric = true
		case "-lnc":
			o.Numeric, o.Connections = true, true
		case "-lc":
			o.Connections = true
		case "--stats":
			o.Stats = true
		case "--rate":
			o.Rate = true
		case "--exact":
			o.Exact = true
		case "--timeout":
			o.Timeout = true
		case "--persistent-conn":
			o.PersistentConn = true
		case "--thresholds":
			o.Thresholds = true
		}
	}
	return o
}

// fixedNames knows what the host of the recordings knew.
type fixedNames struct{ ports ServicePorts }

func (fixedNames) HostName(a netip.Addr) string {
	if a == netip.MustParseAddr("127.0.0.1") {
		return "localhost"
	}
	return ""
}

func (n fixedNames) PortName(port uint16, p lb.Protocol) string { return n.ports.Name(port, p) }

func recordedNames(t *testing.T) Names {
	t.Helper()
	f, err := os.Open("testdata/services")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return fixedNames{ParseServices(f)}
}

// TestGoldenEveryView prints one table, put together from lb's types, in every
// view that was recorded of it.
func TestGoldenEveryView(t *testing.T) {
	l := recordedListing(t)
	for _, command := range []string{
		"ipvsadm -l", "ipvsadm -ln", "ipvsadm -ln --stats", "ipvsadm -ln --rate",
		"ipvsadm -lnc", "ipvsadm -lnc --persistent-conn", "ipvsadm -ln --persistent-conn",
		"ipvsadm -ln --exact", "ipvsadm -ln --stats --exact", "ipvsadm -ln --rate --exact",
		"ipvsadm -ln --thresholds", "ipvsadm -ln --timeout", "ipvsadm -ln --stats --rate",
	} {
		t.Run(command, func(t *testing.T) {
			o := optionsOf(command)
			o.Names = recordedNames(t)
			want := factsBlocks(t, "11-print.txt", command)[0]
			if diff := cmp.Diff(want, printed(t, l, o)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The names of -lc; two seconds passed for some connections since -lnc, so
// only what follows the time is compared.
func TestGoldenConnectionNames(t *testing.T) {
	want := factsBlocks(t, "11-print.txt", "ipvsadm -lc")[0]
	got := printed(t, recordedListing(t), View{Connections: true, Names: recordedNames(t)})
	untimed := func(s string) string {
		lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
		for i, line := range lines[2:] {
			lines[i+2] = line[:4] + line[9:]
		}
		return strings.Join(lines, "\n")
	}
	if diff := cmp.Diff(untimed(want), untimed(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestGoldenEmpty(t *testing.T) {
	for _, command := range []string{
		"ipvsadm -l", "ipvsadm -ln", "ipvsadm -Ln", "ipvsadm ", "ipvsadm -ln --stats", "ipvsadm -ln --rate", "ipvsadm -lnc",
		"ipvsadm -ln --persistent-conn", "ipvsadm -ln --exact", "ipvsadm -ln --thresholds", "ipvsadm -ln --timeout", "ipvsadm -lc --sort",
	} {
		want := factsBlocks(t, "10-print-empty.txt", command)[0]
		got := printed(t, NewListing(lb.State{}, lb.Observed{}, lb.Stats{}, nil, nil), optionsOf(command))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", command, diff)
		}
	}
}

// Large numbers: ipvsadm was asked for the one service, hence no first line.
func TestGoldenLarge(t *testing.T) {
	var l Listing
	add := func(stats ListedStats, rates ListedRates) {
		vip, rs := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.11")
		l = Listing{Services: []ListedService{{
			Proto: lb.UDP, Addr: vip, Port: 99, Scheduler: "rr", Stats: stats, Rates: rates,
			Reals: []ListedReal{{Addr: rs, Port: 99, Forward: "Route", Weight: 1, Stats: stats, Rates: rates}},
		}}}
	}
	for i, c := range []struct {
		stats ListedStats
		rates ListedRates
	}{
		{ListedStats{Conns: 1, InPkts: 100, InBytes: 6002800}, ListedRates{InPPS: 12, InBPS: 750350}},
		{ListedStats{Conns: 1, InPkts: 1666, InBytes: 100006648}, ListedRates{InPPS: 154, InBPS: 9234933}},
		{ListedStats{Conns: 1, InPkts: 1700, InBytes: 102047600}, ListedRates{InPPS: 120, InBPS: 7181318}},
		{ListedStats{Conns: 1, InPkts: 20000, InBytes: 1200560000}, ListedRates{InPPS: 1412, InBPS: 84772493}},
	} {
		add(c.stats, c.rates)
		for _, options := range []string{"--stats", "--stats --exact", "--rate", "--rate --exact"} {
			want := factsBlocks(t, "12-print-large.txt", "ipvsadm -ln "+options+" -u 10.0.0.100:99")[i]
			_, got, _ := strings.Cut(printed(t, l, optionsOf("ipvsadm -ln "+options)), "\n")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", options, diff)
			}
		}
	}
}

// Where the facts end, ipvsadm's source goes on.
func TestLargeNumbers(t *testing.T) {
	for n, want := range map[uint64][2]string{
		0:                    {"        0", "        0"},
		99999999:             {" 99999999", " 99999999"},
		100000000:            {"  100000K", " 100000000"},
		999999999:            {"  999999K", " 999999999"},
		1000000000:           {"    1000M", " 1000000000"},
		99999999999:          {"   99999M", " 99999999999"},
		100000000000:         {"     100G", " 100000000000"},
		99999999999999:       {"   99999G", " 99999999999999"},
		100000000000000:      {"     100T", " 100000000000000"},
		18446744073709551615: {"18446744T", " 18446744073709551615"},
	} {
		for i, exact := range []bool{false, true} {
			l := Listing{Services: []ListedService{{Mark: 1, Stats: ListedStats{Conns: n}}}}
			line := strings.Split(printed(t, l, View{Stats: true, Exact: exact}), "\n")[3]
			got := strings.TrimSuffix(strings.TrimPrefix(line, fmt.Sprintf("%-33s", "FWM  1")), strings.Repeat("        0", 4))
			if got != want[i] {
				t.Errorf("%d, exact %v: got %q, want %q", n, exact, got, want[i])
			}
		}
	}
}

func TestListConflicts(t *testing.T) {
	for _, o := range []View{
		{Connections: true, Stats: true}, {Connections: true, Rate: true}, {Connections: true, Thresholds: true},
		{Timeout: true, Stats: true}, {Timeout: true, PersistentConn: true},
	} {
		if err := Print(&bytes.Buffer{}, Listing{}, o); !errors.Is(err, ErrViews) {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestListWriteError(t *testing.T) {
	for _, o := range []View{{}, {JSON: true}, {Connections: true}, {Timeout: true}} {
		if err := Print(brokenPipe{}, Listing{}, o); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}

// Names that are too long are cut where ipvsadm cuts them.
func TestLongNames(t *testing.T) {
	l := Listing{
		Services: []ListedService{
			{Proto: lb.TCP, Addr: netip.MustParseAddr("127.0.0.1"), Port: 65535, Scheduler: "rr", Reals: []ListedReal{
				{Addr: netip.MustParseAddr("127.0.0.1"), Port: 65535, Forward: "Route"},
				{Addr: netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666"), Port: 80, Forward: "Route"},
			}},
			{Proto: lb.TCP, IPv6: true, Addr: netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666"), Port: 80, Scheduler: "rr"},
		},
		Connections: []ListedConnection{{
			Proto: lb.TCP, State: "SYN_RECV", Expires: 6001, Client: netip.MustParseAddrPort("127.0.0.1:1"),
			Virtual: netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535"), Real: netip.MustParseAddrPort("10.0.0.1:80"),
		}},
	}
	o := View{Names: longNames{}}
	want := "TCP  " + strings.Repeat("h", 28) + " rr\n" +
		"  -> " + strings.Repeat("h", 28) + " Route   0      0          0         \n" +
		"  -> [" + strings.Repeat("h", 58) + " Route   0      0          0         \n" +
		"TCP  [" + strings.Repeat("h", 58) + " rr\n"
	if got := printed(t, l, o); !strings.HasSuffix(got, "InActConn\n"+want) {
		t.Errorf("got:\n%s", got)
	}
	o = View{Connections: true}
	want = "TCP 100:01 SYN_RECV    127.0.0.1:1        [2001:db8:1111:2222:3333:4444:5555:6666]:65535 10.0.0.1:80\n"
	if got := printed(t, l, o); !strings.HasSuffix(got, "destination\n"+want) {
		t.Errorf("got:\n%s", got)
	}
}

type longNames struct{}

func (longNames) HostName(netip.Addr) string          { return strings.Repeat("h", 70) }
func (longNames) PortName(uint16, lb.Protocol) string { return "service" }

// The JSON form is complete and can be read back.
func TestListJSON(t *testing.T) {
	want := recordedListing(t)
	var got Listing
	if err := json.Unmarshal([]byte(printed(t, want, View{JSON: true})), &got); err != nil {
		t.Fatal(err)
	}
	same := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	empty := printed(t, NewListing(lb.State{}, lb.Observed{}, lb.Stats{}, nil, nil), View{JSON: true})
	if !strings.Contains(empty, `"services": []`) {
		t.Errorf("no services are not an empty list:\n%s", empty)
	}
}

func TestNewListingTimeouts(t *testing.T) {
	l := NewListing(lb.State{Timeouts: lb.Timeouts{TCP: time.Hour, UDP: 10 * time.Second}}, lb.Observed{}, lb.Stats{}, nil, nil)
	if got, want := printed(t, l, View{Timeout: true}), "Timeout (tcp tcpfin udp): 3600 120 10\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A scheduler shows its own flags, not another's.
func TestForeignFlags(t *testing.T) {
	all := lb.SHFallback | lb.SHPort | lb.MHFallback
	for scheduler, want := range map[lb.Scheduler]string{lb.SH: "sh-fallback,sh-port", lb.MH: "mh-fallback", lb.RR: ""} {
		if got := strings.Join(flagNames(scheduler, all), ","); got != want {
			t.Errorf("%s: %q, want %q", scheduler, got, want)
		}
	}
}
