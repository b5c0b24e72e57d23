package judge

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Times.
const (
	jiffy     = 4 * time.Millisecond // of Debian's kernel
	margin    = 6 * time.Second      // nothing may be so near its end while packets are sent
	slack     = 3 * time.Second      // between the kernel's timers and lvx's ticks
	patience  = 150 * time.Second    // for both to agree: a late timer, and a template that lvx renewed before it, for a minute
	probeLife = 400 * time.Second    // more than the longest timeout that a probe can have, UDP's
	sweep     = 6 * time.Second      // until lvx's counts know that a connection has ended
)

// A view is what one side's tables hold.
type view struct {
	conns  map[string]lb.Connection
	text   string             // the listing
	strays map[endpoints]bool // seen, and left out of both
	dead   []lb.Connection    // templates of reals that are away, which the kernel has thrown away
	probes map[string]int     // connections of probes that a service has
	ending bool               // a probe's is about to expire
}

// views are both sides' tables, with listings or without.
func (t *trial) views(list bool) (kernel, xdp view, err error) {
	if kernel, err = t.view(t.kernel, list); err != nil {
		return kernel, xdp, err
	}
	if xdp, err = t.view(t.xdp, list); err != nil {
		return kernel, xdp, err
	}
	maps.DeleteFunc(t.strays, func(e endpoints, _ bool) bool { return !kernel.strays[e] && !xdp.strays[e] })
	maps.DeleteFunc(t.unbound, func(e endpoints, _ client) bool { return !t.strays[e] })
	return kernel, xdp, nil
}

func (t *trial) view(s *side, list bool) (view, error) {
	v := view{conns: map[string]lb.Connection{}, strays: map[endpoints]bool{}, probes: map[string]int{}}
	err := s.do(func() error {
		conns, err := s.backend.Connections(0)
		if err != nil {
			return err
		}
		var out []lb.Connection
		for _, c := range conns {
			sorry := t.toSorry(c)
			switch {
			case !c.Template && t.strays[endpointsOf(c)]:
				v.strays[endpointsOf(c)] = true
				out = append(out, c)
			case c.Template && t.state.ExpireNodestConn && t.orphaned(c):
				v.dead = append(v.dead, c)
				out = append(out, c)
			case c.Template && len(t.unboundOf(c)) > 0:
				for _, e := range t.unboundOf(c) {
					v.strays[e] = true
				}
				out = append(out, c)
			case c.Template && (sorry || invalid(c)):
				out = append(out, c)
			case isProbe(c.Client.Addr()):
				if !c.Template {
					v.probes[c.Service]++
					v.ending = v.ending || c.Expires < margin
				}
				out = append(out, c)
			default:
				v.conns[connKey(c)] = c
			}
		}
		if list {
			v.text, err = t.list(s.backend, out)
		}
		return err
	})
	return v, err
}

// list is what `lvx list` shows of a backend, without some connections.
func (t *trial) list(b lb.Backend, out []lb.Connection) (string, error) {
	observed, err := b.Observed()
	if err != nil {
		return "", err
	}
	stats, err := b.Stats()
	if err != nil {
		return "", err
	}
	for _, c := range out {
		discount(&stats, c)
	}
	return t.List(t.state, observed, stats)
}

// toSorry reports whether a connection or template leads to the sorry server of
// its service. Only the kernel makes templates of that kind; they end when a
// real serves again.
func (t *trial) toSorry(c lb.Connection) bool {
	s, ok := t.state.Service(c.Service)
	return ok && s.Sorry.IsValid() && s.Sorry == c.Real.Addr()
}

// invalid reports whether a template is none any more: its real is gone or
// quiesced, and the kernel only waits for its timer (ip_vs_check_template).
func invalid(c lb.Connection) bool { return c.Virtual.Port() == 0xffff }

// orphaned reports whether the real of a connection is away.
func (t *trial) orphaned(c lb.Connection) bool {
	s, ok := t.state.Service(c.Service)
	return ok && s.Sorry != c.Real.Addr() && !slices.ContainsFunc(s.Reals, func(r lb.Real) bool { return r.Addr == c.Real.Addr() })
}

func endpointsOf(c lb.Connection) endpoints {
	return endpoints{proto: c.Proto, src: c.Client, dst: c.Virtual}
}

// discount takes a connection that is left out, out of the numbers.
func discount(stats *lb.Stats, c lb.Connection) {
	for i := range stats.Services {
		if stats.Services[i].Name != c.Service {
			continue
		}
		for k := range stats.Services[i].Reals {
			r := &stats.Services[i].Reals[k]
			switch {
			case r.Addr != c.Real.Addr():
			case c.Template:
			case c.State == "SYN_RECV" || c.State == "ESTABLISHED":
				r.Active--
			default:
				r.Inactive--
			}
		}
	}
}

// connKey is all of a connection but the time it has left.
func connKey(c lb.Connection) string {
	what := "connection"
	if c.Template {
		what = "template"
	}
	return fmt.Sprintf("%s %d %s > %s real %s %s", what, c.Proto, c.Client, c.Virtual, c.Real, c.State)
}

// look compares the tables as they are: nothing is about to end, so they have
// to be the same.
func (t *trial) look() error {
	kernel, xdp, err := t.views(true)
	if err != nil {
		return err
	}
	t.report.Events["look"]++
	if why := differ(kernel, xdp); why != "" {
		return fmt.Errorf("the tables differ: %s", why)
	}
	return timesDiffer(kernel, xdp)
}

// settle waits until both tables are the same and nothing is about to end.
func (t *trial) settle() error {
	t.report.Events["settle"]++
	var why string
	list := false // it takes longer than the rest, so once the rest is the same
	for begin := time.Now(); time.Since(begin) < patience; {
		kernel, xdp, err := t.views(list)
		if err != nil {
			return err
		}
		if err := timesDiffer(kernel, xdp); err != nil {
			return err
		}
		why = differ(kernel, xdp)
		same := why == "" && !nearEnd(kernel) && !nearEnd(xdp)
		if same && list {
			t.settled = time.Now()
			return nil
		}
		if list = same; !same {
			t.sleep(3 * time.Second)
		}
	}
	return fmt.Errorf("after %s the tables still differ: %s", patience, why)
}

// outlive waits until the connections of a service's probes have ended and
// count no more: lvx gets more of them than the kernel does, and some
// schedulers, and thresholds, count. The listing would not tell of those whose real is away.
func (t *trial) outlive(service string) error {
	t.report.Events["probes outlived"]++
	for begin := time.Now(); time.Since(begin) < probeLife; t.sleep(3 * time.Second) {
		kernel, xdp, err := t.views(false)
		if err != nil {
			return err
		}
		if kernel.probes[service]+xdp.probes[service] == 0 {
			t.sleep(sweep)
			return t.settle()
		}
	}
	return fmt.Errorf("probes of %s are left after %s", service, probeLife)
}

// nearEnd reports whether something is about to expire.
func nearEnd(v view) bool {
	if v.ending {
		return true
	}
	for _, c := range v.conns {
		if c.Expires < margin {
			return true
		}
	}
	return false
}

// timesDiffer compares how long connections have left. A template that lives
// on for its connections is renewed early by lvx and late by the kernel, a
// minute at a time; only its first life can be compared.
func timesDiffer(kernel, xdp view) error {
	for k, a := range kernel.conns {
		b, ok := xdp.conns[k]
		if !ok || a.Template && min(a.Expires, b.Expires) <= 62*time.Second || a.Expires == 0 {
			continue
		}
		if d := a.Expires - b.Expires; d > slack || d < -slack {
			return fmt.Errorf("%s: %s left, the kernel has %s", k, b.Expires, a.Expires)
		}
	}
	return nil
}

// differ describes the differences between two tables, "" if there are none.
func differ(kernel, xdp view) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(kernel.conns)) {
		if _, ok := xdp.conns[k]; !ok {
			lines = append(lines, fmt.Sprintf("only the kernel has %s, %s left", k, kernel.conns[k].Expires))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(xdp.conns)) {
		if _, ok := kernel.conns[k]; !ok {
			lines = append(lines, fmt.Sprintf("only lvx has %s, %s left", k, xdp.conns[k].Expires))
		}
	}
	ours, theirs := strings.Split(xdp.text, "\n"), strings.Split(kernel.text, "\n")
	for i := range max(len(ours), len(theirs)) {
		a, b := "", ""
		if i < len(theirs) {
			a = theirs[i]
		}
		if i < len(ours) {
			b = ours[i]
		}
		if a != b {
			lines = append(lines, "kernel lists "+a, "lvx lists    "+b)
		}
	}
	return strings.Join(lines, "\n")
}
