package auto

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// halves is a state taken apart.
type halves struct {
	xdp, ipvs []lb.Service
	why       places
}

// joined is a, and b if there is any: a may be ten thousand services.
func joined(a, b []lb.Service) []lb.Service {
	if len(b) == 0 {
		return a
	}
	return slices.Concat(a, b)
}

// split decides where every service runs, and opens IPVS if one runs there.
func (b *Backend) split(ctx context.Context, s lb.State) (halves, error) {
	h, needs, must := b.takeApart(s)
	if b.ipvs != nil || len(needs) == 0 && !b.opt.Leftover {
		return h, nil
	}
	ipvs, err := b.opt.OpenIPVS(ctx)
	switch {
	case err == nil:
		b.onIPVS = leftBehind(ipvs, s.Services)
		b.ipvs, b.opt.Leftover = ipvs, false
	case len(needs) == 0:
		b.log.Warn("what an earlier daemon left in the kernel's IPVS cannot be removed", "err", err)
		b.opt.Leftover = false
	case !must:
		b.log.Warn("XDP serves without what it lacks, and IPVS is not there either", "lacks", shorten(needs), "err", err)
		b.noIPVS = true
		h, _, _ = b.takeApart(s)
	default:
		return h, fmt.Errorf("the kernel's IPVS is needed for %s: %w", shorten(needs), err)
	}
	return h, nil
}

// takeApart decides where every service runs. needs are those that IPVS runs, with
// the reason; must reports whether nothing else can run one of them.
func (b *Backend) takeApart(s lb.State) (h halves, needs []string, must bool) {
	h = halves{xdp: s.Services, why: places{}}
	for i, svc := range s.Services {
		why, ipvs := b.decide(svc)
		switch {
		case ipvs != notIPVS:
			if len(h.ipvs) == 0 { // the first: what was shared so far is taken apart
				h.xdp = slices.Clone(s.Services[:i])
			}
			if comesFromElsewhere(&s, &svc) {
				why += "; its tunnels come from this host's own address, not from outer_source"
			}
			h.ipvs, h.why[svc.Name] = append(h.ipvs, svc), why
			needs = append(needs, fmt.Sprintf("%s (%s)", svc.Name, why))
			must = must || ipvs == onlyIPVS
		case len(h.ipvs) > 0:
			h.xdp = append(h.xdp, svc)
		}
	}
	return h, needs, must
}

// comesFromElsewhere reports whether a service has a tunnel whose outer header is to
// come from where the state says, which IPVS cannot do.
func comesFromElsewhere(s *lb.State, svc *lb.Service) bool {
	isElsewhere := func(to netip.Addr, by lb.Forward) bool { return by == lb.Tunnel && s.OuterSource(to).IsValid() }
	return svc.Sorry.IsValid() && isElsewhere(svc.Sorry, svc.SorryForward) ||
		slices.ContainsFunc(svc.Reals, func(r lb.Real) bool { return isElsewhere(r.Addr, r.Forward) })
}

// need is how much a service needs IPVS.
type need int

const (
	notIPVS    need = iota
	ratherIPVS      // XDP could run it, not as well
	onlyIPVS
)

// decide is the whole policy.
func (b *Backend) decide(svc lb.Service) (why string, ipvs need) {
	if b.xdp == nil {
		return b.opt.Refused.Error(), onlyIPVS
	}
	if why := b.opt.Cannot(svc); why != "" {
		return why, onlyIPVS
	}
	if b.opt.Lacks == nil || b.noIPVS && b.ipvs == nil {
		return "", notIPVS
	}
	if why := b.opt.Lacks(svc); why != "" {
		return why, ratherIPVS
	}
	return "", notIPVS
}

// shorten keeps an error of ten thousand services readable.
func shorten(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
