package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A director's own BIRD and FRR, as people who run one have it already.
const (
	ownBIRD = `
router id %[1]s;
protocol device {}
include "%[2]s";
protocol bfd { interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
protocol bgp tor {
  local %[1]s as 65010;
  neighbor 172.25.0.1 as 65000;
  direct;
  bfd on;
  hold time 9;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import none; export where source = RTS_STATIC; next hop self; };
}
`
	ownFRR = `
router bgp 65010
 bgp router-id %[1]s
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 172.25.0.1 remote-as 65000
 neighbor 172.25.0.1 timers 3 9
 neighbor 172.25.0.1 timers connect 1
 neighbor 172.25.0.1 bfd 3 100 100
 address-family ipv4 unicast
  neighbor 172.25.0.1 route-map nothing in
 exit-address-family
route-map nothing deny 10
route-map lvx-drain permit 10
 set community graceful-shutdown additive
 set as-path prepend 65010
`
)

// gracefulShutdown is the attribute COMMUNITIES with GRACEFUL_SHUTDOWN alone, as
// an UPDATE has it (RFC 4271 section 4.3, RFC 8326).
var gracefulShutdown = []byte{0xc0, 8, 4, 0xff, 0xff, 0, 0}

// ownDaemon starts a routing daemon on a director, and returns the `exec` of the
// hook that drives it.
func (f *fabric) ownDaemon(director, daemon string) string {
	f.t.Helper()
	h := f.Cluster.Host(director)
	if daemon == "frr" {
		dir := startFRR(f.t, h, fmt.Sprintf(ownFRR, f.address(director)))
		return fmt.Sprintf(`[%s, "65010", %s, --vty_socket, %[3]s, --config_dir, %[3]s]`, f.example("lvx-announce-frr"), filepath.Join(h.Dir(), "told"), dir)
	}
	in := func(name string) string { return filepath.Join(h.Dir(), name) }
	must(f.t, os.WriteFile(in("lvx.conf"), nil, 0o600))
	must(f.t, os.WriteFile(in("bird.conf"), fmt.Appendf(nil, ownBIRD, f.address(director), in("lvx.conf")), 0o600))
	p, err := h.Start("bird", "-f", "-c", in("bird.conf"), "-s", in("bird.ctl"), "-P", in("bird.pid"))
	must(f.t, err)
	f.t.Cleanup(func() {
		if f.t.Failed() {
			f.t.Logf("%s's bird:\n%s", director, p.Output())
		}
	})
	eventually(f.t, func() error { _, err := os.Stat(in("bird.ctl")); return err })
	return fmt.Sprintf(`[%s, "65010", %s, %s]`, f.example("lvx-announce-bird"), in("lvx.conf"), in("bird.ctl"))
}

// example puts a program of the documents where root alone can change it.
func (f *fabric) example(name string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", name))
	must(f.t, err)
	path := filepath.Join(f.t.TempDir(), name)
	must(f.t, os.WriteFile(path, text, 0o755))
	return path
}

func hookBody(extra, exec, file string) string {
	body := fabricBody(hashed, "sloppy_tcp: true\n"+extra)
	begin, rest, _ := strings.Cut(body, "  asn: 65010\n")
	keys, rest, _ := strings.Cut(rest, "  peers:")
	_, rest, _ = strings.Cut(rest, "\n")
	return begin + fmt.Sprintf("  engine: hook\n  hook: {exec: %s, file: %s}\n", exec, file) + keys + rest
}

// Other routing daemons announce what lvx wants announced, when it does: a
// director's own BIRD and FRR are driven by the programs of the documents.
func TestOtherDaemonsAnnounce(t *testing.T) {
	f := newFabric(t)
	files := map[string]string{}
	for director, daemon := range map[string]string{"d1": "bird", "d2": "frr"} {
		files[director] = filepath.Join(t.TempDir(), director, "routes")
		f.direct([]string{director}, hookBody("", f.ownDaemon(director, daemon), files[director]))
	}
	load, err := f.Load(rig.Demand{PerSecond: 100, Long: 50, Most: 20_000})
	must(t, err)
	must(t, load.Await(t.Context(), 20))
	holds := func(director, want string) {
		t.Helper()
		if got, err := os.ReadFile(files[director]); err != nil || string(got) != want {
			t.Errorf("the file of %s holds %q, %v, want %q", director, got, err, want)
		}
	}
	const announced = rig.VIP + "/32 announce\n"
	for _, director := range []string{"d1", "d2"} {
		holds(director, announced)
		out, err := f.LVX(t.Context(), director, "status")
		if must(t, err); !strings.Contains(out, "program ") || !strings.Contains(out, "told") {
			t.Errorf("status of %s:\n%s", director, out)
		}
		wire, err := f.Cluster.Host(director).Capture("eth0")
		must(t, err)
		_, err = f.LVX(t.Context(), director, "drain", "--director", "--wait=20s")
		must(t, err)
		f.awaitPath(director, false)
		holds(director, "")
		asked, err := wire.Select(func(f testenv.Frame) bool { return bytes.Contains(f.Data, gracefulShutdown) })
		if must(t, err); len(asked) == 0 {
			t.Errorf("%s has withdrawn without asking the router to prefer others first", director)
		}
		wire.Close()
		must(t, load.Await(t.Context(), 20))
		_, err = f.LVX(t.Context(), director, "drain", "--director", "--undo")
		must(t, err)
		f.awaitPath(director, true)
		must(t, load.Await(t.Context(), 20))
	}
	must(t, f.Leave("d1")) // a stop withdraws before the data path ends
	f.awaitPath("d1", false)
	holds("d1", "")
	must(t, load.Await(t.Context(), 20))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err)
	f.checkWithdrawal("d2")
	holds("d2", "")
}
