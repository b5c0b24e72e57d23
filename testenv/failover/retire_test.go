package failover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A reload that takes a master's virtual router and its services away is a handover:
// the master serves until the other one has spoken.
func TestConnectionsSurviveARetirement(t *testing.T) {
	t.Parallel()
	body := syncedBody(t)
	p := newRealPair(t, v2second, body)
	p.awaitSync()
	conns := p.holdAll()
	p.awaitAcknowledged("a")

	sync, _, _ := strings.Cut(body, "services:")
	lvx := LVX{Self: self, Body: sync + "services: []\n"}
	must(t, os.WriteFile(filepath.Join(p.Host("a").Dir(), "lvx.yaml"), []byte(lvx.config(p.Host("a"), nil)), 0o600))
	_, err := lvx.Run(t.Context(), p.Host("a"), "reload")
	must(t, err)
	for end := time.Now().Add(p.dead()); time.Now().Before(end) && !t.Failed(); {
		p.checkAlive("while the other one takes over", conns)
	}
	p.await("b is master", func() error { return p.hasVIP("b") })
	p.checkAlive("behind the reload", conns)
}

// A start with a file that lacks a virtual router of the run before takes its VIPs off,
// before the data path forgets them.
func TestConnectionsSurviveAStartWithoutTheirRouter(t *testing.T) {
	t.Parallel()
	body := syncedBody(t)
	p := newRealPair(t, v3tenth, body)
	p.awaitSync()
	conns := p.holdAll()
	p.awaitAcknowledged("a")

	sync, _, _ := strings.Cut(body, "services:")
	lvx := LVX{Self: self, Body: sync + "services: []\n"}
	must(t, os.WriteFile(filepath.Join(p.Host("a").Dir(), "lvx.yaml"), []byte(lvx.config(p.Host("a"), nil)), 0o600))
	_, err := lvx.Run(t.Context(), p.Host("a"), "upgrade", self)
	must(t, err)
	p.await("b alone has the VIP", func() error { return p.Alone("b", "a", p.vip()) })
	p.checkAlive("behind the upgrade", conns)
}
