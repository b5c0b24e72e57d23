package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// troubled is one of several routers on one host, each with an address of its own:
// %[1]d is its last byte, %[2]d its AS number, %[3]s what it expects of d1.
const troubled = `
router id 172.25.0.%[1]d;
protocol device {}
protocol bgp d1 {
  local 172.25.0.%[1]d as %[2]d; strict bind yes; hold time 9; direct; connect delay time 1; error wait time 1, 1;
  ipv4 { import all; export none; };
  %[3]s
}
`

// sound is what the router has beside that whose routes the kernel takes, and which
// has BFD.
const sound = `
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol bfd detection { interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
`

// What is wrong with a session is said in words, by the status, by the doctor and
// in the history: a password, an AS number on either side, a router that is not
// there, one that has no session for us, BFD, and a session that flaps. Each costs
// its own session alone.
func TestTroubleWithRoutersIsNamed(t *testing.T) {
	t.Parallel() // it waits most of its time
	f := newFabricOf(t)
	for i, router := range []struct {
		asn     int
		expects string
	}{
		{65000, "neighbor 172.25.0.11 as 65010; bfd on;"},
		{65000, "neighbor 172.25.0.11 as 65010; password \"right\";"},
		{65000, "neighbor 172.25.0.11 as 65099;"},
		{65004, "neighbor 172.25.0.11 as 65010;"},
		{65000, "neighbor 172.25.0.99 as 65010;"},
		{65000, "neighbor 172.25.0.11 as 65010;"},
	} {
		name, conf := "bird", fmt.Sprintf(troubled, 1+i, router.asn, router.expects)
		if i == 0 {
			conf += sound
		} else {
			name = fmt.Sprintf("bird%d", 1+i)
			must(t, f.router.AddAddr("eth0", netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 25, 0, byte(1 + i)}), 24)))
		}
		must(t, f.RunBIRD(name, conf))
	}
	password := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(password, []byte("wrong\n"), 0o600))
	body := fabricBody(hashed, "sloppy_tcp: true\n")
	body = strings.Replace(body, "  peers: [", fmt.Sprintf(`  peers: [
    {address: 172.25.0.2, asn: 65000, password_file: %s}, {address: 172.25.0.3, asn: 65000}, {address: 172.25.0.4, asn: 65000},
    {address: 172.25.0.5, asn: 65000}, {address: 172.25.0.6, asn: 65000}, {address: 172.25.0.9, asn: 65000},
    `, password), 1)
	f.direct(fabricDirectors[:1], body)
	down := map[string]string{
		"172.25.0.2": "another password", "172.25.0.3": "it expects another AS number of us", "172.25.0.4": "another AS number than the configuration",
		"172.25.0.5": "no session for us is configured there", "172.25.0.9": "unreachable: no route to host",
	}
	f.awaitNamed("status", down)
	f.awaitNamed("doctor", down)
	f.awaitNamed("status", map[string]string{"172.25.0.1": "BFD up", "172.25.0.6": "established"})

	f.birdc("disable", "detection") // it says so to its peers
	f.awaitNamed("history", map[string]string{"172.25.0.1": "session down: BFD is down"})
	f.birdc("enable", "detection")

	flapping := map[string]string{"172.25.0.6": "flapping, ended 6 times within 5m0s"}
	for range 6 {
		f.restless("disable", "down")
		f.restless("enable", "Established")
	}
	for _, command := range []string{"status", "doctor", "history"} {
		f.awaitNamed(command, flapping)
	}
	f.awaitPath("d1", true)
	if body, err := f.Get("http://"+rig.VIP, rig.Patience); err != nil {
		t.Errorf("through the router whose session is sound: %q, %v", body, err)
	}
}

// restless does something to the session of the router that flaps, and waits until
// the router says that it has a state.
func (f *fabric) restless(verb, state string) {
	f.t.Helper()
	birdc := []string{"birdc", "-s", filepath.Join(f.router.Dir(), "bird6.ctl")}
	run(f.t, f.router, append(birdc, verb, "d1")...)
	eventually(f.t, func() error {
		if out := run(f.t, f.router, append(birdc, "show", "protocols", "d1")...); !strings.Contains(out, state) {
			return fmt.Errorf("not %s: %s", state, out)
		}
		return nil
	})
}

// awaitNamed waits until what a command of d1 says of each router has a text.
func (f *fabric) awaitNamed(command string, texts map[string]string) {
	f.t.Helper()
	eventually(f.t, func() error { return f.named(command, texts) })
}

// named is an error unless a command of d1 has a line with a router and a text for
// each.
func (f *fabric) named(command string, texts map[string]string) error {
	args := []string{command}
	if command == "doctor" {
		args = append(args, "-c", filepath.Join(f.Cluster.Host("d1").Dir(), "lvx.yaml"))
	}
	out, _ := f.LVX(f.t.Context(), "d1", args...) // a doctor who finds something fails
	for router, text := range texts {
		line := regexp.MustCompile(`(?m)` + regexp.QuoteMeta(router) + `[: ].*` + regexp.QuoteMeta(text))
		if !line.MatchString(out) {
			return fmt.Errorf("lvx %s has no line with %s and %q:\n%s", command, router, text, out)
		}
	}
	return nil
}
