package failover

import (
	"testing"
	"time"
)

// An upgrade takes longer than the three adverts of 100 ms after which a master counts
// as dead: the one before it asks for patience, and no backup takes over.
func TestBackupsWaitForAnUpgrade(t *testing.T) {
	t.Parallel()
	for _, backup := range []Program{LVX{Self: self, Body: "services: []\n"}, Keepalived{}} {
		t.Run(backup.String(), func(t *testing.T) {
			t.Parallel()
			lvx := LVX{Self: self, Body: "services: []\n"}
			p := &pair{Segment: newSegment(t), setting: v3tenth, t: t, program: lvx}
			p.a = p.start("a", p.better)
			p.await("a has the VIP", func() error { return p.Alone("a", "b", p.vip()) })
			p.b = start(t, backup, p.Host("b"), p.worse)
			must(t, p.b.WaitOutput(t.Context(), "BACKUP")) // both programs say so
			p.probe(p.vip())
			p.settle()
			begin := time.Now()
			_, err := lvx.Run(t.Context(), p.Host("a"), "upgrade", self)
			must(t, err)
			p.settle()

			var gap, longest time.Duration
			asked := false
			adverts := p.adverts("a", begin)
			for i, f := range adverts {
				// Behind the headers of Ethernet and IPv4 (RFC 5798 section 5.1), in centiseconds.
				asked = asked || f.Data[34+4] == 0 && f.Data[34+5] == 100
				if i > 0 {
					gap = f.At.Sub(adverts[i-1].At)
				}
				longest = max(longest, gap)
			}
			r := p.measure(begin, 0)
			t.Logf("no advert for %s; %s", longest, r)
			if !asked {
				t.Error("no advert asked for patience")
			}
			if longest >= 3*time.Second {
				return // the backup was asked for no more
			}
			if r.changes != 0 {
				t.Error("the backup took over")
			}
			if most := slackLost + lostBy(r.paused); r.Lost > most {
				t.Errorf("%d probes lost, want at most %d", r.Lost, most)
			}
		})
	}
}
