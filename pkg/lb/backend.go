package lb

import (
	"context"
	"net/netip"
	"time"
)

// Backend puts a [State] into the kernel and reports what the kernel does with
// it. A Backend is used by one goroutine at a time.
type Backend interface {
	// Apply makes the kernel hold s. It is idempotent: applying the same
	// state again changes nothing but repairs what others changed. Existing
	// connections survive. On error the previous state is still in force
	// for every service that the error names; the error says what to do.
	// Nobody writes to s afterwards: the backend may keep it.
	Apply(ctx context.Context, s State) error

	// Observed reports what the kernel holds now, as far as it is ours.
	Observed() (Observed, error)

	// Stats reports the counters of every service, in the order of the
	// applied state.
	Stats() (Stats, error)

	// Connections lists the live connections and persistence templates. It
	// stops after limit entries; 0 means all.
	Connections(limit int) ([]Connection, error)

	// Explain reports what would happen to a packet, without sending or
	// changing anything.
	Explain(p Packet) (Explanation, error)

	// Close takes everything that is ours out of the kernel. With keep it
	// leaves the data path running for a successor instead.
	Close(keep bool) error
}

// Leaser is implemented by backends that can go silent by themselves.
type Leaser interface {
	// Renew lets lease id live for d from now; d <= 0 ends it at once.
	Renew(id uint32, d time.Duration) error

	// LeaseLeft is what is left of lease id, also of one that an earlier daemon
	// renewed; 0 if the lease is over.
	LeaseLeft(id uint32) time.Duration
}

// Switcher is implemented by backends that need no Apply to change what is
// standby: a takeover does not wait for thousands of services to be laid out.
type Switcher interface {
	// Switch changes which VIPs are standby, as an Apply of the state
	// applied last would with these [State.VIPs]. They differ from the
	// applied ones in Standby only. On error nothing has changed, and an
	// Apply is needed.
	Switch(vips []VIP) error
}

// Inheritor is implemented by backends whose data path outlives its daemon.
type Inheritor interface {
	// Inherited reports the services that a predecessor left in force, each
	// with those of its reals that took new connections or would have with a
	// weight above 0. It is asked before the first Apply.
	Inherited() []ObservedService

	// InheritedVIPs lists the VIPs that a predecessor forwarded for, or would
	// have if nobody had died: those that were not on standby. It is asked
	// before the first Apply.
	InheritedVIPs() []netip.Addr
}

// Binder is implemented by backends that say which clients persistence binds
// to a real, and that may let them go.
type Binder interface {
	// Bound lists the clients that templates bind to a real of a service, or
	// the networks that they are of, at most limit of them; n counts all.
	Bound(service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int, err error)

	// Unbind ends these templates and counts them, also those that ended before
	// an error. Connections stay. The error is [errors.ErrUnsupported] where
	// templates end by themselves alone.
	Unbind(service string, real netip.AddrPort) (ended int, err error)
}

// Observed is what a backend found in the kernel.
type Observed struct {
	Backend  string            // "xdp" or "ipvs"
	Mode     string            // how it runs: "native", "generic", or the kernel's IPVS version
	Detail   string            // one line for status: interfaces, program, reasons for a fallback
	Services []ObservedService // in the order of the applied state
}

// ObservedService is one service as the kernel holds it.
type ObservedService struct {
	Name    string
	Mark    uint32 // the mark it is listed under, 0 if it is listed by address
	Backend string // "xdp" or "ipvs"
	Reason  string // why this backend, if it is not the one first asked
	Reals   []ObservedReal
}

// ObservedReal is one real server as the kernel holds it.
type ObservedReal struct {
	Addr   netip.Addr
	Port   uint16
	Weight uint16
	Usable bool   // the data path would schedule it now
	Reason string // why not, for people: "no MAC: 172.25.0.12 does not answer ARP on eth0"
	MAC    string // where direct routing sends its frames, if known
	Device string // the interface they leave by
}

// Counters count one direction of traffic and its connections.
type Counters struct {
	Conns    uint64 // connections scheduled since the start
	InPkts   uint64
	InBytes  uint64 // IP length, without Ethernet, as IPVS counts
	OutPkts  uint64 // always 0 for direct routing: replies do not pass the director
	OutBytes uint64
}

// RealStats are the counters of one real of one service.
type RealStats struct {
	Addr     netip.Addr
	Port     uint16
	Active   uint32 // connections in SYN_RECV or ESTABLISHED
	Inactive uint32 // all other connections
	Persist  uint32 // persistence templates
	Counters
}

// ServiceStats are the counters of one service and its reals, in order.
type ServiceStats struct {
	Name string
	Counters
	Reals  []RealStats
	Absent []RealStats // the connections of those that are down, where the data path keeps them

	// Of a service that keeps no connections (see [Service.KeepsNoFlows]), where
	// the data path is made for that: the rows of its hash table, and those whose
	// connections are kept because the row has got another real.
	Rows, UnsettledRows int
}

// Real finds the counters of a real, which may be absent.
func (s *ServiceStats) Real(key netip.AddrPort) (r RealStats, ok bool) {
	for _, all := range [][]RealStats{s.Reals, s.Absent} {
		for _, r := range all {
			if r.Addr == key.Addr() && r.Port == key.Port() {
				return r, true
			}
		}
	}
	return RealStats{}, false
}

// Verdict counts packets by what the packet path decided.
type Verdict struct {
	Name    string // a name from the packet path's enum, e.g. "forwarded"
	Meaning string // one line for people
	Count   uint64
}

// Stats are all counters of a backend.
type Stats struct {
	Services []ServiceStats
	Verdicts []Verdict
	Flows    TableStats
	Template TableStats
}

// TableStats tell how full a table is and what it had to give up.
type TableStats struct {
	Capacity uint64 // entries that are guaranteed a place
	Used     uint64
	Evicted  map[string]uint64 // by kind: "expired", "half_open", "unproven", "established"
}

// Connection is one connection or persistence template, as ipvsadm -lc shows
// it.
type Connection struct {
	Service  string
	Proto    Protocol // 0 for the template of a mark service ("IP")
	Expires  time.Duration
	State    string         // SYN_RECV, ESTABLISHED, FIN_WAIT, TIME_WAIT, CLOSE, UDP, NONE, ASSURED
	Client   netip.AddrPort // port 0 for a template
	Virtual  netip.AddrPort // for the template of a mark service: address 0.0.0.MARK, port 0
	Real     netip.AddrPort
	Template bool
	Synced   bool // another director told of it
}

// Bound counts those of the templates that bind clients of a service to a real,
// and lists limit of their clients: what [Binder.Bound] is for a backend that has
// its entries as a list alone.
func Bound(entries []Connection, service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int) {
	for _, c := range entries {
		isOfReal := c.Real.Addr() == real.Addr() && (real.Port() == 0 || c.Real.Port() == real.Port())
		if !c.Template || c.Service != service || !isOfReal {
			continue
		}
		if n++; n <= limit {
			client := c.Client.Addr()
			clients = append(clients, netip.PrefixFrom(client, client.BitLen()))
		}
	}
	return clients, n
}

// Packet is a packet that [Backend.Explain] is asked about.
type Packet struct {
	Proto Protocol
	Src   netip.AddrPort
	Dst   netip.AddrPort
	Flags string // TCP flags as letters, "S" if empty
	Size  int    // bytes from the IP header on; less than the headers need means no more than these

	// Of ICMP; the ports of Src and Dst mean nothing then.
	ICMPType uint8
	ICMPCode uint8
	Quotes   *Packet // the connection, as its client sends it, that an error is about
}

// Explanation answers "why does this packet go there?".
type Explanation struct {
	Verdict string   `json:"verdict"`           // from the verdict enum
	Service string   `json:"service,omitempty"` // "" if no service takes it
	Real    string   `json:"real,omitempty"`    // "" if none
	Steps   []string `json:"steps"`             // what was looked at, in order, one line each
}
