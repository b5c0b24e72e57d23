package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	vips "github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// recorder notes callbacks and what the interface had at that moment.
type recorder struct {
	t     *testing.T
	index int
	calls []string
	fail  error
}

func (r *recorder) note(what string) {
	vips := slices.DeleteFunc(v4of(r.t, r.index), func(p netip.Prefix) bool { return p.Addr() == addrA })
	r.calls = append(r.calls, fmt.Sprintf("%s %d", what, len(vips)))
}

func (r *recorder) Announce(iface string, addrs []netip.Addr) { r.note("announce " + iface) }

func (r *recorder) Withdraw(iface string, addrs []netip.Addr) {
	r.note(fmt.Sprintf("withdraw %d of", len(addrs)))
}

func (r *recorder) options() *Options {
	return &Options{
		Announcer:  r,
		Activate:   func(string) error { r.note("activate"); return r.fail },
		Yield:      func(string) { r.note("yield") },
		Deactivate: func(string) { r.note("deactivate") },
		Lease:      func(_ string, d time.Duration) { r.note("lease " + d.String()) },
	}
}

func (r *recorder) want(calls ...string) {
	r.t.Helper()
	if !slices.Equal(r.calls, calls) {
		r.t.Errorf("calls %q, want %q", r.calls, calls)
	}
	r.calls = nil
}

// withWorker gives f a worker on an interface with address 10.99.0.1.
func withWorker(t *testing.T, f func(w *worker, r *recorder, j job)) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		if _, err := vips.Add(index, prefixes("10.99.0.1/24")); err != nil {
			t.Error(err)
		}
		r := &recorder{t: t, index: index}
		w := newWorker(r.options(), func(gen uint64, added int, err error) {
			r.note(fmt.Sprintf("done %d added %d error %v, with", gen, added, err))
		})
		j := job{cfg: sample(func(i *Instance) { i.Addresses = prefixes("10.99.0.100/24", "10.99.0.101/24") })}
		f(w, r, j.at(index))
	})
}

// at places the VIPs of a job on eth0.
func (j job) at(index int) job {
	j.places = []place{{Place{"eth0", j.cfg.Addresses}, index}}
	return j
}

func (j job) with(gen uint64, serve bool, edit func(*job)) job {
	j.gen, j.serve = gen, serve
	if edit != nil {
		edit(&j)
	}
	return j
}

// The data path is ready before the VIPs attract traffic and silent only
// after they have gone; others are told what is known here while it serves.
func TestWorkerKeepsTheOrder(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		w.doJob(j.with(1, true, nil))
		r.want("activate 0", "done 1 added 2 error <nil>, with 2")
		w.doJob(j.with(2, true, nil))
		r.want("activate 2", "done 2 added 0 error <nil>, with 2")
		w.doJob(j.with(3, false, nil))
		r.want("withdraw 2 of 2", "yield 2", "deactivate 0", "lease 0s 0", "done 3 added 0 error <nil>, with 0")
		w.doJob(j.with(4, false, nil))
		r.want("deactivate 0", "lease 0s 0", "done 4 added 0 error <nil>, with 0")
	})
}

func TestWorkerWithoutDataPath(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		r.fail = errors.New("no data path")
		w.doJob(j.with(1, true, nil))
		r.want("activate 0", "done 1 added 0 error no data path, with 0")
	})
}

func TestWorkerChangesVIPs(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		w.doJob(j.with(1, true, nil))
		w.doJob(j.with(2, true, func(j *job) {
			j.cfg.Addresses = prefixes("10.99.0.101/24", "10.99.0.102/24")
			*j = j.at(r.index)
		}))
		wantAddrs(t, r.index, "10.99.0.1/24", "10.99.0.101/24", "10.99.0.102/24")
		if !slices.Contains(r.calls, "withdraw 1 of 2") {
			t.Errorf("calls %q, want the VIP that goes withdrawn first", r.calls)
		}
	})
}

func TestWorkerSparesWhatOthersNeed(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		w.doJob(j.with(1, true, nil))
		w.doJob(j.with(2, false, func(j *job) { j.keep = map[string][]netip.Prefix{"eth0": prefixes("10.99.0.101/32")} }))
		wantAddrs(t, r.index, "10.99.0.1/24", "10.99.0.101/24")
	})
}

// VIPs of a run that was killed go when the role is backup.
func TestWorkerClearsLeftovers(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		if _, err := vips.Add(r.index, prefixes("10.99.0.101/32")); err != nil {
			t.Error(err)
		}
		w.doJob(j.with(1, false, nil))
		wantAddrs(t, r.index, "10.99.0.1/24")
	})
}

// An address owner's own address is never taken away.
func TestWorkerLeavesTheOwnersAddress(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		if _, err := vips.Add(r.index, prefixes("10.99.0.100/24")); err != nil {
			t.Error(err)
		}
		j.cfg.Priority = 255
		w.doJob(j.with(1, true, nil))
		w.doJob(j.with(2, false, nil))
		wantAddrs(t, r.index, "10.99.0.1/24", "10.99.0.100/24")
	})
}

// A handover lingers, unless mastership has come back meanwhile.
func TestWorkerLingers(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		w.doJob(j.with(1, true, nil))
		r.calls = nil
		back := j.with(3, true, nil)
		w.setJob(back)
		w.doJob(j.with(2, false, func(j *job) { j.linger = true }))
		r.want("withdraw 2 of 2", "yield 2")
		wantAddrs(t, r.index, "10.99.0.1/24", "10.99.0.100/24", "10.99.0.101/24")
		w.next = nil
		w.doJob(j.with(4, false, func(j *job) { j.linger = true }))
		r.want("withdraw 2 of 2", "yield 2", "deactivate 0", "lease 0s 0", "done 4 added 0 error <nil>, with 0")
	})
}

// Of several wishes the last one counts, and an announcement is made only
// while serving.
func TestWorkerRun(t *testing.T) {
	var calls []string
	w := newWorker(&Options{
		Activate:  func(string) error { calls = append(calls, "activate"); return errors.New("stop here") },
		Announcer: announcer(func() { calls = append(calls, "announce") }),
	}, func(gen uint64, _ int, _ error) { calls = append(calls, fmt.Sprint("done ", gen)) })
	w.setJob(job{gen: 1, serve: true})
	w.setJob(job{gen: 2, serve: true})
	w.askAnnounce()
	w.close()
	w.run()
	if want := []string{"activate", "done 2"}; !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
	calls = nil
	w = newWorker(w.opts, w.done)
	w.serving, w.owned = true, job{cfg: sample(nil)}.at(1).places
	w.askAnnounce()
	w.close()
	w.run()
	if want := []string{"announce"}; !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

type announcer func()

func (a announcer) Announce(string, []netip.Addr) { a() }
func (a announcer) Withdraw(string, []netip.Addr) {}
