package lb

import (
	"net/netip"
	"slices"
	"time"
)

// Timeouts are the connection timeouts that ipvsadm --set changes. Whole
// seconds; zero means the kernel's default.
type Timeouts struct {
	TCP    time.Duration // ESTABLISHED, default 900 s
	TCPFin time.Duration // FIN_WAIT, default 120 s
	UDP    time.Duration // default 300 s
}

// Default timeouts of kernel IPVS (ipvs-facts: "Timeout (tcp tcpfin udp):
// 900 120 300").
const (
	DefaultTCPTimeout    = 900 * time.Second
	DefaultTCPFinTimeout = 120 * time.Second
	DefaultUDPTimeout    = 300 * time.Second
)

// WithDefaults replaces zero timeouts by the kernel's defaults.
func (t Timeouts) WithDefaults() Timeouts {
	if t.TCP == 0 {
		t.TCP = DefaultTCPTimeout
	}
	if t.TCPFin == 0 {
		t.TCPFin = DefaultTCPFinTimeout
	}
	if t.UDP == 0 {
		t.UDP = DefaultUDPTimeout
	}
	return t
}

// State is everything a backend should hold: a plain value, compiled by
// director.Plan and applied as a whole.
type State struct {
	Services []Service // in the order of the file

	Timeouts             Timeouts
	SloppyTCP            bool // net.ipv4.vs.sloppy_tcp: any TCP packet may open a connection
	ExpireNodestConn     bool // net.ipv4.vs.expire_nodest_conn: packets of a removed real's connections are answered with a reset; without it they are dropped until the real returns
	ExpireQuiescentTempl bool // net.ipv4.vs.expire_quiescent_template
	Deny                 []netip.Prefix
	Allow                []netip.Prefix
	OuterSources         []netip.Prefix // where the outer headers of tunnels come from, one of each family at most; the flow chooses within the prefix; without one the host's own address
	Peers                []netip.Addr   // the other directors: a packet that one of them forwarded is not scheduled again
	VIPs                 []VIP          // the virtual addresses, each once; an address that only listeners name is served at all times
}

// VIP is a virtual address and what decides whether this host serves it.
type VIP struct {
	Addr    netip.Addr
	Owner   string // the VRRP instance that decides who serves the address; "" = this host, at all times
	Standby bool   // another director serves the address now: nothing for it is forwarded here
	Leased  bool   // served only while the lease is renewed: the host falls silent by itself when its daemon dies
	Lease   uint32 // number of the lease if Leased: small, and the same for every VIP of one owner
}

// Service finds a service by name.
func (s State) Service(name string) (Service, bool) {
	i := slices.IndexFunc(s.Services, func(v Service) bool { return v.Name == name })
	if i < 0 {
		return Service{}, false
	}
	return s.Services[i], true
}

// OuterSource is where outer headers to an address come from: the zero Prefix if
// from the host's own address.
func (s State) OuterSource(to netip.Addr) netip.Prefix {
	for _, p := range s.OuterSources {
		if p.Addr().Is4() == to.Is4() {
			return p
		}
	}
	return netip.Prefix{}
}

// HasVIP reports whether addr is a virtual address: VIPs or a listener names
// it.
func (s State) HasVIP(addr netip.Addr) bool {
	if slices.ContainsFunc(s.VIPs, func(v VIP) bool { return v.Addr == addr }) {
		return true
	}
	return slices.ContainsFunc(s.Services, func(svc Service) bool {
		return slices.ContainsFunc(svc.Listeners, func(l Listener) bool { return l.Addr == addr })
	})
}

// StandbyVIPs is the set of the addresses that another director serves now.
func (s State) StandbyVIPs() map[netip.Addr]bool {
	set := map[netip.Addr]bool{}
	for _, v := range s.VIPs {
		if v.Standby {
			set[v.Addr] = true
		}
	}
	return set
}

// Clone copies s so deeply that the copy can be changed.
func (s State) Clone() State {
	s.Services = slices.Clone(s.Services)
	for i := range s.Services {
		s.Services[i] = s.Services[i].Clone()
	}
	s.Deny = slices.Clone(s.Deny)
	s.Allow = slices.Clone(s.Allow)
	s.OuterSources = slices.Clone(s.OuterSources)
	s.Peers = slices.Clone(s.Peers)
	s.VIPs = slices.Clone(s.VIPs)
	return s
}
