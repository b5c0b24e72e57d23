//go:build ipvsvm

package handover

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// kinds are what connections there are, each with its share in a hundred, what
// is sent on each, and whether it goes on at the other director.
var kinds = []struct {
	name    string
	share   int
	udp     bool
	virtual func(i int) netip.AddrPort
	sent    []string
	goesOn  bool
	life    time.Duration // of its template; 0: none
}{
	{"established", 20, false, port(byPort, 80), []string{"S", "A", "PA"}, true, 0},
	{"UDP", 10, true, port(byPort, 53), []string{"", "", ""}, true, 0},
	{"persistent", 10, false, port(byPort, 443), []string{"S", "A", "PA"}, true, persistShop},
	{"by mark", 10, false, portsOf(byMark), []string{"S", "A", "PA"}, true, persistMark},
	{"every port", 5, false, func(i int) netip.AddrPort { return netip.AddrPortFrom(everyPort, uint16(2000+i)) }, []string{"S", "A", "PA"}, true, persistEvery},
	{"FIN_WAIT", 5, false, port(byPort, 80), []string{"S", "A", "PA", "FA"}, false, 0},
	{"TIME_WAIT", 5, false, port(byPort, 80), []string{"S", "FA"}, false, 0},
	{"CLOSE", 5, false, port(byPort, 80), []string{"S", "A", "PA", "R"}, false, 0},
	{"established, IPv6", 10, false, port(byPort6, 80), []string{"S", "A", "PA"}, true, 0},
	{"UDP, IPv6", 5, true, port(byPort6, 53), []string{"", "", ""}, true, 0},
	{"persistent, IPv6", 5, false, port(byPort6, 443), []string{"S", "A", "PA"}, true, persistShop},
	{"by mark, IPv6", 5, false, portsOf(byMark6), []string{"S", "A", "PA"}, true, persistMark},
	{"FIN_WAIT, IPv6", 5, false, port(byPort6, 80), []string{"S", "A", "PA", "FA"}, false, 0},
}

// portsOf are the two ports of the service by mark, in turn.
func portsOf(vip netip.Addr) func(int) netip.AddrPort {
	return func(i int) netip.AddrPort { return netip.AddrPortFrom(vip, uint16(8000+i%2*1000)) }
}

// clientOf is a client of a family for a number below 65536 of a kind.
func clientOf(is6 bool, kind, i int) netip.Addr {
	if !is6 {
		return netip.AddrFrom4([4]byte{10, byte(kind + 1), byte(i >> 8), byte(i)})
	}
	a := netip.MustParseAddr("2001:db8:1::").As16()
	a[13], a[14], a[15] = byte(kind+1), byte(i>>8), byte(i)
	return netip.AddrFrom16(a)
}

func port(vip netip.Addr, p uint16) func(int) netip.AddrPort {
	return func(int) netip.AddrPort { return netip.AddrPortFrom(vip, p) }
}

// flowsOf is how many connections there are: 10,000 with
// LVX_HANDOVER_FLOWS=10000, else a twentieth.
func flowsOf(t *testing.T) int {
	text := os.Getenv("LVX_HANDOVER_FLOWS")
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 100 {
		t.Fatalf("LVX_HANDOVER_FLOWS=%s: not a number from 100", text)
	}
	return n
}

// opened are connections of every kind, and where they went.
type opened struct {
	flows map[string][]testenv.CrowdFlow
	home  map[string][]string
	total int // templates too
}

// crowd are clients of a director.
func (l *lab) crowd(to *testenv.Host) *testenv.Crowd {
	return &testenv.Crowd{From: l.client, NIC: "eth0", To: to.MAC("eth0"), Reals: l.reals}
}

// send sends on flows and returns where they went.
func (l *lab) send(c *testenv.Crowd, flows []testenv.CrowdFlow, flags string) []string {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	reals, err := c.Send(ctx, flows, flags)
	l.must(err)
	return reals
}

// open opens connections of every kind through a director. Each has a client of
// its own.
func (l *lab) open(director *testenv.Host) *opened {
	l.Helper()
	c := l.crowd(director)
	o := &opened{flows: map[string][]testenv.CrowdFlow{}, home: map[string][]string{}}
	for n, k := range kinds {
		count := flowsOf(l.T) * k.share / 100
		for i := range count {
			o.flows[k.name] = append(o.flows[k.name], testenv.CrowdFlow{
				UDP: k.udp, Virtual: k.virtual(i),
				Client: netip.AddrPortFrom(clientOf(k.virtual(i).Addr().Is6(), n, i), uint16(1024+i)),
			})
		}
		o.total += count
		if k.life > 0 {
			o.total += count
		}
		for i, flags := range k.sent {
			reals := l.send(c, o.flows[k.name], flags)
			if i == 0 {
				o.home[k.name] = reals
			}
		}
	}
	return o
}

// checkGoesOn sends on every connection through another director: each reaches
// the real that it had, and another connection of a persistent client too.
func (l *lab) checkGoesOn(o *opened, director *testenv.Host) {
	l.Helper()
	c := l.crowd(director)
	for _, k := range kinds {
		if !k.goesOn {
			continue
		}
		count := func(what string, flows []testenv.CrowdFlow, flags string) {
			wrong := 0
			for i, real := range l.send(c, flows, flags) {
				if real != o.home[k.name][i] {
					wrong++
				}
			}
			l.Logf("%s, %s: %d of %d reached another real", k.name, what, wrong, len(flows))
			if wrong > 0 {
				l.Errorf("%s, %s: %d of %d reached another real", k.name, what, wrong, len(flows))
			}
		}
		count("the connection", o.flows[k.name], "PA")
		if k.life == 0 {
			continue
		}
		var next []testenv.CrowdFlow
		for _, f := range o.flows[k.name] {
			f.Client = netip.AddrPortFrom(f.Client.Addr(), f.Client.Port()+20000)
			next = append(next, f)
		}
		count("the client's next one", next, "S")
	}
}

// await waits until a list has as many entries as were opened.
func (l *lab) await(what string, o *opened, read func() list) list {
	l.Helper()
	var got list
	tb.Eventually(l, patience, func() error {
		if got = read(); len(got.of) < o.total {
			return fmt.Errorf("%s lists %d entries of %d", what, len(got.of), o.total)
		}
		return nil
	})
	return got
}

// awaitSame waits until two lists have the same entries with the same reals,
// states and ends, and returns how far apart the ends of one entry are at most.
// News of a state come after those of the entry itself, and what is heard
// between the two readings renews an entry of one list alone.
func (l *lab) awaitSame(what string, a, b func() list) (worst time.Duration) {
	l.Helper()
	tb.Eventually(l, patience, func() error {
		var wrong []string
		if worst, wrong = a().sameAs(b()); len(wrong) > 0 {
			return fmt.Errorf("%s:\n%s", what, few(wrong))
		}
		return nil
	})
	return worst
}

// What a kernel tells, lvx takes as another kernel does: the same entries with
// the same reals, states and times; and it goes on with every connection.
func TestKernelMasterToLVX(t *testing.T) {
	l := newLab(t)
	l.startLVX()
	l.daemon(l.master, "--start-daemon", "master")
	l.daemon(l.backup, "--start-daemon", "backup")
	o := l.open(l.master)
	l.await("the kernel's backup", o, func() list { return l.kernelList(l.backup) })
	l.await("lvx", o, l.lvxList)
	worst := l.awaitSame("the kernel's backup and lvx", func() list { return l.kernelList(l.backup) }, l.lvxList)
	t.Logf("%d entries; beside what the lists round, ends are at most %s apart", o.total, worst)
	l.checkGoesOn(o, l.lvx)
}

// What lvx tells, a kernel takes: the entries that lvx has, with their reals,
// states and times; and it goes on with every connection.
func TestLVXToKernelBackup(t *testing.T) {
	l := newLab(t)
	l.startLVX()
	l.daemon(l.backup, "--start-daemon", "backup")
	o := l.open(l.lvx)
	l.await("the kernel's backup", o, func() list { return l.kernelList(l.backup) })
	worst := l.awaitSame("lvx and the kernel's backup", l.lvxList, func() list { return l.kernelList(l.backup) })
	t.Logf("%d entries; beside what the lists round, ends are at most %s apart", o.total, worst)
	l.checkGoesOn(o, l.backup)
}
