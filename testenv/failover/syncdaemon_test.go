package failover

import (
	"fmt"
	"strings"
	"testing"
)

// unsyncedBody has services and no sync:.
func unsyncedBody(t *testing.T) string {
	t.Helper()
	_, services, _ := strings.Cut(syncedBody(t), "\n")
	return services
}

// Daemons of connection sync that ipvsadm starts carry connections as those of
// kernel IPVS do: the backup goes on with what the master told of.
func TestStartedDaemonsShareConnections(t *testing.T) {
	t.Parallel()
	p := newRealPair(t, v3tenth, unsyncedBody(t))
	ipvsadm := func(host string, args ...string) string {
		t.Helper()
		h := p.Host(host)
		out, err := h.Run(t.Context(), append([]string{"env", "LVX_SOCKET=" + socket(h), self, "ipvsadm"}, args...)...)
		must(t, err)
		return out
	}
	ipvsadm("b", "--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", "9")
	ipvsadm("a", "--start-daemon", "master", "--mcast-interface", "eth0", "--syncid", "9")
	const want = "master sync daemon (mcast=eth0, syncid=9, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"
	if got := ipvsadm("a", "-L", "--daemon"); got != want {
		t.Errorf("listed %q (%q)", got, want)
	}
	conns := p.holdAll()
	p.await("b has what a told of", func() error {
		out, err := LVX{Self: self}.Run(t.Context(), p.Host("b"), "list", "-nc")
		established := strings.Count(out, " ESTABLISHED ")
		if err == nil && (established < len(synced)*connections || strings.Count(out, " sync\n") < established) {
			err = fmt.Errorf("%d connections of %d:\n%s", established, len(synced)*connections, out)
		}
		return err
	})
	pushed, err := LVX{Self: self}.Run(t.Context(), p.Host("a"), "sync", "push")
	if n := 0; err != nil {
		t.Error(err)
	} else if _, err := fmt.Sscanf(pushed, "%d connections sent", &n); err != nil || n < len(synced)*connections {
		t.Errorf("lvx sync push of %d connections: %q", len(synced)*connections, pushed)
	}
	p.a.Kill()
	p.await("b is master", func() error { return p.hasVIP("b") })
	p.checkAlive("after kill -9", conns)
	ipvsadm("b", "--stop-daemon", "backup")
	if got := ipvsadm("b", "-L", "--daemon"); got != "" {
		t.Errorf("listed %q", got)
	}
}
