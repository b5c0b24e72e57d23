package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// counted is how many packets have ended in a verdict, read from the pinned
// map: that works without a daemon, too.
func counted(t *testing.T, r *rig.Rig, verdict bpf.Verdict) (n uint64) {
	t.Helper()
	return countedAt(t, r, "d1", verdict)
}

// countedAt is how many packets a director has decided alike.
func countedAt(t *testing.T, r *rig.Rig, director string, verdict bpf.Verdict) (n uint64) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.Cluster.Host(director).PinDir(), "verdicts"), nil)
	must(t, err)
	defer m.Close()
	per := make([]bpf.VerdictCounts, ebpf.MustPossibleCPU())
	must(t, m.Lookup(uint32(0), &per))
	for _, p := range per {
		n += p.Of[verdict].Count
	}
	return n
}

// pieces is a client's socket, and a datagram from it in three fragments.
type pieces struct {
	net.PacketConn
	frames [][]byte
}

func newPieces(t *testing.T, r *rig.Rig, port uint16) pieces {
	t.Helper()
	p, err := r.Client.ListenPacket("udp", fmt.Sprintf("172.25.0.50:%d", port))
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return pieces{p, fragmented(t, r, port, port, 4000)}
}

// send sends the fragments of these numbers.
func (p pieces) send(t *testing.T, r *rig.Rig, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		must(t, r.Client.Send("eth0", p.frames[n]))
	}
}

// answered waits for the answer, which comes when the datagram was whole.
func (p pieces) answered(t *testing.T) {
	t.Helper()
	must(t, p.SetReadDeadline(time.Now().Add(rig.Patience)))
	if _, _, err := p.ReadFrom(make([]byte, 100)); err != nil {
		t.Errorf("the datagram did not arrive whole: %v", err)
	}
}

// completeDatagrams counts the whole datagrams that the reals got from a port.
func completeDatagrams(r *rig.Rig, port uint16) (n int) {
	for _, w := range r.Webs {
		for _, a := range w.Log() {
			if a.Method == "UDP" && a.Client.Port() == port {
				n++
			}
		}
	}
	return n
}

// A fragment is held for a second, then it is forgotten: its first comes too
// late.
func TestFragmentsAreHeldForASecond(t *testing.T) {
	r := udpRig(t, datagrams(""))
	late := newPieces(t, r, 41000)
	before := counted(t, r, bpf.FragmentHeld)
	late.send(t, r, 2)
	eventually(t, func() error {
		if n := counted(t, r, bpf.FragmentHeld) - before; n != 1 {
			return fmt.Errorf("%d fragments held, want 1", n)
		}
		return nil
	})
	time.Sleep(2 * time.Second)
	late.send(t, r, 0, 1)
	port := uint16(41000)
	eventually(t, func() error { // a daemon that gets no time holds nothing
		port++
		soon := newPieces(t, r, port)
		soon.send(t, r, 2, 1, 0)
		must(t, soon.SetReadDeadline(time.Now().Add(time.Second)))
		_, _, err := soon.ReadFrom(make([]byte, 100))
		return err
	}) // whatever was to come of the other has come
	if n := completeDatagrams(r, 41000); n != 0 {
		t.Errorf("a datagram whose last fragment came two seconds early arrived %d times", n)
	}
}

// With the daemon dead nobody holds fragments: those that come before their
// first are dropped, and counted. The others go on as before.
func TestFragmentsWithoutADaemon(t *testing.T) {
	r := udpRig(t, datagrams(""))
	r.Kill("d1")
	port := uint16(42000)
	eventually(t, func() error { // until the packet path believes it
		port++
		newPieces(t, r, port).send(t, r, 2)
		if counted(t, r, bpf.FragmentLost) == 0 {
			return fmt.Errorf("no fragment is lost, %d are held", counted(t, r, bpf.FragmentHeld))
		}
		return nil
	})
	before := counted(t, r, bpf.FragmentLost)
	early := newPieces(t, r, 43000)
	early.send(t, r, 2, 1, 0)
	inOrder := newPieces(t, r, 43001)
	inOrder.send(t, r, 0, 2, 1)
	inOrder.answered(t)
	if n := counted(t, r, bpf.FragmentLost) - before; n != 2 {
		t.Errorf("%d fragments were counted as lost, want 2", n)
	}
	if n := completeDatagrams(r, 43000); n != 0 {
		t.Errorf("a datagram whose first fragment came last arrived %d times", n)
	}

	must(t, r.Start(t.Context(), "d1"))
	again := newPieces(t, r, 43002)
	again.send(t, r, 2, 1, 0)
	again.answered(t)
}

// Path-MTU discovery works through a hop of 1280 bytes: the router's errors
// reach the real that sent the long packet.
func TestPathMTUDiscovery(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1, Routed: true})
	must(t, r.Cluster.SetHopMTU(1280))
	must(t, r.Direct(t.Context(), "d1", service("")))
	for range 4 {
		body, err := r.Get("http://"+rig.VIP+"/bytes/3000000", rig.Patience)
		if err != nil || len(body) != 3000000 {
			t.Fatalf("download through the small hop: %d bytes, %v", len(body), err)
		}
	}
	// Each real has been told: the router's error went to the one it quotes.
	if n := counted(t, r, bpf.ICMPForwarded); n < 2 {
		t.Errorf("%d ICMP errors were forwarded, want one to each real at least", n)
	}
	for _, name := range []string{"r1", "r2"} {
		if out := run(t, r.Cluster.Host(name), "ip", "route", "get", "10.25.0.50"); !strings.Contains(out, "mtu 1280") {
			t.Errorf("%s has not learnt the path's MTU:\n%s", name, out)
		}
	}
}
