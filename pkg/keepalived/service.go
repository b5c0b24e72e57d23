package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// timing is how often something is checked. What is nil is asked of the block
// around it.
type timing struct {
	interval, retryDelay, timeout *time.Duration
	retry                         *uint64
}

// take reads a statement that every block with checks may have. It reports
// whether s was one.
func (t *timing) take(s *Statement) bool {
	switch s.Word {
	case "delay_loop":
		t.interval = first(seconds(s, time.Microsecond), t.interval)
	case "delay_before_retry":
		t.retryDelay = first(seconds(s, 0), t.retryDelay)
	case "connect_timeout":
		t.timeout = first(seconds(s, time.Microsecond), t.timeout)
	case "retry", "nb_get_retry":
		t.retry = first(count(s, 0, 1<<32-1), t.retry)
	case "warmup":
		s.mark(Harmless, "the first check is at once, `jitter` spreads the others")
	case "alpha":
		s.mark(Mapped, "a real server is down until its first pass, always")
	default:
		return false
	}
	return true
}

// first is the first that is there.
func first[T any](all ...*T) *T {
	for _, p := range all {
		if p != nil {
			return p
		}
	}
	return nil
}

// virtual is a virtual_server.
type virtual struct {
	from        *Statement
	isMixed     bool // a group of both families
	protocol    string
	scheduler   string
	flags       []string
	onePacket   bool
	way         *way
	persistence uint64 // seconds; 0: none
	granularity string
	engine      *Statement
	timing      timing
	quorum      uint64
	hysteresis  uint64
	weight      uint64
	is6         bool // ip_family inet6
	inhibit     bool
	omega       bool
	host        string
	sorry       *sorry
	hooks       []hook
	reals       []*Statement
}

// sorry is a sorry_server.
type sorry struct {
	from    *Statement
	addr    netip.Addr
	port    uint16
	way     *way
	inhibit bool
}

// hook is a command for an event.
type hook struct {
	event string
	argv  []string
	from  *Statement
}

// defaultPersistence is what keepalived takes for a persistence_timeout
// without a value.
const defaultPersistence = 360

// readVirtual reads the block of a virtual_server.
func readVirtual(s *Statement) *virtual {
	v := &virtual{from: s, quorum: 1, weight: 1}
	for _, c := range s.Block {
		switch {
		case c.keyword == nil:
		case v.timing.take(c), v.balance(c), v.rules(c), v.sorryServer(c):
		case c.Word == "real_server":
			v.reals = append(v.reals, c)
		}
	}
	return v
}

// balance reads what is about scheduling and forwarding.
func (v *virtual) balance(c *Statement) bool {
	switch c.Word {
	case "lb_algo", "lvs_sched":
		v.setScheduler(c)
	case "lb_kind", "lvs_method":
		v.way = first(forwarding(c), v.way)
	case "protocol":
		switch p := strings.ToLower(c.arg(0)); p {
		case "tcp", "udp", "sctp":
			c.mark(Mapped, "")
			v.protocol = p
		default:
			c.mark(Harmless, "keepalived ignores the protocol %s", quote(c.arg(0)))
		}
	case "ops":
		c.mark(Mapped, "")
		v.onePacket = true
	case "hashed":
		c.mark(Harmless, "an old flag of the kernel that does nothing")
	case "flag-1", "flag-2", "flag-3", "sh-port", "sh-fallback", "mh-port", "mh-fallback":
		v.setFlag(c)
	case "persistence_timeout":
		if len(c.Args) == 0 {
			c.mark(Mapped, "%d s, keepalived's default", defaultPersistence)
			v.persistence = defaultPersistence
		} else if n := count(c, 1, 31*24*3600); n != nil {
			v.persistence = *n
		}
	case "persistence_granularity":
		v.granularity = c.arg(0)
		c.mark(Mapped, "")
		if v.persistence == 0 {
			v.persistence = defaultPersistence
		}
	case "persistence_engine":
		v.engine = c
		c.mark(Lost, "lvx binds clients by address, not by what is in their packets")
	default:
		return false
	}
	return true
}

// keepalivedSchedulers are the ones that keepalived knows.
var keepalivedSchedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "mh", "dh", "fo", "ovf", "sed", "nq", "twos"}

func (v *virtual) setScheduler(c *Statement) {
	name := c.arg(0)
	switch {
	case !slices.Contains(keepalivedSchedulers, name):
		c.mark(Harmless, "keepalived does not know the scheduler %s and ignores it", quote(name))
	default:
		c.mark(Mapped, "")
		v.scheduler = name
	}
}

// setFlag reads a flag of the scheduler that was named before.
func (v *virtual) setFlag(c *Statement) {
	name := c.Word
	hashes := v.scheduler == "sh" || v.scheduler == "mh"
	switch {
	case name == "flag-1" && hashes:
		name = v.scheduler + "-fallback"
	case name == "flag-2" && hashes:
		name = v.scheduler + "-port"
	case !hashes || !strings.HasPrefix(name, v.scheduler+"-"):
		c.mark(Harmless, "means nothing to the scheduler that is named before it")
		return
	}
	c.mark(Mapped, "")
	if !slices.Contains(v.flags, name) {
		v.flags = append(v.flags, name)
	}
}

// rules reads what is about the life of the service.
func (v *virtual) rules(c *Statement) bool {
	switch c.Word {
	case "quorum":
		v.quorum = or(1, count(c, 1, 1<<32-1))
	case "hysteresis":
		v.hysteresis = or(v.hysteresis, count(c, 0, 1<<32-1))
	case "weight":
		v.weight = or(v.weight, count(c, 1, 65535))
	case "inhibit_on_failure":
		c.mark(Mapped, "")
		v.inhibit = true
	case "virtualhost":
		if !asksWeb(v.from) {
			c.mark(Harmless, "no check of this service asks by name")
		}
		v.host = hostName(c)
	case "ip_family":
		c.mark(Harmless, "the addresses say it")
		v.is6 = c.arg(0) == "inet6"
	case "omega":
		c.mark(Mapped, "")
		v.omega = true
	case "quorum_up", "quorum_down":
		v.hooks = takeHook(v.hooks, c.Word, c)
	default:
		return false
	}
	return true
}

// takeHook reads a command; the first one of an event counts.
func takeHook(hooks []hook, event string, c *Statement) []hook {
	argv, user, ok := command(c)
	switch {
	case !ok || !isPlain(c, argv):
		c.mark(Harmless, "keepalived cannot read the command")
		return hooks
	case slices.ContainsFunc(hooks, func(h hook) bool { return h.event == event }):
		c.mark(Harmless, "keepalived takes the first one only")
		return hooks
	case len(user) > 0 && user[0] != "root":
		c.mark(Changed, "runs as the daemon's user, not as %s", quote(user[0]))
	}
	c.mark(Mapped, "without a shell; the program must belong to root")
	return append(hooks, hook{event, argv, c})
}

// sorryServer reads what is about the sorry server.
func (v *virtual) sorryServer(c *Statement) bool {
	switch c.Word {
	case "sorry_server":
		addr, ok := hostAddress(c.arg(0))
		port, okPort := parsePort(c.arg(1))
		if !ok || !okPort {
			c.mark(Harmless, "keepalived ignores the address %s", quote(c.arg(0)))
			break
		}
		if v.sorry != nil {
			v.sorry.from.overrule(Harmless, "keepalived takes the last one only")
		}
		v.sorry = &sorry{from: c, addr: addr, port: port}
	case "sorry_server_inhibit":
		if v.sorry == nil {
			c.mark(Harmless, "stands before the sorry_server")
			break
		}
		v.sorry.inhibit = true
		c.mark(Mapped, "")
	case "sorry_server_lvs_method":
		if v.sorry == nil {
			c.mark(Harmless, "stands before the sorry_server")
			break
		}
		v.sorry.way = first(forwarding(c), v.sorry.way)
	default:
		return false
	}
	return true
}

// endpoint is where a virtual_server answers.
type endpoint struct {
	from *Statement
	addr netip.Addr
	port uint16
	mark uint32
	is6  bool // of a mark
}

func (e endpoint) name(protocol string) string {
	switch {
	case e.mark != 0 && e.is6:
		return fmt.Sprintf("fwmark-%d-ipv6", e.mark)
	case e.mark != 0:
		return fmt.Sprintf("fwmark-%d", e.mark)
	}
	host := strings.ReplaceAll(e.addr.String(), ":", "-")
	if strings.HasPrefix(host, "-") {
		host = "0" + host
	}
	if strings.HasSuffix(host, "-") {
		host += "0"
	}
	port := "any"
	if e.port != 0 {
		port = strconv.Itoa(int(e.port))
	}
	return host + "-" + port + "-" + protocol
}

func (e endpoint) listen(protocol string) string {
	l := lb.Listener{Addr: e.addr, First: e.port, Last: e.port}
	host := strings.TrimSuffix(l.String(), "/"+l.Proto.String())
	return host + "/" + protocol
}
