package keepalived

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

// Bounds of what lvx takes for a check (pkg/config).
const (
	minDelay   = 100 * time.Millisecond
	maxDelay   = 24 * time.Hour
	minTimeout = 10 * time.Millisecond
	maxTimeout = time.Hour
	maxFall    = 1000
)

// keepalived's defaults of checks.
const (
	defaultDelayLoop  = 60 * time.Second
	defaultConnect    = 5 * time.Second
	defaultRetryDelay = time.Second
	defaultWebDelay   = 3 * time.Second
)

// pair is a key of the output with its value.
type pair struct{ key, value string }

// check is a check of a real server as the output has it.
type check struct {
	from *Statement
	item *item
	kind health.Type
	keys []pair
}

func (c *check) put(key, format string, args ...any) {
	c.keys = append(c.keys, pair{key, fmt.Sprintf(format, args...)})
}

// text is the check as a map in one line.
func (c *check) text() string {
	parts := []string{"type: " + string(c.kind)}
	for _, k := range c.keys {
		parts = append(parts, k.key+": "+k.value)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// asked is what a checker is asked of.
type asked struct {
	real   netip.Addr
	port   uint16 // 0: unknown
	way    way
	host   string // virtualhost of the real server or of the virtual server
	timing []timing
}

// target is what a checker's block says about whom it asks.
type target struct {
	addr   netip.Addr
	port   uint16
	source netip.Addr
}

// take reads a statement about the connection of a checker.
func (t *target) take(c *Statement, real netip.Addr) bool {
	switch c.Word {
	case "connect_ip":
		addr, ok := hostAddress(c.arg(0))
		switch {
		case !ok:
			c.mark(Harmless, "keepalived ignores the address %s", quote(c.arg(0)))
		case addr == real:
			c.mark(Mapped, "the real server's own")
		default:
			t.addr = addr
			c.mark(Mapped, "")
		}
	case "connect_port":
		if n := count(c, 1, 65535); n != nil {
			t.port = uint16(*n)
		}
	case "bindto":
		addr, ok := hostAddress(c.arg(0))
		if !ok || addr.Is4() != real.Is4() {
			c.mark(Harmless, "keepalived ignores the address %s", quote(c.arg(0)))
			break
		}
		c.mark(Mapped, "")
		t.source = addr
	case "bind_port":
		c.mark(Changed, "the kernel chooses the port")
	case "bind_if":
		c.mark(Changed, "the routing table chooses the interface")
	case "fwmark":
		c.mark(Lost, "lvx sets no mark on checks: route them by `bindto`")
	default:
		return false
	}
	return true
}

// readChecker makes checks of a checker's block: none where lvx has none.
func (m *mapper) readChecker(s *Statement, a asked) []*check {
	c := &check{from: s}
	to := target{port: a.port}
	own := timing{}
	for _, st := range s.Block {
		if st.keyword != nil && !own.take(st) {
			to.take(st, a.real)
		}
	}
	a.timing = append([]timing{own}, a.timing...)
	s.mark(Mapped, "")
	var all []*check
	switch s.Word {
	case "TCP_CHECK":
		c.kind = health.TCP
		all = m.finish(c, a, to, 1, defaultRetryDelay)
	case "PING_CHECK":
		c.kind = health.ICMP
		to.port = 0
		all = m.finish(c, a, to, 1, defaultRetryDelay)
	case "HTTP_GET", "SSL_GET":
		all = m.webChecks(s, a, to)
	case "DNS_CHECK":
		readDNS(c)
		all = m.finish(c, a, to, 3, or(defaultDelayLoop, a.delays()...))
	case "UDP_CHECK":
		readUDP(c)
		all = m.finish(c, a, to, 1, defaultRetryDelay)
	case "SMTP_CHECK":
		all = m.mailCheck(c, a, to)
	case "MISC_CHECK":
		all = m.scriptCheck(c, a)
	case "FILE_CHECK":
		all = m.fileCheck(c, a)
	case "BFD_CHECK":
		all = m.bfdCheck(c)
	default:
		s.overrule(Lost, "lvx has no such check: the real server is up as far as this is concerned")
		s.markBlock(Lost, "of a check that lvx does not have")
	}
	return all
}

// delays are the intervals of the checker and what is around it.
func (a asked) delays() []*time.Duration {
	var all []*time.Duration
	for _, t := range a.timing {
		all = append(all, t.interval)
	}
	return all
}

// finish adds what every check has.
func (m *mapper) finish(c *check, a asked, to target, retry uint64, retryDelay time.Duration) []*check {
	var delays, timeouts []*time.Duration
	var retries []*uint64
	for _, t := range a.timing {
		delays = append(delays, t.retryDelay)
		timeouts = append(timeouts, t.timeout)
		retries = append(retries, t.retry)
	}
	interval, wasOff := clamp(or(defaultDelayLoop, a.delays()...), minDelay, maxDelay)
	delay, delayOff := clamp(or(retryDelay, delays...), minDelay, maxDelay)
	timeout, timeoutOff := clamp(or(defaultConnect, timeouts...), minTimeout, maxTimeout)
	fall := or(retry, retries...) + 1
	if wasOff || delayOff || timeoutOff || fall > maxFall {
		c.from.overrule(Changed, "times and counts brought into lvx's bounds (intervals from %s, timeouts from %s, at most %d failures)",
			minDelay, minTimeout, maxFall)
	}
	if c.kind != health.Exec && c.kind != health.File {
		if to.port != 0 {
			c.put("port", "%d", to.port)
		}
		if !a.way.takesChecks() || !m.o.ViaVIP || to.addr.IsValid() {
			c.put("via", "real")
		}
		if to.addr.IsValid() {
			c.put("address", "%s", scalar(to.addr.String()))
		}
		if to.source.IsValid() {
			c.put("source", "%s", scalar(to.source.String()))
		}
	}
	c.put("interval", "%s", duration(interval))
	c.put("timeout", "%s", duration(timeout))
	if delay != interval {
		c.put("retry_delay", "%s", duration(delay))
	}
	c.put("fall", "%d", min(fall, maxFall))
	c.put("rise", "1")
	c.item = &item{from: c.from}
	return []*check{c}
}

func ptr[T any](v T) *T { return &v }
