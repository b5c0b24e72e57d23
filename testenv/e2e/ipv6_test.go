package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

const (
	vip6 = "fd25::100"
	web6 = "http://[" + vip6 + "]"
)

// service6 is the body of a configuration with one IPv6 service on port 80.
func service6(extra string, reals ...string) string {
	b := "services:\n  - name: web6\n    listen: [\"[" + vip6 + "]:80/tcp\"]\n    scheduler: rr\n" + extra + "    reals:\n"
	for _, r := range reals {
		b += "      - {address: \"" + r + "\"}\n"
	}
	return b
}

// newRig6 gives every host of the standard network an IPv6 address, its last
// byte that of IPv4 in decimal, and the reals the VIP on lo.
func newRig6(t *testing.T) *rig.Rig {
	t.Helper()
	return newRig6Of(t, testenv.Shape{Directors: 1})
}

func newRig6Of(t *testing.T, shape testenv.Shape) *rig.Rig {
	t.Helper()
	r := newRig(t, shape)
	for _, h := range r.Cluster.Hosts() {
		if h.Addr("eth0").IsValid() { // not the switch
			enableIPv6(t, h, "eth0", "fd25::")
		}
		if strings.HasPrefix(h.Name, "r") {
			run(t, h, lvx, "real", "up", "--vip", vip6, "--state", filepath.Join(h.Dir(), "real6.json"))
		}
	}
	return r
}

// enableIPv6 gives a NIC an address of a network, by its IPv4 address.
func enableIPv6(t *testing.T, h *testenv.Host, nic, network string) {
	t.Helper()
	must(t, h.Sysctl("net.ipv6.conf."+nic+".disable_ipv6", "0"))
	must(t, h.AddAddr(nic, netip.MustParsePrefix(fmt.Sprintf("%s%d/64", network, h.Addr(nic).As4()[3]))))
}

// IPv6 in XDP as users meet it: requests in turn, a connection that outlives
// kill -9 of the daemon, draining, a real that fails, listings.
func TestIPv6InXDP(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig6(t)
			head := "backend: xdp\nxdp_mode: " + mode + "\n"
			must(t, r.Direct(t.Context(), "d1", head+service6("", "fd25::12", "fd25::13")))
			if got := r.Curl(4, web6); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
				t.Fatalf("requests: %s", got)
			}
			conn := hold6(t, r)
			still := func(when string) {
				t.Helper()
				if name, err := rig.Ask(conn); name != "r1" || err != nil {
					t.Fatalf("%s the connection is answered by %q, %v", when, name, err)
				}
			}
			still("at first")
			r.Kill("d1")
			still("with the daemon dead")
			if got := r.Curl(4, web6); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
				t.Errorf("new connections with the daemon dead: %s", got)
			}
			must(t, r.Start(t.Context(), "d1"))
			still("after the restart")
			wantListed(t, r, []string{"list", "-n", "-c"}, "ESTABLISHED", "["+vip6+"]:80")
			wantListed(t, r, []string{"list", "-n"}, "["+vip6+"]:80", "[fd25::12]:80")
			wantListed(t, r, []string{"status"}, "web6")

			run6(t, r, "drain", "web6", "fd25::12")
			eventually(t, func() error {
				if got := r.Curl(4, web6); got != "r2 r2 r2 r2" {
					return fmt.Errorf("with r1 drained: %s", got)
				}
				return nil
			})
			still("while it is drained")
			must(t, conn.Close())
			must(t, r.Stop("d1"))
			nothingLeft(t, r, "d1")
		})
	}
}

// hold6 keeps a connection that reaches r1.
func hold6(t *testing.T, r *rig.Rig) net.Conn {
	t.Helper()
	conn, err := r.HoldAt("["+vip6+"]:80", "r1")
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func run6(t *testing.T, r *rig.Rig, args ...string) string {
	t.Helper()
	out, err := r.LVX(t.Context(), "d1", args...)
	if err != nil {
		t.Fatalf("lvx %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func wantListed(t *testing.T, r *rig.Rig, args []string, want ...string) {
	t.Helper()
	out := run6(t, r, args...)
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("lvx %s does not show %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// A check takes a dead IPv6 real out, also of a service that a reload brought
// to a daemon that had none of IPv6.
func TestIPv6Checks(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig6(t)
	check := "    check: {type: tcp, interval: 200ms, timeout: 1s}\n"
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\n"+service("")))
	if _, err := r.Config("d1", "backend: xdp\n"+service6(check, "fd25::12", "fd25::13")); err != nil {
		t.Fatal(err)
	}
	out, err := r.LVX(t.Context(), "d1", "reload")
	if err != nil || !strings.Contains(out, "first VIP of IPv6: changed: lvx starts anew in place") {
		t.Fatalf("the reload says: %s, %v", out, err)
	}
	both := func() error {
		if got := r.Curl(4, web6); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
			return fmt.Errorf("requests: %s", got)
		}
		return nil
	}
	eventually(t, both)
	must(t, r.Cluster.Host("r1").SetLink("eth0", false))
	eventually(t, func() error {
		if got := r.Curl(4, web6); got != "r2 r2 r2 r2" {
			return fmt.Errorf("with r1 dead: %s", got)
		}
		return nil
	})
}
