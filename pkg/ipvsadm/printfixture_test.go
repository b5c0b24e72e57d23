package ipvsadm

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// recordedListing is the table of ipvs-facts/11 as lvx would come to list it:
// what was asked for, what the kernel holds, what was counted.
func recordedListing(t *testing.T) Listing {
	addr := netip.MustParseAddr
	real := func(a string, weight uint16) lb.Real { return lb.Real{Addr: addr(a), Weight: weight} }
	service := func(name, vip string, p lb.Protocol, port uint16, s lb.Scheduler, reals ...lb.Real) lb.Service {
		return lb.Service{Name: name, Scheduler: s, Reals: reals, Listeners: []lb.Listener{{Addr: addr(vip), Proto: p, First: port, Last: port}}}
	}
	second := real("10.0.0.12", 1)
	second.Upper, second.Lower = 100, 50
	tunnel := real("10.0.0.13", 10)
	tunnel.Forward = lb.Tunnel
	nat := real("10.0.0.12", 255)
	nat.Forward, nat.Port = lb.NAT, 8081
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{
		service("web", "10.0.0.100", lb.TCP, 80, lb.WRR, real("10.0.0.11", 3), second, real("10.0.0.13", 0)),
		service("tls", "10.0.0.100", lb.TCP, 443, lb.RR, real("10.0.0.11", 1), real("10.0.0.12", 1)),
		service("mail", "10.0.0.100", lb.TCP, 25, lb.SH, real("127.0.0.1", 1)),
		service("dns", "10.0.0.100", lb.UDP, 53, lb.RR, real("10.0.0.11", 1)),
		service("log", "10.0.0.100", lb.UDP, 514, lb.WLC, tunnel),
		service("mark", "10.0.0.100", lb.TCP, 9000, lb.LC, real("10.0.0.13", 1)),
		service("alt", "10.0.0.101", lb.TCP, 8080, lb.MH, nat),
		service("six", "2001:db8::100", lb.TCP, 80, lb.RR, real("2001:db8::11", 1)),
		service("sctp", "10.0.0.100", 132, 5060, lb.RR),
	}}
	s.Services[1].Persistence.Timeout = 300 * time.Second
	s.Services[2].Flags = lb.SHPort | lb.SHFallback
	s.Services[3].OnePacket = true
	s.Services[4].Persistence = lb.Persistence{Timeout: 100 * time.Second, Prefix: 16}
	s.Services[5].Mark = 3
	s.Services[6].Flags = lb.MHPort
	stats := recordedStats()
	return NewListing(s, recordedObserved(s), stats, recordedRates(stats), recordedConnections(t))
}

// recordedObserved is a kernel that holds what was asked for, every real under
// the port that it has there.
func recordedObserved(s lb.State) lb.Observed {
	var o lb.Observed
	for _, v := range s.Services {
		ov := lb.ObservedService{Name: v.Name, Mark: v.Mark}
		for _, r := range v.Reals {
			port := r.Port
			if port == 0 && !v.ByMark() {
				port = v.Listeners[0].First
			}
			ov.Reals = append(ov.Reals, lb.ObservedReal{Addr: r.Addr, Port: port, Weight: r.Weight, Usable: r.Weight > 0})
		}
		o.Services = append(o.Services, ov)
	}
	return o
}

func recordedStats() lb.Stats {
	real := func(a string, port uint16, active, inactive, persist uint32, c lb.Counters) lb.RealStats {
		return lb.RealStats{Addr: netip.MustParseAddr(a), Port: port, Active: active, Inactive: inactive, Persist: persist, Counters: c}
	}
	in := func(conns, pkts, bytes uint64) lb.Counters {
		return lb.Counters{Conns: conns, InPkts: pkts, InBytes: bytes}
	}
	log := lb.Counters{Conns: 1, InPkts: 1, InBytes: 29, OutPkts: 2, OutBytes: 86}
	return lb.Stats{Services: []lb.ServiceStats{
		{Name: "web", Counters: in(12, 21, 3840), Reals: []lb.RealStats{
			real("10.0.0.11", 80, 6, 3, 0, in(9, 18, 3720)), real("10.0.0.12", 80, 3, 0, 0, in(3, 3, 120)),
		}},
		{Name: "tls", Counters: in(4, 8, 320), Reals: []lb.RealStats{
			real("10.0.0.11", 0, 2, 0, 1, in(2, 4, 160)), real("10.0.0.12", 0, 2, 0, 1, in(2, 4, 160)),
		}},
		{Name: "dns", Counters: in(5, 5, 145), Reals: []lb.RealStats{real("10.0.0.11", 53, 0, 0, 0, in(5, 5, 145))}},
		{Name: "log", Counters: log, Reals: []lb.RealStats{real("10.0.0.13", 514, 0, 1, 1, log)}},
		{Name: "mark", Counters: in(1, 1, 40), Reals: []lb.RealStats{real("10.0.0.13", 0, 1, 0, 0, in(1, 1, 40))}},
	}}
}

// recordedRates are those of one burst, one quiet period after it.
func recordedRates(s lb.Stats) []lb.ServiceRates {
	var m lb.Meter
	m.Feed(lb.Stats{})
	m.Feed(s)
	m.Feed(s)
	return m.Rates()
}

// recordedConnections reads the connections of ipvsadm -lnc: there are too
// many to write down again, and the printer must find their columns itself.
func recordedConnections(t *testing.T) []lb.Connection {
	t.Helper()
	var conns []lb.Connection
	for _, line := range strings.Split(factsBlocks(t, "11-print.txt", "ipvsadm -lnc")[0], "\n")[2:] {
		if f := strings.Fields(line); len(f) > 0 {
			conns = append(conns, parseConnection(t, f))
		}
	}
	return conns
}

func parseConnection(t *testing.T, f []string) lb.Connection {
	t.Helper()
	expires, err := time.ParseDuration(strings.Replace(f[1], ":", "m", 1) + "s")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort
	return lb.Connection{
		Proto: map[string]lb.Protocol{"TCP": lb.TCP, "UDP": lb.UDP, "IP": 0}[f[0]], Expires: expires + 300*time.Millisecond,
		State: f[2], Client: addr(f[3]), Virtual: addr(f[4]), Real: addr(f[5]), Template: addr(f[3]).Port() == 0,
	}
}
