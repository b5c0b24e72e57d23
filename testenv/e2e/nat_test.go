package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

const natURL = "http://172.16.0.7"

// natService is article 002's, in XDP: its reals listen on a port of their own.
const natService = `
services:
  - name: web
    listen: ["172.16.0.7:80/tcp"]
    scheduler: rr
    forward: nat
    reals:
      - {address: 192.168.79.27, port: 8080, weight: 1}
      - {address: 192.168.79.37, port: 8080, weight: 1}
`

// natFiles is a service of one real's nginx, beside it.
const natFiles = `  - name: files
    listen: ["172.16.0.7:8080/tcp"]
    forward: nat
    reals: [{address: 192.168.79.27, port: 8081}]
`

// newNATRig is the network of article 002: the reals have no other way out than
// the director. One client is on the director's segment, another one behind its
// gateway.
func newNATRig(t *testing.T) (near, far *rig.Rig) {
	t.Helper()
	near, err := rig.NewNAT(lvx)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(near.Logs())
		}
		must(t, near.Close())
	})
	copied := *near
	far = &copied
	far.Client = near.Cluster.Host("far")
	return near, far
}

// directNAT starts the director, or has it read another configuration.
func directNAT(t *testing.T, r *rig.Rig, body string) {
	t.Helper()
	must(t, r.Direct(t.Context(), "d1", "backend: auto\n"+body))
}

// Article 002's first half, without the kernel's IPVS: curl, listing, counters,
// weights; a client of the director's own segment, and one behind its gateway.
func TestNAT(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			near, far := newNATRig(t)
			directNAT(t, near, "xdp_mode: "+mode+natService+natFiles)
			dir := startNginx(t, near.Cluster.Host("r1"), "8081")
			for _, r := range []*rig.Rig{near, far} {
				if got := r.Curl(6, natURL); got != "r2 r1 r2 r1 r2 r1" {
					t.Fatalf("curl saw %q, want r2 r1 r2 r1 r2 r1", got)
				}
			}
			wantLines(t, near, []string{"list", "-n"}, "TCP 172.16.0.7:80 rr", "-> 192.168.79.27:8080 Masq 1 0 6", "-> 192.168.79.37:8080 Masq 1 0 6")
			stats := wantLines(t, near, []string{"list", "-n", "--stats", "--exact"}, "-> 192.168.79.27:8080 6 ")
			asked, _, _ := strings.Cut(stats, "TCP 172.16.0.7:8080") // files has not been asked yet
			if regexp.MustCompile(`(?m)^\s*(->|TCP) .* 0( |$)`).MatchString(asked) {
				t.Errorf("a counter is 0:\n%s", stats)
			}
			wantLines(t, near, []string{"list", "-n", "-c"}, "172.16.0.7:80 192.168.79.27:8080", "TIME_WAIT")
			wantLines(t, near, []string{"explain", "tcp", "172.16.0.50:3000", "172.16.0.7:80"}, "by NAT: addressed to 192.168.79.")
			for _, r := range []*rig.Rig{near, far} {
				transferFiles(t, r.Client, natURL+":8080/", dir, tunnelBytes())
			}
			weigh := strings.Replace(strings.Replace(natService, "scheduler: rr", "scheduler: wrr", 1), "37, port: 8080, weight: 1", "37, port: 8080, weight: 2", 1)
			directNAT(t, near, "xdp_mode: "+mode+weigh)
			if got := near.Curl(6, natURL); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 4 {
				t.Errorf("wrr 1:2 gave %q", got)
			}
			wantLines(t, near, []string{"list", "-n"}, "TCP 172.16.0.7:80 wrr", "-> 192.168.79.37:8080 Masq 2")
			for _, real := range []string{"192.168.79.27", "192.168.79.37"} {
				_, err := near.LVX(t.Context(), "d1", "weight", "web", real+":8080", "0")
				must(t, err)
			}
			if got := near.Curl(2, natURL); got != "connection refused connection refused" {
				t.Errorf("without a real curl saw %q", got)
			}
		})
	}
}

// wantLines runs lvx on the director and looks for texts in what it prints, in
// which any run of blanks is one.
func wantLines(t *testing.T, r *rig.Rig, args []string, want ...string) string {
	t.Helper()
	out, err := r.LVX(t.Context(), "d1", args...)
	must(t, err)
	var lines []string
	for line := range strings.Lines(out) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	out = strings.Join(lines, "\n")
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("lvx %s: %q is not in\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// A hop that takes less says so, whichever way the data go: to a real by what
// quotes the VIP's packet, to the client by the director itself.
func TestNATPathMTU(t *testing.T) {
	near, far := newNATRig(t)
	router, d1 := near.Cluster.Host("router"), near.Cluster.Host("d1")
	run(t, d1, "ip", "route", "replace", "192.168.79.27/32", "dev", "eth1", "mtu", "1300")
	run(t, d1, "ip", "route", "replace", "192.168.79.37/32", "dev", "eth1", "mtu", "1300")
	directNAT(t, near, natService+natFiles)
	dir := startNginx(t, near.Cluster.Host("r1"), "8081")
	transferFiles(t, far.Client, natURL+":8080/", dir, tunnelBytes()/8)
	must(t, router.SetRoute(testenv.Route{To: netip.MustParsePrefix("10.25.0.0/24"), NIC: "eth1", MTU: 1200}))
	transferFiles(t, far.Client, natURL+":8080/", dir, tunnelBytes()/8)
	metrics, err := near.LVX(t.Context(), "d1", "metrics")
	must(t, err)
	for _, verdict := range []string{"answered_too_big", "icmp_forwarded"} {
		if !regexp.MustCompile(`verdict="` + verdict + `"[^\n]*\} [1-9]`).MatchString(metrics) {
			t.Errorf("no packet was %s", verdict)
		}
	}
}

// The route to the clients may have an MTU of its own, below that of the interface: the
// real hears of it, as from the kernel.
func TestNATNarrowRouteToClients(t *testing.T) {
	near, far := newNATRig(t)
	d1, r1 := near.Cluster.Host("d1"), near.Cluster.Host("r1")
	run(t, d1, "ip", "route", "replace", "default", "via", "172.16.0.254", "mtu", "1100")
	directNAT(t, near, natService+natFiles)
	dir := startNginx(t, r1, "8081")
	transferFiles(t, far.Client, natURL+":8080/", dir, tunnelBytes()/8)
	if way, err := r1.Run(t.Context(), "ip", "route", "get", "10.25.0.50"); err != nil || !strings.Contains(way, "mtu 1100") {
		t.Errorf("the real's way to the client is %q (%v), want one with mtu 1100", way, err)
	}
}

// Connections live through a daemon that is killed, and through its successor's
// start; a thousand of them at once, none fails.
func TestNATConnectionsOutliveTheDaemon(t *testing.T) {
	near, far := newNATRig(t)
	directNAT(t, near, natService)
	held := make([]net.Conn, 0, 1000)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			r := near
			if i%2 == 0 {
				r = far
			}
			ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
			defer cancel()
			conn, err := r.Client.Dial(ctx, "tcp", "172.16.0.7:80")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			held = append(held, conn)
		})
	}
	wg.Wait()
	ask := func(when string) {
		t.Helper()
		failed := 0
		for _, conn := range held {
			must(t, conn.SetDeadline(time.Now().Add(rig.Patience)))
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
				failed++
				continue
			}
			buf := make([]byte, 512)
			if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 "+fmt.Sprint(http.StatusOK)) {
				failed++
			}
		}
		if failed > 0 || len(held) != 1000 {
			t.Fatalf("%s: %d of %d connections failed", when, failed, len(held))
		}
	}
	ask("at first")
	near.Kill("d1")
	ask("without a daemon")
	must(t, near.Start(t.Context(), "d1"))
	ask("with its successor")
	wantLines(t, near, []string{"list", "-n"}, "-> 192.168.79.27:8080 Masq 1 500 0", "-> 192.168.79.37:8080 Masq 1 500 0")
	for _, conn := range held {
		_ = conn.Close()
	}
}

// A real whose replies would come by an interface that XDP does not serve gets
// nothing: check says so before the start and status after it, with what to do.
func TestNATWithoutTheInsideInterface(t *testing.T) {
	near, _ := newNATRig(t)
	d := near.Cluster.Host("d1")
	file := filepath.Join(d.Dir(), "lvx.yaml")
	head := fmt.Sprintf("interfaces: [eth0]\nbackend: auto\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\n", d.PinDir(), d.Dir(), near.Socket("d1"))
	must(t, os.WriteFile(file, []byte(head+natService), 0o600))
	const lack = "replies of 192.168.79.27 come by eth1, which XDP does not serve (add it to interfaces:)"
	if out, err := d.Run(t.Context(), lvx, "check", "-c", file); err != nil || !strings.Contains(out, "web: "+lack) {
		t.Errorf("lvx check: %v, no %q in\n%s", err, lack, out)
	}
	must(t, near.Start(t.Context(), "d1"))
	wantLines(t, near, []string{"status"}, lack)
}

// What doctor says is of now: what was cured since the daemon looked last is not wrong.
func TestDoctorSeesTheCure(t *testing.T) {
	t.Parallel()
	near, _ := newNATRig(t)
	d := near.Cluster.Host("d1")
	run(t, d, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	directNAT(t, near, natService)
	const wrong = "net.ipv4.ip_forward: is 0"
	said := func(command ...string) string {
		out, _ := near.LVX(t.Context(), "d1", command...) // doctor ends with 1 with findings
		return out
	}
	eventually(t, func() error {
		if out := said("status"); !strings.Contains(out, wrong) {
			return fmt.Errorf("no %q in\n%s", wrong, out)
		}
		return nil
	})
	run(t, d, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	for _, command := range [][]string{{"doctor", "-c", filepath.Join(d.Dir(), "lvx.yaml")}, {"status"}} {
		if out := said(command...); strings.Contains(out, wrong) {
			t.Errorf("lvx %v, after the cure:\n%s", command, out)
		}
	}
}

// A real whose gateway is another host answers its checks, and no client: status
// and doctor name it until a reply comes.
func TestNATWithTheWrongGateway(t *testing.T) {
	t.Parallel()
	near, _ := newNATRig(t)
	r1 := near.Cluster.Host("r1")
	run(t, r1, "ip", "route", "replace", "default", "via", "192.168.79.37")
	oneReal := strings.Replace(natService, "      - {address: 192.168.79.37, port: 8080, weight: 1}\n", "", 1)
	directNAT(t, near, oneReal)
	for range 3 {
		if got, err := near.Get(natURL, time.Second); err == nil {
			t.Fatalf("%s answered past the director", got)
		}
	}
	const finding = "real 192.168.79.27: gets connections of web by NAT, and no reply comes back through this director"
	for _, command := range [][]string{{"status"}, {"doctor", "-c", filepath.Join(near.Cluster.Host("d1").Dir(), "lvx.yaml")}} {
		eventually(t, func() error {
			out, err := near.LVX(t.Context(), "d1", command...) // doctor ends with 1 for it
			if !strings.Contains(out, finding) {
				return fmt.Errorf("lvx %v: no %q in\n%s (%w)", command, finding, out, err)
			}
			return nil
		})
	}
	run(t, r1, "ip", "route", "replace", "default", "via", "192.168.79.1")
	if got := near.Curl(1, natURL); got != "r1" {
		t.Fatalf("by the director curl saw %q", got)
	}
	eventually(t, func() error {
		if out, err := near.LVX(t.Context(), "d1", "status"); err != nil || strings.Contains(out, finding) {
			return fmt.Errorf("a reply has come: %w\n%s", err, out)
		}
		return nil
	})
	wantMasqueradeRules(t, near)
}

// A rule that masquerades all that leaves takes the reply of UDP from a client whose MAC
// the kernel has to ask for, and doctor names the rule.
func TestNATOfMasqueradedUDP(t *testing.T) {
	near, _ := newNATRig(t)
	d1, r1 := near.Cluster.Host("d1"), near.Cluster.Host("r1")
	echo, err := r1.ListenPacket("udp", ":5353")
	must(t, err)
	go func() {
		buf := make([]byte, 64)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return // the test ends
			}
			_, _ = echo.WriteTo(buf[:n], from)
		}
	}()
	directNAT(t, near, "services:\n  - name: dns\n    listen: [\"172.16.0.7:53/udp\"]\n    forward: nat\n    reals: [{address: 192.168.79.27, port: 5353}]\n")
	doctor := func() string {
		out, _ := near.LVX(t.Context(), "d1", "doctor", "-c", filepath.Join(d1.Dir(), "lvx.yaml")) // 1 with findings
		return out
	}
	const finding = "VIP 172.16.0.7: netfilter gives replies of UDP another source (table ip nat, chain POSTROUTING, handle "
	asks := func() error {
		run(t, d1, "ip", "neigh", "flush", "dev", "eth0")
		conn, err := near.Client.Dial(t.Context(), "udp", "172.16.0.7:53")
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(time.Second)))
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 64))
		return err
	}
	eventually(t, asks)
	if out := doctor(); strings.Contains(out, finding) {
		t.Errorf("without a rule:\n%s", out)
	}
	run(t, d1, "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
	if out := doctor(); !strings.Contains(out, finding) {
		t.Errorf("with a rule for all:\n%s", out)
	}
	run(t, d1, "iptables", "-t", "nat", "-R", "POSTROUTING", "1", "-s", "192.168.79.0/24", "-o", "eth0", "-j", "MASQUERADE")
	if out := doctor(); strings.Contains(out, finding) {
		t.Errorf("with a rule for the reals:\n%s", out)
	}
	must(t, asks())
}

// wantMasqueradeRules: doctor names a rule that would hide clients from the real, which XDP
// passes by, and says what real servers have to have to reach out by the director.
func wantMasqueradeRules(t *testing.T, near *rig.Rig) {
	t.Helper()
	d := near.Cluster.Host("d1")
	doctor := func() string {
		out, _ := near.LVX(t.Context(), "d1", "doctor", "-c", filepath.Join(d.Dir(), "lvx.yaml")) // 1 with findings
		return out
	}
	const hidden, private = "real 192.168.79.27: netfilter would hide clients from it (table ip nat, chain POSTROUTING, handle ", "leaves by eth0 with its private address"
	if out := doctor(); strings.Contains(out, hidden) || !strings.Contains(out, private) {
		t.Errorf("without a rule:\n%s", out)
	}
	run(t, d, "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "192.168.79.0/24", "-o", "eth0", "-j", "MASQUERADE")
	run(t, d, "iptables", "-t", "nat", "-A", "POSTROUTING", "-d", "192.168.79.27", "-j", "MASQUERADE")
	if out := doctor(); !strings.Contains(out, hidden) || strings.Contains(out, private) {
		t.Errorf("with both rules:\n%s", out)
	}
}
