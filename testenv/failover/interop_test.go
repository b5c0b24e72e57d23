package failover

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
)

// dialects are the ways of speaking VRRP; wire is what a master of priority
// 150 sends, byte for byte keepalived's.
var dialects = []struct {
	name     string
	version  int
	interval time.Duration
	unicast  bool
	wire     string
}{
	{"v2, password", 2, time.Second, false, "213396010101" + "01b7" + "0a630064" + "7333637233743132"},
	{"v2, password, unicast", 2, time.Second, true, "213396010101" + "01b7" + "0a630064" + "7333637233743132"},
	{"v3", 3, 100 * ms, false, "31339601000a" + "4307" + "0a630064"},
	{"v3, unicast", 3, time.Second, true, "313396010064" + "185b" + "0a630064"},
}

// mixed is a segment with lvx on one router and keepalived on the other.
type mixed struct {
	*pair
	sent *testenv.Capture // at a's port
}

func (m *mixed) serves(with, without string) {
	m.t.Helper()
	m.await(with+" alone has the VIP", func() error { return m.Alone(with, without, VIP) })
}

// The whole daemon and keepalived, each as the better one of a pair and as
// the worse: who is master follows priorities, a clean stop of lvx costs
// nothing, and what lvx sends is keepalived's to the last byte.
func TestBesideKeepalived(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			peer := func(name string) func(*vrrp.Instance) {
				return func(i *vrrp.Instance) {
					if d.unicast {
						i.UnicastPeers = []netip.Addr{Addr(name)}
					}
				}
			}
			better := router(d.version, d.interval, 150, peer("b"))
			worse := router(d.version, d.interval, 100, peer("a"))
			m := &mixed{pair: &pair{Segment: newSegment(t), setting: setting{d.name, better, worse}, t: t}}
			var err error
			m.sent, err = m.Switch().Capture("a")
			must(t, err)
			m.probe(VIP)
			m.lvxIsBetter(d.wire, d.unicast)
			m.keepalivedIsBetter()
		})
	}
}

func (m *mixed) lvxIsBetter(wire string, unicast bool) {
	m.t.Helper()
	lvx := LVX{Self: self, Body: "services: []\n"}
	m.b = start(m.t, Keepalived{}, m.Host("b"), m.worse)
	m.serves("b", "a")
	m.a = start(m.t, lvx, m.Host("a"), m.better)
	m.serves("a", "b")
	m.checkWire(150, wire, unicast)
	time.Sleep(m.dead()) // b must hear enough not to take over
	begin := time.Now()
	if n := len(m.adverts("b", begin.Add(-m.dead()))); n > 1 {
		m.t.Errorf("keepalived sent %d adverts beside a better lvx", n)
	}
	m.stop(m.a)
	m.succeeds("b")
	// A hard stop costs keepalived's skew. How soon its announcement follows
	// its advert is its own business; a tenth of a second shows nothing.
	loss, skew := m.echo.Since(begin), m.dead()-3*m.worse.AdvertInterval
	stood := m.pauses.Within(m.t, begin, time.Now())
	if m.worse.AdvertInterval >= time.Second && loss.Lost > int(skew/EchoEvery)/2+lostBy(stood) {
		m.t.Errorf("a clean stop beside keepalived: %d probes lost, %s, where a hard one costs %s", loss.Lost, loss.Outage, skew)
	}
	m.t.Logf("a clean stop beside keepalived: %d probes lost, %s", loss.Lost, loss.Outage.Round(ms))
	m.checkWire(0, "", unicast)
	m.stop(m.b)
	m.a, m.b = nil, nil
}

func (m *mixed) keepalivedIsBetter() {
	m.t.Helper()
	lvx := LVX{Self: self, Body: "services: []\n"}
	m.a = start(m.t, Keepalived{}, m.Host("a"), m.better)
	m.serves("a", "b")
	m.b = start(m.t, lvx, m.Host("b"), m.worse)
	must(m.t, m.b.WaitOutput(m.t.Context(), "to=BACKUP"))
	time.Sleep(m.dead() + m.worse.AdvertInterval)
	if err := m.Alone("a", "b", VIP); err != nil {
		m.t.Errorf("lvx beside a better keepalived: %v", err)
	}
	m.stop(m.a)
	m.serves("b", "a")
	if !strings.Contains(m.b.Output(), "has resigned") {
		m.t.Error("lvx did not hear keepalived resign")
	}
	m.a = start(m.t, Keepalived{}, m.Host("a"), m.better)
	m.serves("a", "b")
	m.a.Kill()
	m.await("lvx takes over from a dead keepalived", func() error {
		if ok, err := m.Has("b", VIP); err != nil || !ok {
			return fmt.Errorf("no VIP on b: %v", err)
		}
		return nil
	})
	m.stop(m.b)
}

// checkWire looks at the adverts of a priority that a has sent, from the IP
// header to the last byte. An empty wire demands only that there is one.
func (m *mixed) checkWire(priority byte, wire string, unicast bool) {
	m.t.Helper()
	isAdvert := func(f testenv.Frame) bool {
		b := f.Data
		return len(b) > 37 && b[12] == 8 && b[13] == 0 && b[23] == vrrpProtocol && b[36] == priority &&
			netip.AddrFrom4([4]byte(b[26:30])) == Addr("a")
	}
	// The others may have heard it before the capture was read.
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
	defer cancel()
	if _, err := m.sent.Wait(ctx, isAdvert); err != nil {
		m.t.Fatalf("a has sent no advert of priority %d: %v", priority, err)
	}
	frames, err := m.sent.Select(isAdvert)
	must(m.t, err)
	b := frames[len(frames)-1].Data
	ip := b[14:]
	mac, dst := m.Host("b").MAC("eth0"), Addr("b")
	if !unicast {
		mac, dst = []byte{1, 0, 0x5e, 0, 0, 0x12}, vrrp.Group4
	}
	if !slices.Equal(b[:6], mac) || netip.AddrFrom4([4]byte(ip[16:20])) != dst {
		m.t.Errorf("advert to % x, want MAC % x, address %s", b[:34], mac, dst)
	}
	if ip[0] != 0x45 || ip[1] != 0xc0 || ip[6]&0x40 != 0 || ip[8] != 255 {
		m.t.Errorf("IP header % x, want version and length 45, class c0, no DF, TTL 255", ip[:20])
	}
	if got := hex.EncodeToString(ip[20 : int(ip[2])<<8|int(ip[3])]); wire != "" && got != wire {
		m.t.Errorf("message %s\nwant    %s", got, wire)
	}
}
