package failover

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// schedulers are listened for on a port each. Only the hashes choose the same
// real on both directors.
var schedulers = []struct {
	name, flags string
	port        int
	survives    bool
}{
	{"sh", "sh-port", 80, true},
	{"mh", "mh-port", 81, true},
	{"rr", "", 82, false},
	{"wrr", "", 83, false},
}

func balancing() string {
	var b strings.Builder
	b.WriteString("sloppy_tcp: true\nservices:\n")
	for _, s := range schedulers {
		fmt.Fprintf(&b, "  - name: %s\n    listen: [%q]\n    scheduler: %s\n    flags: [%s]\n    reals:\n", s.name, fmt.Sprintf("%s:%d/tcp", VIP, s.port), s.name, s.flags)
		for _, r := range []string{"r1", "r2"} {
			fmt.Fprintf(&b, "      - {address: %s}\n", Addr(r))
		}
	}
	return b.String()
}

// newBalancingPair is a pair of directors with real servers behind them.
func newBalancingPair(t *testing.T, s setting) *pair {
	t.Helper()
	return newRealPair(t, s, balancing())
}

// newRealPair is a pair of directors whose configuration says body, with real
// servers behind them that listen on ports 80 to 83.
func newRealPair(t *testing.T, s setting, body string) *pair {
	t.Helper()
	p := newPair(t, LVX{Self: self, Body: body}, s)
	for _, name := range []string{"r1", "r2"} {
		h := p.Host(name)
		_, err := h.Run(t.Context(), self, "real", "up", "--vip", p.vip().String(), "--interface", "eth0", "--state", filepath.Join(h.Dir(), "real.json"))
		must(t, err)
		_, err = h.ServeWeb(":80", ":81", ":82", ":83")
		must(t, err)
	}
	for _, host := range []string{"a", "b"} { // whichever comes to serve
		p.await("both reals are up for "+host, func() error { return p.allUp(host) })
	}
	return p
}

// connect opens a connection and asks once.
func (p *pair) connect(port int) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	conn, err := p.Host("c").Dial(ctx, "tcp", netip.AddrPortFrom(p.vip(), uint16(port)).String())
	if err != nil {
		return nil, "", err
	}
	who, err := rig.Ask(conn)
	return conn, who, err
}

// held is an established connection and the real that it is with.
type held struct {
	net.Conn
	who string
}

const connections = 20 // of each scheduler

func (p *pair) hold(port int) (all []held) {
	p.t.Helper()
	for range connections {
		conn, who, err := p.connect(port)
		must(p.t, err)
		p.t.Cleanup(func() { _ = conn.Close() })
		all = append(all, held{conn, who})
	}
	return all
}

// alive counts the connections that still get an answer, from whom they did
// before. They ask in any order: a rotation must not fit by chance.
func alive(all []held) (n int) {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, h := range all {
		if who, err := rig.Ask(h.Conn); err == nil && who == h.who {
			n++
		}
	}
	return n
}

// Established connections go on through kill -9 of the master and through
// its return.
func TestConnectionsSurvive(t *testing.T) {
	t.Parallel()
	p := newBalancingPair(t, v3tenth)
	conns := map[string][]held{}
	for _, s := range schedulers {
		conns[s.name] = p.hold(s.port)
	}
	visits := p.visit(80)
	downloads := map[string]*download{"sh": p.download(80), "mh": p.download(81)}
	check := func(what string) {
		t.Helper()
		for _, s := range schedulers {
			n := alive(conns[s.name])
			t.Logf("%s: %d of %d connections of %s live", what, n, connections, s.name)
			if s.survives && n != connections {
				t.Errorf("%s: %d of %d connections of %s live", what, n, connections, s.name)
			}
		}
	}
	p.a.Kill()
	p.await("b is master", func() error {
		if ok, err := p.Has("b", VIP); err != nil || !ok {
			return fmt.Errorf("no VIP on b: %v", err)
		}
		return nil
	})
	time.Sleep(time.Second) // a is silent by now
	check("after kill -9")
	for _, s := range schedulers { // fresh ones for the return
		conns[s.name] = p.hold(s.port)
	}
	p.a = p.start("a", p.better)
	p.settle()
	check("after the return")
	if total, lost := visits.stop(); len(lost) > slackLost {
		t.Errorf("%d of %d new connections failed: %v", len(lost), total, lost)
	} else {
		t.Logf("%d of %d new connections failed: %v", len(lost), total, lost)
	}
	for name, d := range downloads {
		if err := d.wait(); err != nil {
			t.Errorf("download by %s: %v", name, err)
		}
		t.Logf("download by %s: longest stall %s", name, d.stall.Round(ms))
	}
}

// patient is a pair whose backup does not miss a master for nine seconds: a restart
// on a busy machine takes seconds.
var patient = setting{"v2, 3 s", router(2, 3*time.Second, 150), router(2, 3*time.Second, 100)}

// A connection goes on through a restart of the daemon that is over before
// anybody has missed it: with every scheduler, for the flows are kept.
func TestConnectionsSurviveRestart(t *testing.T) {
	t.Parallel()
	p := newBalancingPair(t, patient)
	conns := map[string][]held{}
	for _, s := range schedulers {
		conns[s.name] = p.hold(s.port)
	}
	d := p.download(82)
	begin := time.Now()
	p.a.Kill()
	p.a = p.start("a", p.better)
	must(t, p.a.WaitOutput(t.Context(), "to=MASTER"))
	back := time.Since(begin)
	for _, s := range schedulers {
		if n := alive(conns[s.name]); n != connections {
			t.Errorf("after a restart: %d of %d connections of %s live", n, connections, s.name)
		}
	}
	if err := d.wait(); err != nil {
		t.Errorf("download: %v", err)
	}
	r := p.measure(begin, 3*time.Second)
	t.Logf("master again after %s; %s; longest stall of a download %s", back.Round(ms), r, d.stall.Round(ms))
	if r.changes != 0 {
		t.Errorf("b took over from a master that was back after %s", back)
	}
}

// visitor opens a connection now and then, asks once and closes it.
type visitor struct {
	end   chan struct{}
	wg    sync.WaitGroup
	total int
	mu    sync.Mutex
	lost  []visit
}

// visit is a connection that was lost.
type visit struct {
	began, ended time.Time
	why          string
}

// String implements [fmt.Stringer].
func (v visit) String() string { return v.why }

// visit begins to open connections; one that is reset, or not answered within
// seconds, is lost.
func (p *pair) visit(port int) *visitor { return p.visitEvery(port, 20*ms) }

func (p *pair) visitEvery(port int, interval time.Duration) *visitor {
	v := &visitor{end: make(chan struct{})}
	v.wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-v.end:
				return
			case <-tick.C:
			}
			v.total++
			v.wg.Go(func() {
				began := time.Now()
				conn, _, err := p.connect(port)
				if conn != nil {
					_ = conn.Close()
				}
				if err != nil {
					v.mu.Lock()
					defer v.mu.Unlock()
					v.lost = append(v.lost, visit{began, time.Now(), rig.Brief(err)})
				}
			})
		}
	})
	return v
}

func (v *visitor) stop() (total int, lost []visit) {
	close(v.end)
	v.wg.Wait()
	return v.total, v.lost
}

// download is a long transfer, read slowly.
type download struct {
	done  chan error
	stall time.Duration // the longest time without a byte
}

const (
	downloadSize = 100 << 20
	readEvery    = 40 * ms
	readSize     = 1 << 20 // so it takes four seconds
)

// download begins one; it fails the test if it cannot.
func (p *pair) download(port int) *download {
	p.t.Helper()
	conn, _, err := p.connect(port)
	must(p.t, err)
	_, err = fmt.Fprintf(conn, "GET /bytes/%d HTTP/1.1\r\nHost: vip\r\n\r\n", downloadSize)
	must(p.t, err)
	d := &download{done: make(chan error, 1)}
	go func() {
		defer conn.Close()
		d.done <- d.read(conn)
	}()
	return d
}

func (d *download) read(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	for left := int64(downloadSize); left > 0; left -= readSize {
		begin := time.Now()
		if n, err := io.CopyN(io.Discard, resp.Body, min(readSize, left)); err != nil {
			return fmt.Errorf("%d bytes before the end: %w", left-n, err)
		}
		d.stall = max(d.stall, time.Since(begin))
		time.Sleep(readEvery)
	}
	return nil
}

func (d *download) wait() error {
	select {
	case err := <-d.done:
		return err
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("no end")
	}
}
