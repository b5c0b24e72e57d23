package oracle

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// tuple is who a connection is.
type tuple struct {
	proto       lb.Protocol
	client, vip netip.AddrPort
}

// flow is a connection.
type flow struct {
	real   *real
	state  string
	seen   int64
	proven bool // seen again after it was established
}

// client is whom a template is for: a masked address, and the service.
type client struct {
	addr    netip.Addr
	service *service
}

// template keeps a client with a real.
type template struct {
	real    *real
	expires int64 // the last tick of its life
	assured bool
	renewed bool // it outlived its timeout: 60 s at a time from now on
}

// The kernel's one-way table ("INPUT ONLY" of tcp_states,
// ip_vs_proto_tcp.c): by kind of packet, then by state. "" is no connection
// yet. What is not listed goes to CLOSE.
var oneWay = map[string]map[string]string{
	"SYN": {
		"": "SYN_RECV", "SYN_RECV": "SYN_RECV", "ESTABLISHED": "ESTABLISHED",
		"FIN_WAIT": "SYN_RECV", "TIME_WAIT": "SYN_RECV", "CLOSE": "SYN_RECV",
	},
	"FIN": {
		"SYN_RECV": "TIME_WAIT", "ESTABLISHED": "FIN_WAIT", "FIN_WAIT": "FIN_WAIT", "TIME_WAIT": "TIME_WAIT",
	},
	"ACK": {
		"": "ESTABLISHED", "SYN_RECV": "ESTABLISHED", "ESTABLISHED": "ESTABLISHED",
		"FIN_WAIT": "FIN_WAIT", "TIME_WAIT": "TIME_WAIT",
	},
	"RST": {"SYN_RECV": "SYN_RECV"},
}

// kindOf is tcp_state_idx: RST before SYN before FIN before ACK.
func kindOf(flags byte) string {
	switch {
	case flags&4 != 0:
		return "RST"
	case flags&2 != 0:
		return "SYN"
	case flags&1 != 0:
		return "FIN"
	case flags&16 != 0:
		return "ACK"
	}
	return "NONE"
}

// next is the state after a packet.
func next(proto lb.Protocol, state string, flags byte) string {
	if proto == lb.UDP {
		return "UDP"
	}
	if to, ok := oneWay[kindOf(flags)][state]; ok {
		return to
	}
	return "CLOSE"
}

// timeout of a state, in ticks.
func (d *Director) timeout(state string) int64 {
	t := d.state.Timeouts.WithDefaults()
	return d.ticks(map[string]time.Duration{
		"SYN_RECV": 60 * time.Second, "ESTABLISHED": t.TCP, "FIN_WAIT": t.TCPFin,
		"TIME_WAIT": 120 * time.Second, "CLOSE": 10 * time.Second, "UDP": t.UDP,
		"SYN_SENT": 120 * time.Second, "CLOSE_WAIT": 60 * time.Second,
	}[state])
}

func (d *Director) expired(f *flow) bool { return d.now-f.seen > d.timeout(f.state) }

func active(state string) bool {
	return state == "SYN_RECV" || state == "ESTABLISHED" || state == "SYN_SENT"
}

// twins are the connections that are known by the same words as k: those of
// clients of one name (IPv6). None of them is proven while there are several.
func (d *Director) twins(k tuple) (all []*flow) {
	if !k.client.Addr().Is6() {
		return nil
	}
	for other, f := range d.flows {
		if other != k && other.proto == k.proto && other.vip == k.vip && other.client.Port() == k.client.Port() &&
			d.world.Name(other.client.Addr()) == d.world.Name(k.client.Addr()) {
			all = append(all, f)
		}
	}
	return all
}

// EndExpired ends the connections that have expired, and nothing else that a
// sweep does.
func (d *Director) EndExpired() {
	maps.DeleteFunc(d.flows, func(_ tuple, f *flow) bool { return d.expired(f) })
}

// load counts a real's connections. An entry that has expired counts until
// the next sweep.
func (d *Director) load(r *real) (act, inact uint64) {
	for _, f := range d.flows {
		switch {
		case f.real != r:
		case active(f.state):
			act++
		default:
			inact++
		}
	}
	return act, inact
}

// whose is the key of a client's template.
func (v *service) whose(a netip.Addr) client {
	bits := v.conf.Persistence.Prefix
	if bits == 0 {
		bits = a.BitLen()
	}
	return client{netip.PrefixFrom(a, bits).Masked().Addr(), v}
}

// templateOf finds a client's template for a new connection; one that is no
// longer valid is deleted (ip_vs_check_template).
func (d *Director) templateOf(k client) *template {
	t := d.liveTemplate(k)
	if t != nil && !d.keepsClients(t.real) {
		delete(d.templates, k)
		return nil
	}
	return t
}

// liveTemplate finds a client's template, whether new connections may follow
// it or not.
func (d *Director) liveTemplate(k client) *template {
	t := d.templates[k]
	if t != nil && t.expires < d.now {
		delete(d.templates, k)
		return nil
	}
	return t
}

// keepsClients reports whether new connections may follow a real's templates.
func (d *Director) keepsClients(r *real) bool {
	quiesced := d.state.ExpireQuiescentTempl && !r.usable()
	return r.reachable() && !r.host.Silent && !quiesced
}

// until is the end of a template that a connection restarts now.
func (d *Director) until(t *template) int64 {
	if t.renewed {
		return d.now + d.minute()
	}
	return d.now + d.ticks(t.real.service.conf.Persistence.Timeout)
}

// minute is what a template that outlived its timeout is given at a time.
func (d *Director) minute() int64 { return d.ticks(60 * time.Second) }

// renewMargin: a sweep comes every five seconds, so a template is renewed
// when it has so many ticks left.
const renewMargin = 12

// renew lets the template of a live connection live on (ip_vs_conn_expire).
func (d *Director) renew(k tuple, f *flow) {
	v := f.real.service
	if !v.conf.Persistence.Enabled() {
		return
	}
	t := d.templates[v.whose(k.client.Addr())]
	if t != nil && t.real == f.real && t.expires >= d.now && t.expires-d.now <= renewMargin {
		t.expires += d.minute()
		t.renewed = true
	}
}

// assure notes that one of a client's connections was established, or seen
// again after that, if only by a reply of a real that is away. If the client
// has no template (its time was over) he gets one now, of a real that keeps
// its clients.
func (d *Director) assure(k tuple, r *real) {
	v := r.service
	isSorry := r.there && !slices.ContainsFunc(v.conf.Reals, r.conf.Same)
	if !v.conf.Persistence.Enabled() || isSorry {
		return // a sorry server keeps nobody
	}
	t := d.liveTemplate(v.whose(k.client.Addr()))
	if t == nil {
		if !v.there || !d.keepsClients(r) {
			return
		}
		t = &template{real: r}
		t.expires = d.until(t)
		d.templates[v.whose(k.client.Addr())] = t
	}
	if t.real == r { // ip_vs_control_assure_ct: the connection's own
		t.assured = true
	}
}
