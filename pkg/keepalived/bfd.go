package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/health"
)

// keepalived's defaults of a bfd_instance.
const (
	defaultBFD           = 10 * time.Millisecond
	defaultBFDMultiplier = 5
	defaultBFDTTL        = 255
	defaultBFDHopLimit   = 64
)

// session is a bfd_instance.
type session struct {
	item      *item
	name      string // lvx's
	neighbour netip.Addr
	source    netip.Addr

	tx, rx, idle             time.Duration
	multiplier, ttl, maxHops uint64
	isPassive                bool
	weight                   weighting
}

// readBFD reads a bfd_instance. One that keepalived does not run is none.
func (m *mapper) readBFD(s *Statement) {
	b := &session{item: &item{from: s}, tx: defaultBFD, rx: defaultBFD, idle: bfd.MinIdle, multiplier: defaultBFDMultiplier}
	for _, c := range s.Block {
		if c.keyword != nil {
			b.take(c)
		}
	}
	isTaken := slices.ContainsFunc(m.sessions, func(o *session) bool { return o.neighbour == b.neighbour })
	switch {
	case m.bfd[s.arg(0)] != nil:
		s.mark(Harmless, "keepalived ignores a second instance of this name")
	case !b.neighbour.IsValid():
		s.mark(Harmless, "keepalived ignores an instance without a neighbour")
	case isTaken:
		s.mark(Harmless, "keepalived ignores a second instance for %s", b.neighbour)
	case b.source.IsValid() && b.source.Is4() != b.neighbour.Is4():
		s.mark(Harmless, "keepalived ignores an instance with addresses of both families")
	default:
		s.mark(Mapped, "")
		if b.ttl == 0 {
			b.ttl = defaultBFDTTL
			if b.neighbour.Is6() {
				b.ttl = defaultBFDHopLimit
			}
		}
		b.name = m.unique("bfd", s.arg(0))
		m.bfd[s.arg(0)] = s
		m.sessions = append(m.sessions, b)
	}
}

// take reads a statement of a bfd_instance.
func (b *session) take(c *Statement) {
	switch c.Word {
	case "neighbor_ip", "neighbour_ip":
		b.neighbour = bfdAddress(c)
	case "source_ip":
		b.source = bfdAddress(c)
	case "min_tx":
		b.tx = milliseconds(c, b.tx, bfd.MinInterval, bfd.MaxInterval)
	case "min_rx":
		b.rx = milliseconds(c, b.rx, bfd.MinInterval, bfd.MaxInterval)
	case "idle_tx":
		b.idle = milliseconds(c, b.idle, bfd.MinIdle, bfd.MaxIdle)
	case "multiplier":
		b.multiplier = or(b.multiplier, count(c, 1, 255))
	case "passive":
		c.mark(Mapped, "")
		b.isPassive = true
	case "ttl", "hoplimit":
		b.ttl = or(b.ttl, count(c, 1, 255))
	case "max_hops":
		if c.arg(0) == "-1" { // keepalived before 2.1
			c.mark(Mapped, "")
			b.maxHops = 255
			return
		}
		b.maxHops = or(b.maxHops, count(c, 0, 255))
	case "weight":
		b.weight = blockWeight(c).within(b.weight)
	}
}

func bfdAddress(c *Statement) netip.Addr {
	addr, ok := hostAddress(c.arg(0))
	if !ok {
		c.mark(Harmless, "keepalived ignores the address %s", quote(c.arg(0)))
		return netip.Addr{}
	}
	c.mark(Mapped, "")
	return addr
}

// milliseconds reads a number of milliseconds, and brings it into bounds.
func milliseconds(c *Statement, otherwise, low, high time.Duration) time.Duration {
	d, ok := parseSeconds(c.arg(0))
	if !ok || d == 0 {
		c.mark(Harmless, "keepalived ignores %s here", quote(c.arg(0)))
		return otherwise
	}
	d /= 1000
	fits := max(low, min(d.Round(time.Millisecond), high))
	if fits != d {
		c.mark(Changed, "%s: lvx takes whole milliseconds from %s to %s", duration(fits), duration(low), duration(high))
	}
	c.mark(Mapped, "")
	return fits
}

// text is the session as a map in one line.
func (b *session) text() string {
	parts := []string{"name: " + scalar(b.name), "neighbour: " + scalar(b.neighbour.String())}
	if b.source.IsValid() {
		parts = append(parts, "source: "+scalar(b.source.String()))
	}
	parts = append(parts, "min_tx: "+duration(b.tx), "min_rx: "+duration(b.rx))
	if b.idle != bfd.MinIdle {
		parts = append(parts, "idle_tx: "+duration(b.idle))
	}
	parts = append(parts, "multiplier: "+strconv.FormatUint(b.multiplier, 10))
	if b.isPassive {
		parts = append(parts, "passive: true")
	}
	if b.ttl != defaultBFDTTL {
		parts = append(parts, fmt.Sprintf("ttl: %d", b.ttl))
	}
	if b.maxHops != 0 {
		parts = append(parts, fmt.Sprintf("max_hops: %d", b.maxHops))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// sessionOf is the session of a bfd_instance that [mapper.readBFD] took.
func (m *mapper) sessionOf(s *Statement) *session {
	for _, b := range m.sessions {
		if b.item.from == s {
			return b
		}
	}
	return nil
}

// bfdText is a bfd_instance as an entry of track_bfd.
func (m *mapper) bfdText(s *Statement, weight weighting) string {
	b := m.sessionOf(s)
	return "name: " + scalar(b.name) + weight.within(b.weight).words(0)
}

// bfdCheck makes a check of a BFD_CHECK.
func (m *mapper) bfdCheck(c *check) []*check {
	c.kind = health.BFD
	var s *Statement
	for _, st := range c.from.children("name") {
		block := m.bfd[st.arg(0)]
		if st.misses(block, "bfd_instance", st.arg(0)) {
			continue
		}
		s = block
		st.mark(Mapped, "")
	}
	if s == nil {
		c.from.overrule(Harmless, "keepalived ignores a check without a bfd_instance")
		return nil
	}
	c.put("bfd", "%s", scalar(m.sessionOf(s).name))
	c.item = &item{from: c.from}
	return []*check{c}
}

// writeBFD writes the sessions.
func (m *mapper) writeBFD(d *document) {
	started := false
	for _, b := range m.sessions {
		if b.item.isLeftOut() {
			continue
		}
		if !started {
			d.put(0, nil, "bfd:")
			started = true
		}
		heading(d, 2, b.item.from)
		d.put(2, b.item, "- %s", b.text())
	}
}
