package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// birdBFD speaks BFD at 100 ms; multiplier, twice, and neighbours are filled in.
const birdBFD = `
router id 172.25.0.1;
protocol device {}
protocol bfd b {
  interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier %[1]d; };
  multihop { min rx interval 100 ms; min tx interval 100 ms; multiplier %[1]d; };
%[2]s}
`

// keepalivedBFD is keepalived's side of a session; the multiplier is filled in.
const keepalivedBFD = `
bfd_instance lvx {
    neighbor_ip 172.25.0.11
    source_ip 172.25.0.13
    min_rx 100
    min_tx 100
    multiplier %d
}
`

// bfdPeers are BFD daemons beside a director, by the name of their host.
type bfdPeers struct {
	*rig.Rig
	t          *testing.T
	multiplier int // on both sides
	daemons    map[string]*testenv.Process
}

// startBIRD runs BIRD with neighbours on a host.
func (p *bfdPeers) startBIRD(host string, neighbours ...string) {
	p.t.Helper()
	h := p.Cluster.Host(host)
	in := func(name string) string { return filepath.Join(h.Dir(), name) }
	lines := ""
	for _, n := range neighbours {
		lines += "  neighbor " + n + ";\n"
	}
	must(p.t, os.WriteFile(in("bfd.conf"), fmt.Appendf(nil, birdBFD, p.multiplier, lines), 0o600))
	d, err := h.Start("bird", "-f", "-c", in("bfd.conf"), "-s", in("bfd.ctl"), "-P", in("bfd.pid"))
	must(p.t, err)
	p.daemons[host] = d
}

// birdSays is a session as BIRD has it: its state, and since when.
func (p *bfdPeers) birdSays(host, neighbour string) (state, since string) {
	p.t.Helper()
	h := p.Cluster.Host(host)
	out := run(p.t, h, "birdc", "-s", filepath.Join(h.Dir(), "bfd.ctl"), "show", "bfd", "sessions")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == neighbour {
			return f[2], f[3]
		}
	}
	return "", ""
}

func (p *bfdPeers) startKeepalived(host string) {
	p.t.Helper()
	h := p.Cluster.Host(host)
	in := func(name string) string { return filepath.Join(h.Dir(), name) }
	must(p.t, os.WriteFile(in("bfd.conf"), fmt.Appendf(nil, keepalivedBFD, p.multiplier), 0o600))
	d, err := h.Start("keepalived", "-n", "-l", "-f", in("bfd.conf"), "-p", in("ka.pid"), "-r", in("ka.vrrp"), "-c", in("ka.check"), "-b", in("ka.bfd"))
	must(p.t, err)
	p.daemons[host] = d
}

// session is a session as a director has it.
func (p *bfdPeers) session(director, name string) (found director.BFDStatus) {
	p.t.Helper()
	for _, b := range p.status(director).BFD {
		if b.Session == name {
			return b
		}
	}
	p.t.Fatalf("%s has no session %s", director, name)
	return found
}

func (p *bfdPeers) status(name string) (st director.Status) {
	p.t.Helper()
	out, err := p.LVX(p.t.Context(), name, "status", "--json")
	must(p.t, err)
	must(p.t, json.Unmarshal([]byte(out), &st))
	return st
}

// awaitUp waits until sessions are up, or are not.
func (p *bfdPeers) awaitUp(want bool, names ...string) {
	p.t.Helper()
	for _, name := range names {
		eventually(p.t, func() error {
			if b := p.session("d1", name); b.IsUp != want {
				return fmt.Errorf("session %s: %+v, want up: %v", name, b, want)
			}
			return nil
		})
	}
}

// awaitReals waits until requests reach exactly these reals.
func (p *bfdPeers) awaitReals(want ...string) {
	p.t.Helper()
	eventually(p.t, func() error {
		got := p.Curl(4, "http://"+rig.VIP)
		for _, name := range []string{"r1", "r2"} {
			if strings.Contains(got, name) != strings.Contains(strings.Join(want, " "), name) {
				return fmt.Errorf("answered: %s, want %v", got, want)
			}
		}
		return nil
	})
}

// bfdBody is a director's configuration; what goes before the rest and the
// multiplier are filled in.
const bfdBody = `%[1]sbfd:
  - {name: bird, neighbour: 172.25.0.12, min_tx: 100ms, min_rx: 100ms, multiplier: %[2]d}
  - {name: keepalived, neighbour: 172.25.0.13, min_tx: 100ms, min_rx: 100ms, multiplier: %[2]d}
  - {name: six, neighbour: "fd25::12", source: "fd25::11", min_tx: 100ms, min_rx: 100ms, multiplier: %[2]d}
  - {name: far, neighbour: 10.25.0.50, multihop: true, min_tx: 100ms, min_rx: 100ms, multiplier: %[2]d}
  - {name: pretender, neighbour: 10.25.0.50}
services:
  - name: web
    listen: ["172.25.0.100:80/tcp"]
    scheduler: rr
    reals:
      - {address: 172.25.0.12, check: {type: bfd, bfd: bird}}
      - {address: 172.25.0.13, check: {type: bfd, bfd: keepalived}}
`

// newBFDPeers is a director with BIRD on r1 and, behind a router, on the client,
// and keepalived on r2; everything is up.
func newBFDPeers(t *testing.T, head string, multiplier int) *bfdPeers {
	t.Helper()
	p := &bfdPeers{newRig(t, testenv.Shape{Directors: 1, Routed: true}), t, multiplier, map[string]*testenv.Process{}}
	t.Cleanup(func() {
		if t.Failed() {
			for host, d := range p.daemons {
				t.Logf("BFD of %s:\n%s", host, d.Output())
			}
		}
	})
	for _, name := range []string{"d1", "r1"} {
		enableIPv6(t, p.Cluster.Host(name), "eth0", "fd25::")
	}
	must(t, p.Direct(t.Context(), "d1", fmt.Sprintf(bfdBody, head, multiplier)))
	p.startBIRD("r1", "172.25.0.11", `fd25::11 dev "eth0"`)
	p.startBIRD("client", "172.25.0.11 local 10.25.0.50 multihop on")
	p.startKeepalived("r2")
	p.awaitUp(true, "bird", "keepalived", "six", "far")
	return p
}

// Sessions with BIRD and keepalived, also over IPv6 and behind a router, carry
// real servers out and back. What comes over a router is no neighbour on the
// segment.
func TestBFDWithBIRDAndKeepalived(t *testing.T) {
	t.Parallel()
	p := newBFDPeers(t, "", 3)
	p.awaitReals("r1", "r2")
	for _, name := range []string{"bird", "keepalived", "six", "far"} {
		eventually(t, func() error { // on a busy machine a session may be down for a moment
			if b := p.session("d1", name); b.Detection != 300*time.Millisecond {
				return fmt.Errorf("%s detects in %v, want 300ms", name, b.Detection)
			}
			return nil
		})
	}
	p.daemons["r1"].Kill()
	p.awaitUp(false, "bird", "six")
	p.awaitReals("r2")
	if b := p.session("d1", "bird"); b.Reason != "down: detection time expired" || b.Downs == 0 {
		t.Errorf("a killed neighbour: %+v", b)
	}
	must(t, p.daemons["r2"].Stop())
	p.awaitUp(false, "keepalived")
	p.awaitReals()
	p.startBIRD("r1", "172.25.0.11", `fd25::11 dev "eth0"`)
	p.startKeepalived("r2")
	p.awaitReals("r1", "r2")

	pretender, err := p.Client.Dial(t.Context(), "udp", "172.25.0.11:3784")
	must(t, err)
	defer pretender.Close()
	raw, err := pretender.(*net.UDPConn).SyscallConn()
	must(t, err)
	must(t, setTTL(raw, 255))
	down := bfd.Packet{State: bfd.Down, Multiplier: 3, MyDiscriminator: 1, DesiredMinTx: time.Second, RequiredMinRx: time.Second}
	eventually(t, func() error {
		if _, err := pretender.Write(down.Append(nil)); err != nil {
			return err
		}
		const want = "down: packets of the neighbour are discarded: TTL 254, want 255 at least (max_hops)"
		if b := p.session("d1", "pretender"); b.Reason != want {
			return fmt.Errorf("%+v, want %q", b, want)
		}
		return nil
	})
	r1 := p.Cluster.Host("r1") // BIRD has its port
	other := filepath.Join(r1.Dir(), "lvx.yaml")
	must(t, os.WriteFile(other, []byte("interface: eth0\nbfd: [{name: x, neighbour: 10.25.0.50}]\nadmin: {socket: "+r1.Dir()+"/none}\n"), 0o600))
	out, _ := r1.Run(t.Context(), lvx, "check", "-c", other) // XDP may be refused there
	for _, want := range []string{"bfd: sessions stay down: ", "address already in use", "bfd x: 10.25.0.50 is behind a router"} {
		if !strings.Contains(out, want) {
			t.Errorf("lvx check says nothing of %q:\n%s", want, out)
		}
	}
	out, err = p.LVX(t.Context(), "d1", "history", "--kind", "bfd")
	must(t, err)
	for _, want := range []string{"bird: down: detection time expired", "bird: up"} {
		if !strings.Contains(out, want) {
			t.Errorf("history without %q:\n%s", want, out)
		}
	}
	eventually(t, func() error {
		if n := metricOf(t, p.Rig, `lvx_bfd_session_up{neighbour="172.25.0.12",session="bird"}`); n != 1 {
			return fmt.Errorf("metric of a session that is up: %d", n)
		}
		return nil
	})
}

// Neighbours do not see an upgrade, nor a start in place; they hear of a stop. They
// are patient, so that a busy machine takes no session down; how fast a session is
// that was carried on is a matter of package bfd's tests.
func TestBFDSessionsSurviveUpgrades(t *testing.T) {
	t.Parallel()
	const head, patience = "stop_grace: 60s\n", 200
	p := newBFDPeers(t, head, patience)
	since := map[string]string{}
	peers := map[string][2]string{"bird": {"r1", "172.25.0.11"}, "six": {"r1", "fd25::11"}, "far": {"client", "172.25.0.11"}}
	for name, at := range peers {
		eventually(t, func() error {
			state, when := p.birdSays(at[0], at[1])
			if since[name] = when; state != "Up" {
				return fmt.Errorf("%s has %s %s", at[0], at[1], state)
			}
			return nil
		})
	}
	stays := func(after string) {
		t.Helper()
		p.awaitUp(true, "bird", "keepalived", "six", "far")
		for name, at := range peers {
			if state, when := p.birdSays(at[0], at[1]); state != "Up" || apart(t, when, since[name]) > 50*time.Millisecond {
				t.Errorf("after %s BIRD has session %s %s since %s, want up since %s", after, name, state, when, since[name])
			}
		}
		if n := strings.Count(p.daemons["r2"].Output(), "Entering Down state"); n != 0 {
			t.Errorf("after %s keepalived has seen the session down:\n%s", after, p.daemons["r2"].Output())
		}
	}
	must(t, p.Direct(t.Context(), "d1", fmt.Sprintf(bfdBody, head+"tables: {flows: 20000}\n", patience)))
	eventually(t, func() error {
		_, err := p.LVX(t.Context(), "d1", "status")
		return err
	})
	stays("a start in place")
	_, err := p.LVX(t.Context(), "d1", "upgrade", lvx)
	must(t, err)
	stays("an upgrade")

	heard, err := p.Cluster.Host("r1").Capture("eth0")
	must(t, err)
	defer heard.Close()
	must(t, p.Leave("d1"))
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	_, err = heard.Wait(ctx, saysAdminDown)
	must(t, err)
}

// apart is how far two of BIRD's times of the day are from each other: it makes
// them of a monotonic clock, and a wall clock that is adjusted moves them by a
// millisecond.
func apart(t *testing.T, a, b string) time.Duration {
	t.Helper()
	first, err := time.Parse("15:04:05", a)
	must(t, err)
	second, err := time.Parse("15:04:05", b)
	must(t, err)
	return first.Sub(second).Abs()
}

// saysAdminDown reports whether a frame ends a session with r1 by intent.
func saysAdminDown(f testenv.Frame) bool {
	p := f.Packet()
	udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if udp == nil || udp.DstPort != 3784 {
		return false
	}
	b, err := bfd.Parse(udp.Payload)
	return err == nil && b.State == bfd.AdminDown && b.Diagnostic == bfd.AdministrativelyDown
}

// setTTL sets the TTL of what a socket sends.
func setTTL(c syscall.RawConn, ttl int) (err error) {
	outer := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, ttl) })
	return errors.Join(outer, err)
}

// A virtual router leaves a master whose session is down, and goes back.
func TestBFDMovesAVirtualRouter(t *testing.T) {
	t.Parallel()
	p := &bfdPeers{newRig(t, testenv.Shape{Directors: 2}), t, 3, map[string]*testenv.Process{}}
	const tracked = "bfd: [{name: up, neighbour: 172.25.0.12, min_tx: 100ms, min_rx: 100ms}]\n"
	for name, priority := range pairPriority {
		body := pairBody(priority, "")
		if name == "d1" {
			body = tracked + strings.Replace(body, "priority: 150", "track_bfd: [{name: up}], priority: 150", 1)
		}
		must(t, p.Direct(t.Context(), name, body))
	}
	hasRole(t, p.Rig, "d1", "FAULT")
	hasRole(t, p.Rig, "d2", "MASTER")
	p.startBIRD("r1", "172.25.0.11")
	hasRole(t, p.Rig, "d1", "MASTER")
	hasRole(t, p.Rig, "d2", "BACKUP")
	p.daemons["r1"].Kill()
	hasRole(t, p.Rig, "d2", "MASTER")
	eventually(t, func() error {
		const want = "bfd up: down: detection time expired"
		out, err := p.LVX(t.Context(), "d1", "status")
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("status without %q:\n%s", want, out)
		}
		return err
	})
}
