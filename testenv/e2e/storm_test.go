package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// stormBody has services of UDP besides the usual one: a storm goes to one, and
// what marks its end to the other.
func stormBody() string {
	udp := func(name, port string) string {
		return "  - {name: " + name + ", listen: [\"" + rig.VIP + ":" + port + "/udp\"], scheduler: rr, reals: [{address: 172.25.0.12}, {address: 172.25.0.13}]}\n"
	}
	return service("") + udp("storm", "9") + udp("mark", "10")
}

// number is what a line of text that matches a pattern has in its group.
func number(t *testing.T, text, pattern string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("no %s in:\n%s", pattern, text)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	must(t, err)
	return int(n)
}

// storm sends datagrams as fast as the client can. It returns how many a second
// the packet path has forwarded, and how many in all so far.
func storm(t *testing.T, r *rig.Rig, n int) (perSecond, all int) {
	t.Helper()
	before := stormPackets(t, r)
	conn, err := r.Client.Dial(t.Context(), "udp", rig.VIP+":9")
	must(t, err)
	defer conn.Close()
	datagram, began := make([]byte, 64), time.Now()
	for range n {
		_, _ = conn.Write(datagram) // refused by reals, where nobody listens
	}
	took := time.Since(began)
	all = stormPackets(t, r)
	return int(float64(all-before) / took.Seconds()), all
}

// stormPackets is how many packets of storms the packet path has forwarded.
func stormPackets(t *testing.T, r *rig.Rig) int {
	t.Helper()
	metrics, err := r.LVX(t.Context(), "d1", "metrics")
	must(t, err)
	return number(t, metrics, `(?m)^lvx_service_packets_total\{service="storm"\} (\S+)$`)
}

// mark sends datagrams until the listener has shown one: then it has shown, or
// counted as lost, all that came before. It returns how many it sent.
func mark(t *testing.T, r *rig.Rig, isShown func() error) (sent int) {
	t.Helper()
	conn, err := r.Client.Dial(t.Context(), "udp", rig.VIP+":10")
	must(t, err)
	defer conn.Close()
	eventually(t, func() error {
		_, _ = conn.Write([]byte("end"))
		sent++
		return isShown()
	})
	return sent
}

// While somebody watches every packet of a storm, nothing that is served is hurt,
// and each packet is shown or counted as not shown.
func TestTraceInAStorm(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", stormBody()))
	d1 := r.Cluster.Host("d1")
	usual := programInForce(t, d1)
	n := share(200_000)
	repeatBesideLoad(t, r, rig.Demand{PerSecond: share(500), Long: share(300)}, 1, func(int, *rig.Load) {
		without, _ := storm(t, r, n)
		t.Logf("nobody watches: %d of %d forwarded, %d a second", stormPackets(t, r), n, without)
		for _, words := range [][]string{{"trace"}, {"capture", "-w", filepath.Join(d1.Dir(), "storm.pcapng")}} {
			before := stormPackets(t, r)
			p, err := d1.Start(append([]string{r.Self, words[0], "--socket", r.Socket("d1")}, append(words[1:], "udp")...)...)
			must(t, err)
			must(t, p.WaitOutput(t.Context(), "watching"))
			perSecond, after := storm(t, r, n)
			marks := mark(t, r, func() error { return hasMark(p, words) })
			must(t, p.Signal(syscall.SIGINT))
			must(t, p.Wait())
			shown := number(t, p.Output(), `(\d+) packets, \d+ more not shown`)
			lost := number(t, p.Output(), `(\d+) more not shown`)
			t.Logf("%s: %d of %d forwarded, %d a second; %d shown, %d not", words[0], after-before, n, perSecond, shown, lost)
			if got := shown + lost; got < after-before || got > after-before+marks {
				t.Errorf("%s: %d shown and %d not, of %d packets", words[0], shown, lost, after-before)
			}
			eventually(t, func() error { return same(programInForce(t, d1), usual) })
		}
	})
}

// hasMark says that a listener has not shown a mark yet.
func hasMark(p *testenv.Process, words []string) error {
	shown := p.Output()
	if words[0] == "capture" {
		text, err := os.ReadFile(words[2])
		if err != nil {
			return err
		}
		shown = string(text)
	}
	if !strings.Contains(shown, net.JoinHostPort(rig.VIP, "10")) && !strings.Contains(shown, "service mark") {
		return fmt.Errorf("no mark in %d bytes", len(shown))
	}
	return nil
}
