package ipvs

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func parseAll(text string) (cs []lb.Connection, err error) {
	err = parseConnections(strings.NewReader(text), func(c lb.Connection) bool { cs = append(cs, c); return true })
	return cs, err
}

func TestParseConnections(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"TCP AC100005 4E22 0A000064 0050 0A00000C 0050 SYN_RECV         55", "tcp 172.16.0.5:20002 10.0.0.100:80 10.0.0.12:80 SYN_RECV 55s false"},
		{"IP  AC100006 0000 00000001 0000 0A00000C 0000 NONE             59", "0 172.16.0.6:0 0.0.0.1:0 10.0.0.12:0 NONE 59s true"},
		{"TCP AC100005 0000 0A000064 FFFF 0A00000C FFFF ASSURED         299", "tcp 172.16.0.5:0 10.0.0.100:65535 10.0.0.12:65535 ASSURED 4m59s true"},
		{
			"UDP 2001:0db8:0001:0000:0000:0000:0000:0005 1388 2001:0db8:0000:0000:0000:0000:0000:0100 0035 2001:0db8:0000:0000:0000:0000:0000:0011 0035 UDP             299",
			"udp [2001:db8:1::5]:5000 [2001:db8::100]:53 [2001:db8::11]:53 UDP 4m59s false",
		},
		{"TCP 7F000001 0001 7F000001 0002 7F000001 0003 ESTABLISHED     899 sip 1234@example.net", "tcp 127.0.0.1:1 127.0.0.1:2 127.0.0.1:3 ESTABLISHED 14m59s false"},
		{"IP_50 7F000001 0001 7F000001 0002 7F000001 0003 NONE 1", "50 127.0.0.1:1 127.0.0.1:2 127.0.0.1:3 NONE 1s false"},
		{"SCTP 7F000001 0001 7F000001 0002 7F000001 0003 ESTABLISHED 1", "sctp 127.0.0.1:1 127.0.0.1:2 127.0.0.1:3 ESTABLISHED 1s false"},
	} {
		cs, err := parseAll(c.line + "\n")
		if err != nil || len(cs) != 1 {
			t.Errorf("%s: %v, %v", c.line, cs, err)
			continue
		}
		n := cs[0]
		if got := fmt.Sprint(n.Proto, " ", n.Client, n.Virtual, n.Real, " ", n.State, " ", n.Expires, n.Template); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.line, got, c.want)
		}
	}
	for _, bad := range []string{
		"TCP", "XYZ AC100005 4E22 0A000064 0050 0A00000C 0050 SYN_RECV 55", "IP_300 AC100005 4E22 0A000064 0050 0A00000C 0050 SYN_RECV 55",
		"TCP AC1000 4E22 0A000064 0050 0A00000C 0050 SYN_RECV 55", "TCP AC100005 10000 0A000064 0050 0A00000C 0050 SYN_RECV 55",
		"TCP AC100005 4E22 0A000064 0050 0A00000C 0050 SYN_RECV -1", "TCP fe80::1%eth0 4E22 0A000064 0050 0A00000C 0050 SYN_RECV 1",
		"TCP zz: 4E22 0A000064 0050 0A00000C 0050 SYN_RECV 1",
	} {
		if cs, err := parseAll(bad); err == nil {
			t.Errorf("%s: read as %+v", bad, cs)
		}
	}
}

func TestParseStops(t *testing.T) {
	text, err := os.ReadFile("testdata/ip_vs_conn")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := parseConnections(strings.NewReader(string(text)), func(lb.Connection) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("%d calls, error %v", n, err)
	}
}

// FuzzParseConnections: no input makes the parser panic, and what it accepts
// it accepts again when written the kernel's way.
func FuzzParseConnections(f *testing.F) {
	text, err := os.ReadFile("testdata/ip_vs_conn")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("UDP 2001:0db8:0001:0000:0000:0000:0000:0005 1388 [2001:0db8::100] 0035 7F000001 0035 UDP 299")
	f.Fuzz(func(t *testing.T, text string) {
		cs, err := parseAll(text)
		if err != nil {
			return
		}
		for _, c := range cs {
			again, err := parseAll(kernelLine(c))
			if err != nil || len(again) != 1 {
				t.Fatalf("%+v written as %q: %v", c, kernelLine(c), err)
			}
			if diff := cmp.Diff(c, again[0], cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Fatalf("(-first +again):\n%s", diff)
			}
		}
	})
}

// kernelLine writes a connection as ip_vs_conn_seq_show does.
func kernelLine(c lb.Connection) string {
	end := func(a netip.AddrPort) string {
		if a.Addr().Is4() {
			return fmt.Sprintf("%X %04X", a.Addr().AsSlice(), a.Port())
		}
		return fmt.Sprintf("%s %04X", a.Addr().StringExpanded(), a.Port())
	}
	proto := map[lb.Protocol]string{0: "IP", lb.TCP: "TCP", lb.UDP: "UDP"}[c.Proto]
	if proto == "" {
		proto = fmt.Sprintf("IP_%d", c.Proto)
	}
	return fmt.Sprintf("%-3s %s %s %s %-11s %7d\n", proto, end(c.Client), end(c.Virtual), end(c.Real), c.State, c.Expires/time.Second)
}

// TestConnections: each entry is put to its service; those of others are left
// out.
func TestConnections(t *testing.T) {
	text, err := os.ReadFile("testdata/ip_vs_conn")
	if err != nil {
		t.Fatal(err)
	}
	k := newFakeKernel()
	k.conns = string(text)
	b := k.backend(t, t.TempDir())
	group := named("group", web(reals(1), "10.0.0.100:443/tcp", "10.0.0.100:53/udp"))
	group.Mark = 1
	all := named("all", web(reals(1), "10.0.0.101:*/tcp"))
	all.Persistence.Timeout = time.Minute
	apply(t, b, state(web(reals(1)), group, all))
	cs, err := b.Connections(0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range cs {
		got = append(got, fmt.Sprintf("%s %s %s", c.Service, c.State, c.Virtual))
	}
	want := []string{
		"group NONE 0.0.0.1:0", "group UDP 10.0.0.100:53", "group SYN_RECV 10.0.0.100:443",
		"web ESTABLISHED 10.0.0.100:80", "all ASSURED 10.0.0.101:25",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if some, err := b.Connections(2); err != nil || len(some) != 2 {
		t.Errorf("limit 2: %d, %v", len(some), err)
	}
	k.conns = "nonsense"
	if _, err := b.Connections(0); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("nonsense: error %v", err)
	}
}

// TestTemplateOfEveryPort: port 0 is that of the service for every port, also
// beside a range on the same address.
func TestTemplateOfEveryPort(t *testing.T) {
	k := newFakeKernel()
	k.conns = "TCP AC100005 0000 0A000064 0000 0A00000B 0000 ASSURED         299\n"
	b := k.backend(t, t.TempDir())
	all := named("all", web(reals(1), "10.0.0.100:*/tcp"))
	all.Persistence.Timeout = time.Minute
	apply(t, b, state(all, named("range", web(reals(1), "10.0.0.100:8000-8020/tcp"))))
	cs, err := b.Connections(0)
	if err != nil {
		t.Fatal(err)
	}
	if len(cs) != 1 || cs[0].Service != "all" {
		t.Errorf("%+v, want the template of service all", cs)
	}
}

func TestExplain(t *testing.T) {
	k := newFakeKernel()
	k.conns = "TCP AC100005 4E40 0A000064 0050 0A00000C 0050 ESTABLISHED     899\n"
	b := k.backend(t, t.TempDir())
	svc := web(reals(1, 1))
	svc.Deny = prefixes("192.0.2.0/24")
	group := named("group", web(reals(1, 0), "10.0.0.100:81-90/tcp"))
	s := state(svc, group, named("idle", web(reals(0), "10.0.0.100:25/tcp")), named("away", web(reals(1), "10.0.0.102:80/tcp")))
	s.VIPs = []lb.VIP{{Addr: netip.MustParseAddr("10.0.0.102"), Standby: true}}
	apply(t, b, s)
	for _, c := range []struct {
		src, dst, flags string
		want            string // verdict, service, real
		step            string
	}{
		{"172.16.0.5:20032", "10.0.0.100:80", "A", "forwarded web 10.0.0.12", "connection: ESTABLISHED, 14m59s left"},
		{"172.16.0.6:1", "10.0.0.100:80", "", "forwarded web ", "scheduler rr: one of 2 reals [10.0.0.11 10.0.0.12]"},
		{"172.16.0.6:1", "10.0.0.100:80", "A", "no_flow web ", "no SYN"},
		{"192.0.2.1:1", "10.0.0.100:80", "S", "denied web ", "deny list"},
		{"172.16.0.6:1", "10.0.0.100:85", "S", "forwarded group 10.0.0.11", "gets mark 1819672576"},
		{"172.16.0.6:1", "10.0.0.100:25", "S", "answered_unreachable idle ", "weight 0"},
		{"172.16.0.6:1", "10.0.0.100:26", "S", "no_listener  ", "none"},
		{"172.16.0.6:1", "10.0.0.102:80", "S", "standby  ", "none"},
		{"172.16.0.6:1", "10.0.0.103:80", "S", "not_ours  ", "none"},
	} {
		e, err := b.Explain(lb.Packet{Proto: lb.TCP, Src: netip.MustParseAddrPort(c.src), Dst: netip.MustParseAddrPort(c.dst), Flags: c.flags})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if got := e.Verdict + " " + e.Service + " " + e.Real; got != c.want {
			t.Errorf("%s %s %s: got %q, want %q", c.src, c.dst, c.flags, got, c.want)
		}
		if !strings.Contains(strings.Join(e.Steps, "\n"), c.step) {
			t.Errorf("%s %s %s: steps %q lack %q", c.src, c.dst, c.flags, e.Steps, c.step)
		}
	}
}
