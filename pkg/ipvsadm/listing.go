package ipvsadm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Listing is everything that "lvx list" can show; with --json it is printed
// as it is.
type Listing struct {
	Services    []ListedService    `json:"services"`              // printed in the order of ipvsadm -L
	Connections []ListedConnection `json:"connections,omitempty"` // in the order of the backend
	Timeouts    ListedTimeouts     `json:"timeouts"`
	Daemons     []Daemon           `json:"daemons,omitempty"` // of connection sync
}

// ListedService is a virtual service as ipvsadm knows them: one address and
// port, or a firewall mark.
type ListedService struct {
	Name        string       `json:"name"`
	Mark        uint32       `json:"mark,omitempty"`     // 0 if listed by address
	Proto       lb.Protocol  `json:"protocol,omitempty"` // of a service by address: 6 TCP, 17 UDP
	Addr        netip.Addr   `json:"address,omitzero"`   // of a service by address
	Port        uint16       `json:"port,omitempty"`     // 0 is every port
	IPv6        bool         `json:"ipv6,omitempty"`
	Listeners   []string     `json:"listeners"` // as the configuration file writes them
	Scheduler   string       `json:"scheduler"`
	Flags       []string     `json:"flags,omitempty"`       // of the scheduler: sh-port ...
	Persistence int          `json:"persistence,omitempty"` // timeout in seconds, 0 = not persistent
	Mask        string       `json:"mask,omitempty"`        // of persistent clients, "" for whole addresses
	Engine      string       `json:"engine,omitempty"`      // of persistence; lvx has none
	OnePacket   bool         `json:"one_packet,omitempty"`
	Stateless   bool         `json:"stateless,omitempty"` // what it counts is connections of a change alone
	Stats       ListedStats  `json:"stats"`
	Rates       ListedRates  `json:"rates"`
	Reals       []ListedReal `json:"reals"`
}

// words are what stands at the end of a service's line.
func (l *ListedService) words() (all string) {
	if l.OnePacket {
		all += " ops"
	}
	if l.Stateless {
		all += " stateless"
	}
	return all
}

// ListedReal is a real server of a service.
type ListedReal struct {
	Addr     netip.Addr  `json:"address"`
	Port     uint16      `json:"port"`
	Forward  string      `json:"forward"`         // Route, Masq, Tunnel
	Tunnel   lb.Encap    `json:"tunnel,omitzero"` // of forward Tunnel
	Weight   int32       `json:"weight"`
	Upper    uint32      `json:"upper_threshold,omitempty"`
	Lower    uint32      `json:"lower_threshold,omitempty"`
	Active   uint32      `json:"active"`
	Inactive uint32      `json:"inactive"`
	Persist  uint32      `json:"persistent"`
	Usable   bool        `json:"usable"`
	Reason   string      `json:"reason,omitempty"` // why it is not usable
	Stats    ListedStats `json:"stats"`
	Rates    ListedRates `json:"rates"`
}

// ListedStats is lb.Counters as JSON.
type ListedStats struct {
	Conns    uint64 `json:"conns"`
	InPkts   uint64 `json:"in_packets"`
	InBytes  uint64 `json:"in_bytes"`
	OutPkts  uint64 `json:"out_packets"`
	OutBytes uint64 `json:"out_bytes"`
}

// ListedRates is lb.Rates as JSON.
type ListedRates struct {
	CPS    uint64 `json:"conns"`
	InPPS  uint64 `json:"in_packets"`
	OutPPS uint64 `json:"out_packets"`
	InBPS  uint64 `json:"in_bytes"`
	OutBPS uint64 `json:"out_bytes"`
}

// ListedConnection is a connection or a persistence template.
type ListedConnection struct {
	Service  string         `json:"service,omitempty"`
	Proto    lb.Protocol    `json:"protocol"` // 0 for the template of a mark service
	Expires  int            `json:"expires"`  // in whole seconds
	State    string         `json:"state"`
	Client   netip.AddrPort `json:"client"`
	Virtual  netip.AddrPort `json:"virtual"`
	Real     netip.AddrPort `json:"real"`
	Template bool           `json:"template,omitempty"`
	Synced   bool           `json:"synced,omitempty"` // another director told of it
}

// ListedTimeouts are the timeouts of connections in seconds.
type ListedTimeouts struct {
	TCP    int `json:"tcp"`
	TCPFin int `json:"tcp_fin"`
	UDP    int `json:"udp"`
}

// NewListing puts together what the state asks for and what the kernel holds.
// A service or real that the kernel does not hold is not listed. Services are
// in the order of the state, the reals of each newest first, as --nosort shows
// them.
func NewListing(s lb.State, o lb.Observed, st lb.Stats, rates []lb.ServiceRates, conns []lb.Connection) Listing {
	observed := byName(o.Services, func(v lb.ObservedService) string { return v.Name })
	stats := byName(st.Services, func(v lb.ServiceStats) string { return v.Name })
	rate := byName(rates, func(v lb.ServiceRates) string { return v.Name })
	l := Listing{Services: []ListedService{}, Timeouts: newTimeouts(s.Timeouts)}
	for _, v := range s.Services {
		if ov, ok := observed[v.Name]; ok {
			l.Services = append(l.Services, newService(v, ov, stats[v.Name], rate[v.Name]))
		}
	}
	for _, c := range conns {
		l.Connections = append(l.Connections, ListedConnection{
			Service: c.Service, Proto: c.Proto, Expires: int(c.Expires / time.Second), State: c.State,
			Client: c.Client, Virtual: c.Virtual, Real: c.Real, Template: c.Template, Synced: c.Synced,
		})
	}
	return l
}

func byName[T any](all []T, name func(T) string) map[string]T {
	m := make(map[string]T, len(all))
	for _, v := range all {
		m[name(v)] = v
	}
	return m
}

func newTimeouts(t lb.Timeouts) ListedTimeouts {
	t = t.WithDefaults()
	return ListedTimeouts{TCP: int(t.TCP / time.Second), TCPFin: int(t.TCPFin / time.Second), UDP: int(t.UDP / time.Second)}
}

func newService(v lb.Service, o lb.ObservedService, st lb.ServiceStats, rate lb.ServiceRates) ListedService {
	l := ListedService{
		Name: v.Name, Mark: o.Mark,
		Scheduler: string(v.Scheduler), Flags: flagNames(v.Scheduler, v.Flags),
		Persistence: int(v.Persistence.Timeout / time.Second),
		OnePacket:   v.OnePacket,
		Stateless:   v.KeepsNoFlows() && o.Backend == "xdp",
		Stats:       ListedStats(st.Counters), Rates: ListedRates(rate.Rates),
		Reals: []ListedReal{},
	}
	if len(v.Listeners) == 0 { // a mark whose packets nothing describes yet
		l.IPv6 = len(v.Reals) > 0 && v.Reals[0].Addr.Is6()
	}
	for i, at := range v.Listeners {
		l.Listeners = append(l.Listeners, at.String())
		l.IPv6 = at.Addr.Is6()
		if i == 0 && l.Mark == 0 {
			l.Proto, l.Addr, l.Port = at.Proto, at.Addr, at.First
		}
	}
	if v.Persistence.Enabled() {
		l.Mask = maskOf(v.Persistence.Prefix, l.IPv6)
	}
	l.addReals(v, o, st, rate)
	return l
}

// addReals joins what four sources say of each real; they agree on what it is
// by its address and the port that the kernel has it under.
func (l *ListedService) addReals(v lb.Service, o lb.ObservedService, st lb.ServiceStats, rate lb.ServiceRates) {
	key := func(a netip.Addr, port uint16) netip.AddrPort { // direct routing: the service's port
		if port == 0 {
			port = l.Port
		}
		return netip.AddrPortFrom(a, port)
	}
	wanted := map[netip.AddrPort]lb.Real{}
	for _, r := range v.Reals {
		wanted[key(r.Addr, r.Port)] = r
	}
	stats := map[netip.AddrPort]lb.RealStats{}
	for _, r := range st.Reals {
		stats[key(r.Addr, r.Port)] = r
	}
	rates := map[netip.AddrPort]lb.Rates{}
	for _, r := range rate.Reals {
		rates[key(r.Addr, r.Port)] = r.Rates
	}
	for _, r := range o.Reals {
		k := key(r.Addr, r.Port)
		w, s := wanted[k], stats[k]
		l.Reals = append(l.Reals, ListedReal{
			Addr: k.Addr(), Port: k.Port(), Weight: int32(r.Weight), Usable: r.Usable, Reason: r.Reason,
			Forward: forwardNames[w.Forward], Tunnel: w.Encap,
			Upper: w.Upper, Lower: w.Lower,
			Active: s.Active, Inactive: s.Inactive, Persist: s.Persist,
			Stats: ListedStats(s.Counters), Rates: ListedRates(rates[k]),
		})
	}
	slices.Reverse(l.Reals) // the kernel puts a new one first
}

// sort puts services and reals into the order that ipvsadm shows.
func (l Listing) sort() {
	mergeSort(l.Services, compareServices)
	for _, s := range l.Services {
		mergeSort(s.Reals, func(a, b ListedReal) int {
			return cmp.Or(compareAddrs(a.Addr, b.Addr), int(a.Port)-int(b.Port))
		})
	}
}

// mergeSort is qsort(3) of glibc. The order that ipvsadm sorts by is none:
// 127.0.0.1 comes before 192.168.0.1, that before 10.0.0.1, and that before
// 127.0.0.1. What comes out depends on which are compared.
func mergeSort[T any](all []T, compare func(a, b T) int) {
	if len(all) < 2 {
		return
	}
	left, right := slices.Clone(all[:len(all)/2]), all[len(all)/2:]
	mergeSort(left, compare)
	mergeSort(right, compare)
	for i := range all {
		if len(left) == 0 {
			return
		}
		if len(right) == 0 || compare(left[0], right[0]) <= 0 {
			all[i], left = left[0], left[1:]
		} else {
			all[i], right = right[0], right[1:]
		}
	}
}

// forwardNames are ipvsadm's words (fwd_name).
var forwardNames = [...]string{lb.DR: "Route", lb.NAT: "Masq", lb.Tunnel: "Tunnel"}

// flagNames are the words for a scheduler's flags.
func flagNames(s lb.Scheduler, f lb.SchedFlags) []string {
	own := map[lb.Scheduler][2]lb.SchedFlags{lb.SH: {lb.SHFallback, lb.SHPort}, lb.MH: {lb.MHFallback, lb.MHPort}}[s]
	var bits uint8
	for i, flag := range own { // another scheduler's flags mean nothing
		if f&flag != 0 {
			bits |= 1 << i
		}
	}
	return flagWords(string(s), bits)
}

// flagWords are the words that ipvsadm prints for the flags 1, 2 and 3
// (print_sched_flags).
func flagWords(scheduler string, bits uint8) (words []string) {
	names := [...]string{"flag-1", "flag-2", "flag-3"}
	if scheduler == "sh" || scheduler == "mh" {
		names = [...]string{scheduler + "-fallback", scheduler + "-port", ""}
	}
	for i, name := range names {
		if bits>>i&1 != 0 && name != "" {
			words = append(words, name)
		}
	}
	return words
}

// maskOf writes a persistence mask as ipvsadm does: dotted for IPv4, a length
// for IPv6, nothing for whole addresses.
func maskOf(prefix int, ipv6 bool) string {
	switch {
	case prefix == 0 || ipv6 && prefix == 128 || !ipv6 && prefix == 32:
		return ""
	case ipv6:
		return fmt.Sprint(prefix)
	}
	return net.IP(net.CIDRMask(prefix, 32)).String()
}

// compareServices is ipvs_cmp_services of ipvsadm's libipvs: by mark, address
// family, protocol, address and port. Marks and addresses are compared by the
// sign of their 32-bit difference, so 192.168.0.1 comes before 10.0.0.1.
func compareServices(a, b ListedService) int {
	family := map[bool]int{true: 1}
	return cmp.Or(
		difference(a.Mark, b.Mark),
		family[a.IPv6]-family[b.IPv6],
		int(a.Proto)-int(b.Proto),
		compareAddrs(a.Addr, b.Addr),
		int(a.Port)-int(b.Port),
	)
}

func difference(a, b uint32) int { return int(int32(a - b)) }

// compareAddrs compares word by word, as ipvs_cmp_dests does.
func compareAddrs(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	for i := 0; i < 16; i += 4 {
		if d := difference(binary.BigEndian.Uint32(x[i:]), binary.BigEndian.Uint32(y[i:])); d != 0 {
			return d
		}
	}
	return 0
}
