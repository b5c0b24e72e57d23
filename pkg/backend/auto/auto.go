package auto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Options of a [Backend].
type Options struct {
	Log *slog.Logger // nil: the default logger

	// XDP is the data path that every service is tried on first; nil if it
	// cannot be attached, for the reason Refused.
	XDP     lb.Backend
	Refused error

	// Cannot tells in a few words why XDP cannot run a service: "SCTP
	// listener", "" if it can.
	Cannot func(lb.Service) string

	// Lacks tells what XDP lacks for a service that it could run: where the
	// kernel's IPVS can be opened, that runs it; else XDP does, as far as it
	// can. Nil: nothing.
	Lacks func(lb.Service) string

	// OpenIPVS opens the kernel's IPVS. It is called when a service needs
	// it, again after an error. With Leftover it is called by the first
	// Apply in any case: an earlier daemon may have left services there.
	OpenIPVS func(context.Context) (lb.Backend, error)
	Leftover bool
}

// An Owner names the services that it has in the kernel, those of an earlier daemon
// included.
type Owner interface{ Owned() []string }

// Backend is the lb.Backend made of two. See [lb.Backend] for what its
// methods promise.
type Backend struct {
	opt  Options
	log  *slog.Logger
	xdp  lb.Backend // nil: refused
	ipvs lb.Backend // nil: not needed so far

	state  lb.State     // as asked for last
	why    places       // of state
	onXDP  []lb.Service // as applied last, with those that are leaving
	onIPVS []lb.Service
	noIPVS bool // it could not be opened for what XDP lacks
	closed bool
}

// places tells which services run on IPVS, and why there. All others run on
// XDP.
type places map[string]string

func (p places) of(service string) string {
	if why, ok := p[service]; ok {
		return "ipvs: " + why
	}
	return "xdp"
}

var (
	_ lb.Backend  = (*Backend)(nil)
	_ lb.Leaser   = (*Backend)(nil)
	_ lb.Switcher = (*Backend)(nil)
	_ lb.Binder   = (*Backend)(nil)
)

// New makes the backend of the parts in o. It owns them: Close closes them.
func New(o Options) *Backend {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Backend{opt: o, log: o.Log.With("component", "backend"), xdp: o.XDP, why: places{}}
}

// Apply gives every service to its data path. IPVS takes over what it gets
// before XDP lets go of it, and lets go of what XDP has taken over. An error
// of one data path does not keep the other from its part.
func (b *Backend) Apply(ctx context.Context, s lb.State) error {
	if b.closed {
		return errors.New("apply on a closed backend")
	}
	hadIPVS := b.ipvs != nil
	next, err := b.split(ctx, s)
	if err != nil {
		return err
	}
	before := b.state
	b.state = s
	staying := apart(leaving(b.onIPVS, next.xdp), next.ipvs)
	first := b.applyIPVS(ctx, s, slices.Concat(next.ipvs, staying))
	if first != nil && !hadIPVS && len(staying) > 0 { // an earlier daemon had them otherwise
		b.onIPVS = nil
		first = b.applyIPVS(ctx, s, next.ipvs)
	}
	onXDP := joined(next.xdp, b.draining(next))
	if first != nil { // what was to go there is where it was
		onXDP = slices.Concat(next.xdp, apart(leaving(b.onXDP, next.ipvs), next.xdp))
	}
	second := b.applyXDP(ctx, s, onXDP)
	b.settle(before, next, first == nil, second == nil)
	if first != nil || second != nil {
		return errors.Join(first, second)
	}
	return b.release(ctx, s, next)
}

func (b *Backend) applyIPVS(ctx context.Context, s lb.State, services []lb.Service) error {
	if b.ipvs == nil {
		return nil
	}
	s.Services = services
	if err := b.ipvs.Apply(ctx, s); err != nil {
		return fmt.Errorf("ipvs: %w", err)
	}
	b.onIPVS = services
	return nil
}

func (b *Backend) applyXDP(ctx context.Context, s lb.State, services []lb.Service) error {
	if b.xdp == nil {
		return nil
	}
	s.Services = services
	if err := b.xdp.Apply(ctx, s); err != nil {
		return fmt.Errorf("xdp: %w", err)
	}
	b.onXDP = services
	return nil
}

// settle notes where services are after IPVS and XDP have taken theirs over,
// or not: then those that were to move have stayed.
func (b *Backend) settle(before lb.State, next halves, ipvs, xdp bool) {
	was := b.why
	b.why = next.why
	if len(was)+len(next.why) == 0 {
		return
	}
	known := named(before.Services, func(s lb.Service) string { return s.Name })
	for _, svc := range b.state.Services {
		old, from := was[svc.Name]
		_, to := next.why[svc.Name]
		if _, ok := known[svc.Name]; !ok || from == to {
			continue
		}
		switch {
		case to && !ipvs:
			delete(b.why, svc.Name)
		case from && !xdp:
			b.why[svc.Name] = old
		default:
			b.log.Info("service has moved; its old connections end where they began", "service", svc.Name, "from", was.of(svc.Name), "to", b.why.of(svc.Name))
		}
	}
}

// Renew lets a lease live on XDP. IPVS knows no leases: a VIP that both
// serve goes silent with XDP, which sees its packets first.
func (b *Backend) Renew(id uint32, d time.Duration) error {
	if l, ok := b.xdp.(lb.Leaser); ok {
		return l.Renew(id, d)
	}
	return nil
}

// Switch implements [lb.Switcher] while everything runs on XDP; IPVS needs an
// Apply.
func (b *Backend) Switch(vips []lb.VIP) error {
	s, ok := b.xdp.(lb.Switcher)
	if !ok || b.ipvs != nil || b.closed {
		return errors.New("roles: not without an Apply")
	}
	return s.Switch(vips)
}

// Trace implements [lb.Tracer] for what XDP sees: every packet first.
func (b *Backend) Trace(f lb.TraceFilter, keep int) (lb.Trace, error) {
	if t, ok := b.xdp.(lb.Tracer); ok {
		return t.Trace(f, keep)
	}
	return nil, errors.New("trace: XDP does not run here (tcpdump sees what the kernel's IPVS does)")
}

// LeaseLeft implements [lb.Leaser]: what XDP knows to be left of a lease.
func (b *Backend) LeaseLeft(id uint32) time.Duration {
	if l, ok := b.xdp.(lb.Leaser); ok {
		return l.LeaseLeft(id)
	}
	return 0
}

// RetireIPVS takes out of the kernel what runs on IPVS: for an end that XDP
// outlives, because it can fall silent by itself and IPVS cannot.
func (b *Backend) RetireIPVS() error {
	if b.ipvs == nil {
		return nil
	}
	err := b.ipvs.Close(false)
	b.ipvs, b.onIPVS = nil, nil
	return err
}

// Close closes both. XDP goes first: what it passes, IPVS still serves.
func (b *Backend) Close(keep bool) error {
	b.closed = true
	var errs []error
	for _, part := range []lb.Backend{b.xdp, b.ipvs} {
		if part != nil {
			errs = append(errs, part.Close(keep))
		}
	}
	return errors.Join(errs...)
}
