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
	KeepNodestConn       bool // net.ipv4.vs.expire_nodest_conn = 0: packets of a removed real's connections are dropped silently until it returns, instead of being reset
	ExpireQuiescentTempl bool // net.ipv4.vs.expire_quiescent_template
	Deny                 []netip.Prefix
	Allow                []netip.Prefix
	Peers                []netip.Addr // fellow directors: what they balanced already is not balanced again
	Standby              []netip.Addr // VIPs that another director owns now: nothing for them is forwarded
	Leases               []Lease      // VIPs that are served only while a lease is renewed
}

// Lease names VIPs that this host serves only until a deadline, so that it
// goes silent by itself when the daemon that speaks VRRP for it dies.
type Lease struct {
	ID  uint32 // small and stable: the index of the VRRP instance, from 0
	VIP []netip.Addr
}

// Service finds a service by name.
func (s State) Service(name string) (Service, bool) {
	i := slices.IndexFunc(s.Services, func(v Service) bool { return v.Name == name })
	if i < 0 {
		return Service{}, false
	}
	return s.Services[i], true
}

// VIPs lists the addresses that the services listen on, each once, in the
// order of the services.
func (s State) VIPs() []netip.Addr {
	var vips []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, svc := range s.Services {
		for _, l := range svc.Listeners {
			if !seen[l.Addr] {
				seen[l.Addr] = true
				vips = append(vips, l.Addr)
			}
		}
	}
	return vips
}

// Clone copies s so deeply that the copy can be changed.
func (s State) Clone() State {
	s.Services = slices.Clone(s.Services)
	for i := range s.Services {
		s.Services[i] = s.Services[i].Clone()
	}
	s.Deny = slices.Clone(s.Deny)
	s.Allow = slices.Clone(s.Allow)
	s.Peers = slices.Clone(s.Peers)
	s.Standby = slices.Clone(s.Standby)
	s.Leases = slices.Clone(s.Leases)
	for i := range s.Leases {
		s.Leases[i].VIP = slices.Clone(s.Leases[i].VIP)
	}
	return s
}
