package failover

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// deadLinkShare is how much of a full run there is: LVX_LOAD=1 is 300 new
// connections a second beside 300 long ones, and a port that is dead for 30 s;
// CI runs a tenth of the load.
func deadLinkShare(full int) int {
	part, err := strconv.ParseFloat(os.Getenv("LVX_LOAD"), 64)
	if err != nil {
		part = 0.1
	}
	return max(1, int(part*float64(full)))
}

// minDead is many times what takes a real down that does not answer.
const minDead = 4 * time.Second

// The port of the master goes dead and comes back: the other one serves
// meanwhile, and the returning one takes the VIP only when its checks have
// answered since. No connection is lost, and new ones fail at most while the
// link is down and the other one has not taken over yet.
func TestFault20PortOfTheMasterDown(t *testing.T) {
	t.Parallel()
	dead := max(minDead, time.Duration(deadLinkShare(30))*time.Second)
	p := newRealPair(t, v3tenth, fmt.Sprintf(`sloppy_tcp: true
services:
  - name: web
    listen: ["%s:81/tcp"]
    scheduler: mh
    flags: [mh-port]
    check: {type: tcp, port: 81, interval: 300ms, timeout: 300ms, fall: 2, rise: 2}
    reals: [{address: %s}, {address: %s}]
  - name: ready
    listen: ["%[1]s:82/tcp"]
    reals: [{address: %[2]s}, {address: %[3]s}]
`, VIP, Addr("r1"), Addr("r2")))
	owner := func(host string) {
		t.Helper()
		p.await(host+" is master", func() error { return p.hasVIP(host) })
	}
	long := p.use(81, deadLinkShare(300))
	visits := p.visitEvery(81, time.Second/time.Duration(deadLinkShare(300)))
	p.awaitQuestions(long, 2)
	down := time.Now()
	must(t, p.Unplug("a", true))
	owner("b")
	taken := time.Now()
	time.Sleep(time.Until(down.Add(dead)))
	up := time.Now()
	must(t, p.Unplug("a", false))
	owner("a")
	back := time.Since(up)
	p.settle()
	p.awaitQuestions(long, 10)
	questions, broken := long.stop()
	total, lost := visits.stop()
	var wrong []visit
	for _, v := range lost {
		if v.began.After(taken) || v.ended.Before(down) {
			wrong = append(wrong, v)
		}
	}
	t.Logf("b master after %s, down for %s, a master again after %s; %d new connections (%.0f a second), %d failed while nobody could be reached, %d else: %v; %d questions on %d long ones, %d broke: %v",
		taken.Sub(down).Round(ms), up.Sub(down).Round(ms), back.Round(ms), total, float64(total)/time.Since(down).Seconds(),
		len(lost)-len(wrong), len(wrong), wrong, questions, deadLinkShare(300), len(broken), broken)
	if len(wrong) > 0 || len(broken) > 0 {
		t.Errorf("%d of %d new connections failed: %v; %d long ones broke: %v", len(wrong), total, wrong, len(broken), broken)
	}
	if total < deadLinkShare(300)*int(dead/time.Second)/3 || questions < deadLinkShare(300)*int(dead/time.Second)/3 {
		t.Errorf("next to no load: %d new connections, %d questions", total, questions)
	}
}

// allUp reports, as an error, which real of a director is not up.
func (p *pair) allUp(host string) error {
	out, err := p.program.(LVX).Run(p.t.Context(), p.Host(host), "status", "--json")
	if err != nil {
		return err
	}
	var st director.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return err
	}
	for _, s := range st.Services {
		for _, r := range s.Reals {
			if r.State != "up" {
				return fmt.Errorf("%s of %s is %s", r.Addr, s.Name, r.State)
			}
		}
	}
	return nil
}

// inUse is established connections on which a question is asked twice a
// second.
type inUse struct {
	end   chan struct{}
	wg    sync.WaitGroup
	conns int

	mu     sync.Mutex
	asked  int
	broken []string
}

// use opens connections and uses them until it is stopped.
func (p *pair) use(port, n int) *inUse {
	p.t.Helper()
	u := &inUse{end: make(chan struct{}), conns: n}
	for range n {
		conn, who, err := p.connect(port)
		must(p.t, err)
		u.wg.Go(func() {
			defer conn.Close()
			u.ask(held{conn, who})
		})
	}
	p.t.Cleanup(func() {
		select {
		case <-u.end:
		default:
			u.stop()
		}
	})
	return u
}

func (u *inUse) ask(h held) {
	tick := time.NewTicker(500 * ms)
	defer tick.Stop()
	for {
		who, err := rig.Ask(h.Conn)
		u.mu.Lock()
		u.asked++
		if err != nil || who != h.who {
			u.broken = append(u.broken, fmt.Sprintf("%s: %s, %v", h.who, who, err))
			u.mu.Unlock()
			return
		}
		u.mu.Unlock()
		select {
		case <-tick.C:
		case <-u.end:
			return
		}
	}
}

// awaitQuestions waits until so many more questions have been asked on each
// connection, or one has broken.
func (p *pair) awaitQuestions(u *inUse, each int) {
	p.t.Helper()
	begin, _ := u.count()
	p.await("connections are used", func() error {
		if now, broken := u.count(); broken == 0 && now < begin+each*u.conns {
			return fmt.Errorf("%d questions on %d connections, want %d", now-begin, u.conns, each*u.conns)
		}
		return nil
	})
}

func (u *inUse) count() (asked, broken int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked, len(u.broken)
}

func (u *inUse) stop() (questions int, broken []string) {
	close(u.end)
	u.wg.Wait()
	return u.asked, u.broken
}
