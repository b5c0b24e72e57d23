package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// fabricRouter6 is the router where directors and routers speak IPv6 alone.
const fabricRouter6 = `
router id 172.25.0.1;
protocol device {}
protocol kernel { merge paths on; ipv6 { export where source = RTS_BGP; }; }
protocol bfd { interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
template bgp director {
  local fd25::1 as 65000; hold time 9; direct; bfd on; connect delay time 1; error wait time 1, 2;
  ipv6 { import ` + drainedLast + `; export none; };
}
`

// newFabric6 is a fabric whose hosts have IPv6 addresses, and whose router and
// directors speak BGP by them alone.
func newFabric6(t *testing.T) *fabric {
	t.Helper()
	f := newFabricOf(t)
	enableIPv6(t, f.Client, "eth0", "fd26::")
	enableIPv6(t, f.router, "eth1", "fd26::")
	must(t, f.router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	must(t, f.router.Sysctl("net.ipv6.fib_multipath_hash_policy", "1"))
	enableIPv6(t, f.router, "eth0", "fd25::")
	everything := netip.MustParsePrefix("::/0")
	must(t, f.Client.SetRoute(testenv.Route{To: everything, Via: netip.MustParseAddr("fd26::1")}))
	for _, name := range append([]string{"r1", "r2"}, fabricDirectors...) {
		h := f.Cluster.Host(name)
		enableIPv6(t, h, "eth0", "fd25::")
		must(t, h.SetRoute(testenv.Route{To: everything, Via: netip.MustParseAddr("fd25::1")}))
		if strings.HasPrefix(name, "r") {
			run(t, h, lvx, "real", "up", "--vip", vip6, "--state", filepath.Join(h.Dir(), "real6.json"))
		}
	}
	conf := fabricRouter6
	for _, name := range fabricDirectors {
		conf += fmt.Sprintf("protocol bgp %s from director { neighbor %s as 65010; }\n", name, f.address6(name))
	}
	must(t, f.RunBIRD("bird", conf))
	return f
}

// address6 is what enableIPv6 has given a host on the segment.
func (f *fabric) address6(name string) string {
	return fmt.Sprintf("fd25::%d", f.Cluster.Host(name).Addr("eth0").As4()[3])
}

// awaitPath6 waits until the router sends the IPv6 VIP's packets to a director, or
// does not.
func (f *fabric) awaitPath6(name string, want bool) {
	f.t.Helper()
	eventually(f.t, func() error {
		routes := run(f.t, f.router, "ip", "-6", "route", "show", vip6)
		if got := strings.Contains(routes, "via "+f.address6(name)+" "); got != want {
			return fmt.Errorf("sends to %s: %t, want %t: %s", name, got, want, routes)
		}
		return nil
	})
}

// keptConns are connections, each with the real that has answered on it.
type keptConns map[net.Conn]string

// keep opens connections to a VIP.
func (f *fabric) keep(count int, address string) keptConns {
	f.t.Helper()
	kept := keptConns{}
	for range count {
		conn, err := f.Client.Dial(f.t.Context(), "tcp", address)
		must(f.t, err)
		f.t.Cleanup(func() { conn.Close() })
		kept[conn], err = rig.Ask(conn)
		must(f.t, err)
	}
	return kept
}

// check asks on each once more.
func (k keptConns) check(t *testing.T, when string) {
	t.Helper()
	for conn, home := range k {
		if real, err := rig.Ask(conn); err != nil || real != home {
			t.Errorf("%s: a connection to %s has an answer of %q, %v", when, home, real, err)
		}
	}
}

// With sessions of IPv6 alone an IPv6 VIP is announced, left and found again as an
// IPv4 one is: connections go on while a director is drained, hangs or is killed.
func TestIPv6ByBGP(t *testing.T) {
	t.Parallel() // it waits most of its time
	f := newFabric6(t)
	body := strings.NewReplacer("172.25.0.100:80", "["+vip6+"]:80", "172.25.0.1,", "\"fd25::1\",",
		"172.25.0.12", "\"fd25::12\"", "172.25.0.13", "\"fd25::13\"").Replace(fabricBody(hashed, "sloppy_tcp: true\n"))
	for _, name := range fabricDirectors {
		must(t, f.Direct(t.Context(), name, body))
	}
	for _, name := range fabricDirectors {
		f.awaitPath6(name, true)
	}
	kept := f.keep(30, "["+vip6+"]:80")
	_, err := f.LVX(t.Context(), "d1", "drain", "--director", "--wait=20s")
	must(t, err)
	f.awaitPath6("d1", false)
	kept.check(t, "d1 drained")
	_, err = f.LVX(t.Context(), "d1", "drain", "--director", "--undo")
	must(t, err)
	f.awaitPath6("d1", true)
	kept.check(t, "d1 back")
	must(t, f.Daemons["d2"].Signal(syscall.SIGSTOP))
	f.awaitPath6("d2", false)
	kept.check(t, "d2 hangs")
	must(t, f.Daemons["d2"].Signal(syscall.SIGCONT))
	f.awaitPath6("d2", true)
	kept.check(t, "d2 goes on")
	f.Daemons["d3"].Kill()
	f.awaitPath6("d3", false)
	kept.check(t, "d3 killed")
}
