package bgp

import (
	"strings"
	"testing"
	"time"
)

// What the configuration says of routes is on the wire, and a session that takes
// packets from the segment alone stands.
func TestAttributesAreSpoken(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, "ttl security on; bfd on; graceful restart aware;")
	med := uint32(50)
	d := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.MED, c.Communities, c.GracefulRestart = &med, []uint32{directorASN<<16 | 1, directorASN<<16 | 2}, 30*time.Second
		c.Peers[0].GTSM = true
		c.Peers[0].BFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
	})
	d.announce(Route{Addr: vip})
	l.eventually("announced", func() bool { return l.routes(vip) != "" })
	route := l.birdc("show", "route", "for", vip.String(), "all")
	for _, want := range []string{"BGP.med: 50", "(65010,1)", "(65010,2)", "BGP.as_path: 65010\n", "BGP.next_hop: 172.25.0.11\n"} {
		if !strings.Contains(route, want) {
			t.Errorf("the route has no %q:\n%s", want, route)
		}
	}
	session := l.birdc("show", "protocols", "all", "d1")
	_, neighbor, _ := strings.Cut(session, "Neighbor capabilities")
	if !strings.Contains(neighbor, "Restart time: 30") {
		t.Errorf("the director does not offer to restart gracefully within 30 s:\n%s", session)
	}
}
