package director

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
	"github.com/lvx-lb/lvx/pkg/notify"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

type fakeHealth struct {
	mu      sync.Mutex
	targets []health.Target
	status  map[health.Target]health.Status
	events  chan health.Event
}

func newFakeHealth() *fakeHealth {
	return &fakeHealth{status: map[health.Target]health.Status{}, events: make(chan health.Event, 1024)}
}

func (f *fakeHealth) Set(ts []health.Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets = ts
	for t := range f.status {
		if !slices.Contains(ts, t) {
			delete(f.status, t)
		}
	}
}

func (f *fakeHealth) Restore(known map[health.Target]health.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t, s := range known {
		f.status[t] = s
	}
}

func (f *fakeHealth) Snapshot() map[health.Target]health.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := map[health.Target]health.Status{}
	for t, s := range f.status {
		m[t] = s
	}
	return m
}

func (f *fakeHealth) Events() <-chan health.Event { return f.events }

// result is a check of the n-th real that ended, for every question about
// it.
func (f *fakeHealth) result(n int, up bool, reason string) {
	f.mu.Lock()
	var es []health.Event
	for _, t := range f.targets {
		if t.Real == server(n) {
			e := health.Event{Target: t, Old: f.status[t], New: health.Status{Known: true, Up: up, Reason: reason}}
			f.status[t] = e.New
			es = append(es, e)
		}
	}
	f.mu.Unlock()
	for _, e := range es {
		f.events <- e
	}
}

type fakeVRRP struct {
	mu      sync.Mutex
	set     [][]vrrp.Instance
	fail    string // name of an instance that is refused
	roles   map[string]vrrp.Role
	tracked []string // "web true", as told
	events  chan vrrp.Event
	onSet   func([]vrrp.Instance)
}

func newFakeVRRP() *fakeVRRP {
	return &fakeVRRP{roles: map[string]vrrp.Role{}, events: make(chan vrrp.Event, 16)}
}

func (f *fakeVRRP) Set(is []vrrp.Instance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range is {
		if i.Name == f.fail {
			return errors.New("no such interface")
		}
	}
	f.set = append(f.set, is)
	if f.onSet != nil {
		f.onSet(is)
	}
	return nil
}

func (f *fakeVRRP) SetTracked(service string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tracked = append(f.tracked, service+" "+upDown(ok))
}

func (f *fakeVRRP) Status() []vrrp.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []vrrp.Status
	for name, r := range f.roles {
		all = append(all, vrrp.Status{Instance: name, Role: r, Why: "because", Peers: []vrrp.Peer{{Addr: server(8)}}})
	}
	return all
}

func (f *fakeVRRP) Events() <-chan vrrp.Event { return f.events }

func (f *fakeVRRP) become(name string, r vrrp.Role) {
	f.mu.Lock()
	old := f.roles[name]
	f.roles[name] = r
	f.mu.Unlock()
	f.events <- vrrp.Event{Instance: name, Old: old, New: r, Why: "because"}
}

type fakeVIPs struct {
	mu   sync.Mutex
	held []netip.Addr
	last []HeldVIP
	err  error

	onKeep func(vips map[netip.Addr]bool)
}

func (f *fakeVIPs) Keep(vips map[netip.Addr]bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = slices.DeleteFunc(f.held, func(a netip.Addr) bool { return !vips[a] })
	if f.onKeep != nil {
		f.onKeep(vips)
	}
	return nil
}

func (f *fakeVIPs) Hold(_ []string, vips []HeldVIP) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.held, f.last = nil, slices.Clone(vips)
	for _, v := range vips {
		f.held = append(f.held, v.Addr)
	}
	return nil
}

func (f *fakeVIPs) now() []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

type fakeNeigh struct {
	mu            sync.Mutex
	reals, avoids []netip.Addr
	bound         map[netip.Addr][6]byte
	silent        bool // nobody answers
	blind         bool // the routes are not known yet
	self          netip.Addr
	changed       chan struct{}
}

func (f *fakeNeigh) Resolved(servers []netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range servers {
		if f.silent || !slices.Contains(f.reals, s) {
			return false
		}
	}
	return true
}

func (f *fakeNeigh) Bind(macs map[netip.Addr][6]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bound = macs
}

func (f *fakeNeigh) Watch(reals []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reals = reals
}

func (f *fakeNeigh) watched() []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reals
}

func (f *fakeNeigh) hush(silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = silent
}

func (f *fakeNeigh) Avoid(vips []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.avoids = vips
}

func (f *fakeNeigh) Local(a netip.Addr) (is, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return a == f.self, !f.blind
}

func (f *fakeNeigh) Changed() <-chan struct{} { return f.changed }

type fakeSilent struct {
	mu    sync.Mutex
	calls [][]SilentVIP
	err   error
}

// fail makes Serve fail from now on; nil ends that.
func (f *fakeSilent) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeSilent) Serve(vips []SilentVIP) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, vips)
	return f.err
}

type fakeNotify struct {
	mu  sync.Mutex
	got []string
}

func (f *fakeNotify) Counters() notify.Counters { return notify.Counters{Delivered: 5, Failed: 1} }

func (f *fakeNotify) Notify(e notify.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, line(e))
}

// take gives what was notified since the last time.
func (f *fakeNotify) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.got
	f.got = nil
	return got
}

// rig is a running director with fakes all around it, inside of a synctest
// bubble.
type rig struct {
	*testing.T
	*Director
	backend *lbtest.Fake
	health  *fakeHealth
	vrrp    *fakeVRRP
	vips    *fakeVIPs
	notify  *fakeNotify
	neigh   *fakeNeigh
	silence *fakeSilent
	routes  *fakeRoutes    // used with bgp:
	next    *config.Config // what a reload reads
	loadErr error
}

// inBubble runs f with a rig for cfg, whose reals have passed no check yet.
func inBubble(t *testing.T, cfg *config.Config, f func(*testing.T, *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		r.runDuring(t, func() { f(t, r) })
		if _, err := r.Reload(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("reload after the end: %v", err)
		}
	})
}

// runDuring runs the director while f does.
func (r *rig) runDuring(t *testing.T, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	res := make(chan error, 1)
	go func() { res <- r.Director.Run(ctx) }()
	<-r.Ready()
	f()
	cancel()
	if err := <-res; err != nil {
		t.Errorf("run: %v", err)
	}
}

func newRig(t *testing.T, cfg *config.Config) *rig {
	r := &rig{
		T: t, backend: lbtest.NewFake(), health: newFakeHealth(), vrrp: newFakeVRRP(),
		vips: &fakeVIPs{}, notify: &fakeNotify{}, neigh: &fakeNeigh{changed: make(chan struct{}, 1)}, next: cfg,
		silence: &fakeSilent{}, routes: &fakeRoutes{},
	}
	o := Options{
		Config: cfg, Load: func() (*config.Config, error) {
			if r.reloading.TryLock() {
				r.reloading.Unlock()
				t.Error("the file may be read by two at a time")
			}
			return r.next, r.loadErr
		},
		Backend: r.backend, Health: r.health, VRRP: r.vrrp, VIPs: r.vips,
		Notify: r.notify, Neigh: r.neigh, Silent: r.silence, Version: "test",
	}
	if cfg.BGP.IsEnabled() {
		o.Routes = r.routes
	}
	r.Director = New(o)
	return r
}

// state is the state applied last, once all is quiet.
func (r *rig) state() lb.State {
	r.Helper()
	synctest.Wait()
	applied := r.backend.Applied()
	if len(applied) == 0 {
		r.Fatal("nothing was applied")
	}
	return applied[len(applied)-1]
}

func (r *rig) want(what, want string) {
	r.Helper()
	if got := held(r.state()); got != want {
		r.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// busyWith calls f while the director is busy: what f tells is all there when the next
// plan is made.
func (r *rig) busyWith(f func()) {
	r.Helper()
	if err := r.do(r.Context(), func(context.Context) error { f(); return nil }); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) notified(want ...string) {
	r.Helper()
	synctest.Wait()
	if got := r.notify.take(); !slices.Equal(got, want) {
		r.Errorf("notified\n got %q\nwant %q", got, want)
	}
}
