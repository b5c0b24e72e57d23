package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// resolveTime is what new servers have before an edit is answered without
// them.
const resolveTime = 200 * time.Millisecond

// ErrRuntimeRefused says that the file allows no edits.
var ErrRuntimeRefused = errors.New("edits by ipvsadm are refused (runtime: refuse in the configuration)")

// Edit carries out commands of ipvsadm one after the other and brings them
// into force as one change, whose result is stored before it is answered. On
// error nothing has changed.
func (d *Director) Edit(ctx context.Context, commands []ipvsadm.Command) (r ipvsadm.Result, err error) {
	var added []netip.Addr
	uid := uidOf(ctx)
	var read marks
	if d.opt.Marks != nil && slices.ContainsFunc(commands, func(c ipvsadm.Command) bool { return c.Key.Mark != 0 }) {
		read = d.readMarks()
	}
	err = d.do(ctx, func(ctx context.Context) error {
		if read != nil {
			d.marks = read
		}
		if d.file.RuntimeEdits == config.RefuseEdits {
			return ErrRuntimeRefused
		}
		before := d.cfg
		r, err = d.edit(ctx, commands, uid)
		if err == nil && d.cfg != before {
			added = newServers(before, d.cfg)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	d.awaitServers(ctx, added)
	r.Notes = append(r.Notes, d.storeRuntime(ctx)...)
	return r, nil
}

func newServers(before, after *config.Config) []netip.Addr {
	all := unique{}
	for _, a := range servers(before) {
		all.add(a)
	}
	known := len(all.list)
	for _, a := range servers(after) {
		all.add(a)
	}
	return all.list[known:]
}

// awaitServers gives new servers a moment to be found and the backend their
// MACs, so that the first packet after a command meets them.
func (d *Director) awaitServers(ctx context.Context, added []netip.Addr) {
	if d.opt.Neigh == nil || len(added) == 0 {
		return
	}
	for end := time.Now().Add(resolveTime); !d.opt.Neigh.Resolved(added) && time.Now().Before(end); {
		select {
		case <-time.After(resolveTime / 20):
		case <-ctx.Done():
			return
		}
	}
	_ = d.Sync(ctx) // an error is in the status, and tried again
}

// storeRuntime waits for the disk. What it does not take in time is said.
func (d *Director) storeRuntime(ctx context.Context) (notes []string) {
	if d.notes.runtime == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, noteWriteTime)
	defer cancel()
	if d.notes.runtime.Wait(ctx) != nil || d.notes.overrides.Wait(ctx) != nil {
		return []string{"in force, but not stored: it will not survive a restart (see lvx status)"}
	}
	return nil
}

func (d *Director) edit(ctx context.Context, commands []ipvsadm.Command, uid *uint32) (r ipvsadm.Result, err error) {
	t := newRuntimeTable(d.file, &d.runtime)
	t.daemonsOfFile, t.noDaemons = d.daemonsOfFile()
	overrides := d.overrides
	var zeroed []string
	for _, c := range commands {
		service, real, isReal := t.touched(c)
		if c.Op == ipvsadm.Zero {
			zeroed = append(zeroed, t.namesOf(c.Key)...)
		}
		fail := t.do(c)
		if fail == nil && isReal {
			overrides = overrides.without(service, real, c.Key)
		}
		r.Failures = append(r.Failures, fail)
	}
	next := t.layer()
	if next.Zeroed, err = d.zeroCounters(t, zeroed); err != nil {
		return ipvsadm.Result{}, err
	}
	if reflect.DeepEqual(next, d.runtime) && len(overrides) == len(d.overrides) {
		return r, nil
	}
	return r, d.adoptRuntime(ctx, next, overrides, uid)
}

// adoptRuntime brings a layer into force, with the overrides that it leaves.
func (d *Director) adoptRuntime(ctx context.Context, next Runtime, overrides Overrides, uid *uint32) error {
	kept := d.overrides
	d.overrides = overrides
	if err := d.adoptConfig(ctx, next.merge(d.file, d.marks)); err != nil {
		d.overrides = kept
		return err
	}
	d.opt.Health.Set(Targets(d.cfg, d.opt.ProbeVIP))
	for _, o := range kept {
		if overrides.find(o.Service, o.Real) < 0 {
			d.history.Add(history.Event{
				Kind: history.Operator, Subject: RealName(o.Real) + " of " + o.Service, Text: o.String() + " ended by an edit of ipvsadm's", UID: uid,
			})
		}
	}
	changes := next.changesSince(&d.runtime)
	d.runtime = next
	d.runDaemons()
	d.log.Info("runtime layer changed", "services", len(next.Services), "patches", len(next.Patches))
	for _, c := range changes {
		d.history.Add(history.Event{Kind: history.Operator, Subject: c.service, Text: c.text, UID: uid})
	}
	if len(overrides) != len(kept) && d.notes.overrides != nil {
		_ = d.notes.overrides.Put(overrides) // plain values: they can be encoded
	}
	d.keepRuntime()
	return nil
}

// keepRuntime has the layer stored.
func (d *Director) keepRuntime() {
	switch {
	case d.notes.runtime == nil:
	case d.runtime.IsEmpty():
		d.notes.runtime.Clear()
	default:
		_ = d.notes.runtime.Put(d.runtime) // plain values: they can be encoded
	}
}

// without is o without what was decided about a real, which has the port that
// ipvsadm shows for the service's key.
func (o Overrides) without(service string, real netip.AddrPort, key ipvsadm.Key) Overrides {
	if len(o.of(service)) == 0 {
		return o
	}
	return slices.DeleteFunc(slices.Clone(o), func(v Override) bool {
		return v.Service == service && portOf(lb.Real{Addr: v.Real.Addr(), Port: v.Real.Port()}, key) == real
	})
}

// namesOf are the services that a key means: one, or all for none.
func (t *runtimeTable) namesOf(k ipvsadm.Key) (names []string) {
	for _, e := range t.Services {
		if k == (ipvsadm.Key{}) || e.Key == k {
			names = append(names, t.names[e])
		}
	}
	return names
}

// ClearRuntime forgets the layer: the file has its say again.
func (d *Director) ClearRuntime(ctx context.Context) (r Result, err error) {
	uid := uidOf(ctx)
	if err := d.do(ctx, func(ctx context.Context) error {
		if d.runtime.IsEmpty() {
			r.Did = []string{"ipvsadm has changed nothing"}
			return nil
		}
		r.Did = d.diff(d.file)
		return d.adoptRuntime(ctx, Runtime{}, d.overrides, uid)
	}); err != nil {
		return Result{}, err
	}
	for _, note := range d.storeRuntime(ctx) {
		r.Warning = note
	}
	return r, nil
}

// loadRuntime reads the layer of an earlier daemon.
func (d *Director) loadRuntime() {
	stored := readNote(d, runtimeFile, func(text []byte) (rt Runtime, err error) {
		err = jsonfile.Unmarshal(text, &rt)
		return rt, err
	})
	if stored.IsEmpty() {
		return
	}
	if d.file.RuntimeEdits == config.RefuseEdits {
		d.log.Warn("runtime layer not in force: the configuration refuses edits")
	}
	next, dropped := stored.rebase(d.file)
	d.noteDropped(dropped)
	d.runtime = next
	if d.opt.Marks != nil && next.hasMarks() {
		d.marks = d.readMarks()
	}
	d.cfg = next.merge(d.file, d.marks)
	d.runDaemons()
}

// startWithoutRuntime starts with what the file says, because why keeps what
// ipvsadm had changed from being served. If that is not what is wrong either, the
// layer is left alone.
func (d *Director) startWithoutRuntime(ctx context.Context, why error) error {
	layer := d.runtime
	d.runtime, d.cfg = Runtime{}, d.file
	d.leases.Store(nil)
	d.opt.Health.Set(Targets(d.cfg, d.opt.ProbeVIP))
	if d.adoptConfig(ctx, d.cfg) != nil {
		d.runtime = layer
		return why
	}
	d.runDaemons()
	path := filepath.Join(d.cfg.StateDir, runtimeFile)
	_, err := jsonfile.Within(noteReadTime, func() (none struct{}, err error) {
		return none, jsonfile.SetAside(path, fmt.Errorf("it cannot be served: %w", why))
	})
	d.warnNotRead(path, err)
	return nil
}

// noteDropped says which edits a file has made needless.
func (d *Director) noteDropped(services []string) {
	for _, name := range services {
		d.history.Add(history.Event{
			Kind: history.Reload, Subject: name, Text: "edit of ipvsadm's dropped: the file says it now, or has no such service any more",
		})
		d.log.Info("edit of ipvsadm's dropped: the file says it now, or has no such service any more", "service", name)
	}
}

// adoptFile makes a file that was read the running configuration, with the
// runtime layer on it as far as it still differs, and says what changes.
func (d *Director) adoptFile(ctx context.Context, file *config.Config) (did []string, err error) {
	next, dropped := d.runtime.rebase(file)
	cfg := next.merge(file, d.marks)
	did = d.diff(cfg)
	if err := d.adoptConfig(ctx, cfg); err != nil {
		return did, err
	}
	d.noteDropped(dropped)
	d.file = file
	if !reflect.DeepEqual(next, d.runtime) {
		d.runtime = next
		d.keepRuntime()
	}
	d.runDaemons()
	return did, nil
}
