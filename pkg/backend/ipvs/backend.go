package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"

	"github.com/cloudflare/ipvs"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Options of a [Backend].
type Options struct {
	Log      *slog.Logger // nil: the default logger
	StateDir string       // where the ledger is kept; made if missing
	Boot     string       // the kernel's boot_id: what is remembered of another boot's kernel is not believed; "" is not known
	Report   func(error)  // hears when the ledger cannot be used, and nil when it can be again; nil: the log does
	Table    string       // name of the nftables table; "" is "lvx"
}

// Backend is the lb.Backend on kernel IPVS of one network namespace, the one
// of the thread that calls it. See [lb.Backend] for what its methods promise.
type Backend struct {
	log      *slog.Logger
	kernel   tables
	firewall firewall
	knobs    knobs
	conns    func() (io.ReadCloser, error)

	ledger ledger
	books  *bookkeeper
	plan   plan // as applied last
	closed bool
}

var _ lb.Backend = (*Backend)(nil)

// Open connects to the kernel, loading the module if it has to, and reads
// what an earlier backend left. It changes nothing else before the first
// Apply.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Table == "" {
		o.Table = "lvx"
	}
	if o.StateDir == "" {
		return nil, errors.New("IPVS backend: no state directory")
	}
	client, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return newBackend(o, client, newNftables(o.Table), procKnobs{}, openConnections), nil
}

func newBackend(o Options, t tables, f firewall, k knobs, conns func() (io.ReadCloser, error)) *Backend {
	if o.Report == nil {
		o.Report = func(err error) {
			if err != nil {
				o.Log.Warn("ledger of the kernel's IPVS", "component", "ipvs", "err", err)
			}
		}
	}
	return &Backend{
		log: o.Log.With("component", "ipvs"), ledger: readLedger(o.StateDir, o.Boot, o.Report), books: newBookkeeper(o.StateDir, o.Report),
		kernel: t, firewall: f, knobs: k, conns: conns,
	}
}

// Apply makes the kernel hold s. Each service fails or succeeds by itself.
func (b *Backend) Apply(ctx context.Context, s lb.State) error {
	if b.closed {
		return errors.New("IPVS backend is closed")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	failed := wrong(s, b.ledger.Marks)
	p := newPlan(s, b.plan.state, failed, b.ledger.Marks)
	strange := b.claim(p)
	if err := b.prepare(p); err != nil {
		return err
	}
	// New services come before the marks that lead to them, and marks go
	// before the services they led to.
	removals, err := b.install(p, strange, failed)
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		p = newPlan(s, b.plan.state, failed, b.ledger.Marks)
	}
	errs := slices.Collect(maps.Values(failed))
	if err := b.firewall.Set(p.rules); err != nil {
		errs = append(errs, fmt.Errorf("nftables: %w", err))
	}
	errs = append(errs, removals(), b.removeOthers(p))
	b.plan, b.ledger.Marks = p, p.marks
	return errors.Join(append(errs, b.books.put(b.ledger))...)
}

// claim makes the services of the plan ours in the ledger, and lists those
// that were not before.
func (b *Backend) claim(p plan) (strange map[key]bool) {
	strange = map[key]bool{}
	for _, v := range p.virtuals {
		k := keyOf(v.svc)
		strange[k] = !b.ledger.owns(k)
		b.ledger.add(k, v.name)
	}
	b.ledger.Marks = p.marks
	return strange
}

// prepare writes the ledger, then sysctls and timeouts.
func (b *Backend) prepare(p plan) error {
	now, err := b.kernel.Config()
	if err != nil {
		return fmt.Errorf("timeouts: %w", err)
	}
	if b.ledger.Timeouts == nil {
		b.ledger.Timeouts = &now
	}
	values := map[string]string{}
	for name := range p.sysctls {
		value, err := b.knobs.Get(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // built without it: nothing to switch
		}
		if err != nil {
			return fmt.Errorf("sysctl net/%s: %w", name, err)
		}
		values[name] = value
		if _, known := b.ledger.Sysctls[name]; !known {
			b.ledger.Sysctls[name] = value
		}
	}
	if err := b.books.put(b.ledger); err != nil {
		return err
	}
	for name, value := range values {
		if value == p.sysctls[name] {
			continue
		}
		if err := b.knobs.Set(name, p.sysctls[name]); err != nil {
			return fmt.Errorf("sysctl net/%s: %w", name, err)
		}
	}
	for name := range b.ledger.Sysctls {
		if _, wanted := p.sysctls[name]; !wanted {
			if err := b.restoreKnob(name); err != nil {
				return err
			}
		}
	}
	if now != p.timeouts {
		if err := b.kernel.SetConfig(p.timeouts); err != nil {
			return fmt.Errorf("timeouts: %w", err)
		}
	}
	return nil
}

func (b *Backend) restoreKnob(name string) error {
	if err := b.knobs.Set(name, b.ledger.Sysctls[name]); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sysctl net/%s: %w", name, err)
	}
	delete(b.ledger.Sysctls, name)
	return nil
}

// install makes every wanted service and real be there, in order; services
// that could not be made join failed. What is to be removed from services
// that stay is left to the returned function: the kernel ends the connections
// of removed reals from a work queue a moment later, and would take those of
// a real that is being moved with them.
func (b *Backend) install(p plan, strange map[key]bool, failed map[string]error) (removals func() error, err error) {
	have, err := b.have()
	if err != nil {
		return nil, err
	}
	lull := lull{knobs: b.knobs}
	var later []func() error
	for _, v := range p.virtuals {
		k := keyOf(v.svc)
		if _, there := have[k]; there && strange[k] {
			b.log.Warn("service was in the kernel already and is lvx's from now on", "service", v.name, "kernel", k.String())
		}
		todo, err := b.reconcile(v, have, &lull)
		if err != nil {
			failed[v.name] = errors.Join(failed[v.name], fmt.Errorf("service %s (%s): %w", v.name, k, explainErr(err, v)))
		}
		for _, s := range todo {
			later = append(later, func() error { return b.do(v, s) })
		}
	}
	return func() error {
		var errs []error
		for _, f := range later {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}, lull.end()
}

// have lists the kernel's services by key.
func (b *Backend) have() (map[key]ipvs.Service, error) {
	list, err := listServices(b.kernel)
	if err != nil {
		return nil, err
	}
	have := map[key]ipvs.Service{}
	for _, s := range list {
		have[keyOf(s.Service)] = s.Service
	}
	return have, nil
}

// reconcile makes one service and its reals, but for the removals, which it
// returns.
func (b *Backend) reconcile(v virtual, have map[key]ipvs.Service, lull *lull) ([]step, error) {
	var reals []ipvs.Destination
	now, exists := have[keyOf(v.svc)]
	switch {
	case !exists:
		if err := b.kernel.CreateService(v.svc); err != nil {
			return nil, err
		}
		b.log.Debug("service added", "service", v.name, "kernel", keyOf(v.svc).String())
	case !sameService(now, v.svc):
		if err := b.kernel.UpdateService(v.svc); err != nil {
			return nil, err
		}
		b.log.Debug("service edited", "service", v.name, "kernel", keyOf(v.svc).String())
	}
	if exists {
		list, err := listReals(b.kernel, v.svc)
		if err != nil {
			return nil, err
		}
		reals = oldestFirst(list)
	}
	var later []step
	for _, s := range steps(reals, v.wanted(reals)) {
		if s.action == removeReal {
			later = append(later, s)
			continue
		}
		if s.action == moveReal {
			if err := lull.begin(); err != nil {
				return nil, err
			}
		}
		if err := b.do(v, s); err != nil {
			return nil, err
		}
	}
	return later, nil
}

// do takes one step. What is gone already need not be removed.
func (b *Backend) do(v virtual, s step) error {
	var err error
	switch s.action {
	case addReal:
		err = b.kernel.CreateDestination(v.svc, s.real)
	case editReal:
		err = b.kernel.UpdateDestination(v.svc, s.real)
	case removeReal:
		err = ignoreMissing(b.kernel.RemoveDestination(v.svc, s.real))
	case moveReal:
		if err = ignoreMissing(b.kernel.RemoveDestination(v.svc, s.real)); err == nil {
			err = b.kernel.CreateDestination(v.svc, s.real)
		}
	}
	if err != nil {
		return fmt.Errorf("real %s: %w", netipPort(s.real), err)
	}
	return nil
}

// removeOthers removes our services that the plan does not have.
func (b *Backend) removeOthers(p plan) error {
	wanted := map[key]bool{}
	for _, v := range p.virtuals {
		wanted[keyOf(v.svc)] = true
	}
	var errs []error
	b.ledger.Services = slices.DeleteFunc(b.ledger.Services, func(o owned) bool {
		if wanted[o.Key] {
			return false
		}
		if err := ignoreMissing(b.kernel.RemoveService(o.Key.service())); err != nil {
			errs = append(errs, fmt.Errorf("service %s (%s): removal: %w", o.Name, o.Key, err))
			return false
		}
		b.log.Debug("service removed", "service", o.Name, "kernel", o.Key.String())
		return true
	})
	return errors.Join(errs...)
}

// Close takes everything that is ours out of the kernel and restores what was
// there before, unless keep is set.
func (b *Backend) Close(keep bool) error {
	if b.closed {
		return nil
	}
	b.closed = true
	defer b.books.close()
	if keep {
		return b.kernel.Close()
	}
	errs := []error{b.firewall.Remove(), b.removeOthers(plan{})}
	for _, name := range slices.Collect(maps.Keys(b.ledger.Sysctls)) {
		errs = append(errs, b.restoreKnob(name))
	}
	if t := b.ledger.Timeouts; t != nil {
		errs = append(errs, b.kernel.SetConfig(*t))
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, b.books.put(b.ledger), b.kernel.Close())
	}
	b.books.keeper.Clear()
	return b.kernel.Close()
}

// ignoreMissing drops the error that what was to be removed is not there.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoService) {
		return nil
	}
	return err
}
