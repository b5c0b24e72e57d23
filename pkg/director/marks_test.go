package director

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// fakeMarks is a firewall's rules.
type fakeMarks struct {
	mu  sync.Mutex
	now []lb.MarkRules
}

func (f *fakeMarks) Marks() ([]lb.MarkRules, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now, nil
}

func (f *fakeMarks) set(now ...lb.MarkRules) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

func listenAt(port uint16) lb.Listener {
	return lb.Listener{Addr: vip, Proto: lb.TCP, First: port, Last: port}
}

// Services by mark listen where the firewall's rules set the mark, and follow
// them; also over a restart.
func TestRuntimeMarks(t *testing.T) {
	firewall := &fakeMarks{}
	firewall.set(lb.MarkRules{Mark: 10, Listeners: []lb.Listener{listenAt(80), listenAt(443)}, Origins: []string{"rule 1", "rule 2"}})
	dir := t.TempDir()
	withMarks(t, firewall, func(r *rig, listeners, origin func() string) {
		r.edit("-A -f 10 -s rr\n-a -f 10 -r 10.0.0.21")
		if got := listeners(); got != "[10.0.0.100:443/tcp]" { // 80 is the file's
			t.Errorf("listeners %s", got)
		}
		if got := origin(); got != "added by ipvsadm; 10.0.0.100:80/tcp: another service's, or of the other family; 10.0.0.100:443/tcp: rule 2" {
			t.Errorf("origin %q", got)
		}
		firewall.set(lb.MarkRules{Mark: 10, Listeners: []lb.Listener{listenAt(8080)}, Origins: []string{"rule 3"}})
		time.Sleep(markInterval)
		if got := listeners(); got != "[10.0.0.100:8080/tcp]" {
			t.Errorf("the rules have changed: listeners %s", got)
		}
	}, dir)
	withMarks(t, firewall, func(_ *rig, listeners, origin func() string) {
		if got := listeners(); got != "[10.0.0.100:8080/tcp]" {
			t.Errorf("restarted: listeners %s", got)
		}
		firewall.set(lb.MarkRules{Mark: 10, Listeners: []lb.Listener{listenAt(8080)}, Origins: []string{"rule 3"}, Condition: "rule 4: the source"})
		time.Sleep(markInterval)
		if got := listeners(); got != "[]rule 4: the source" {
			t.Errorf("a condition: listeners %s", got)
		}
		firewall.set()
		time.Sleep(markInterval)
		if got := origin(); got != "added by ipvsadm; no rule of the firewall sets mark 10" {
			t.Errorf("no rules: %q", got)
		}
	}, dir)
}

// withMarks runs a director of one service in the file and the mark 10.
func withMarks(t *testing.T, firewall Marks, f func(r *rig, listeners, origin func() string), stateDir string) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configOf(service("web", 1))
		cfg.StateDir = stateDir
		r := newRig(t, cfg)
		r.Director.opt.Marks = firewall
		ctx, cancel := context.WithCancel(t.Context())
		res := make(chan error, 1)
		go func() { res <- r.Director.Run(ctx) }()
		<-r.Ready()
		f(r, func() string {
			s, _ := r.state().Service("mark-10")
			return fmt.Sprint(s.Listeners, s.Condition)
		}, func() string {
			synctest.Wait()
			st, err := r.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return st.Services[1].Runtime
		})
		cancel()
		if err := <-res; err != nil {
			t.Error(err)
		}
	})
}
