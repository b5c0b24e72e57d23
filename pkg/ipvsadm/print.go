package ipvsadm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// View is what of a listing is printed, and how: the options of ipvsadm -L.
type View struct {
	Stats          bool // --stats: counters
	Rate           bool // --rate: rates per second
	Connections    bool // -c: connections and templates
	Timeout        bool // --timeout
	PersistentConn bool // --persistent-conn: templates per real
	Thresholds     bool // --thresholds
	TunInfo        bool // --tun-info: how tunnels are made
	Daemon         bool // --daemon: the daemons of connection sync
	NoSort         bool // --nosort: services and reals in the order of the data path
	Exact          bool // --exact: large numbers in full
	Numeric        bool // -n: neither hosts nor services by name
	MarkSynced     bool // mark connections that another director told of; ipvsadm does not
	JSON           bool // --json: everything, whatever else is asked for
	Only           *Key // this service alone, without the first line
	Names          Names
}

// ErrViews is wrong usage, exit code 2. The words are ipvsadm's.
var ErrViews = errors.New("options conflicts in the list command")

// Names gives names to addresses and ports; "" where there is none.
type Names interface {
	HostName(a netip.Addr) string
	PortName(port uint16, p lb.Protocol) string
}

// conflict reports whether views exclude each other.
func (v View) conflict() bool {
	return (v.Connections || v.Timeout || v.Daemon) && (v.Stats || v.Rate || v.Thresholds) ||
		(v.Timeout || v.Daemon) && v.PersistentConn
}

// Print writes what ipvsadm 1.31 writes for the same options, byte for
// byte; it sorts l for that. Options that exclude each other are ErrViews; of several views
// the first of stats, rate, thresholds and persistent-conn is shown. Without
// Names it is as if Numeric were set.
func Print(w io.Writer, l Listing, o View) error {
	if o.conflict() {
		return ErrViews
	}
	if !o.NoSort {
		l.sort()
	}
	if o.JSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(l)
	}
	b := bufio.NewWriter(w)
	p := listPrinter{Writer: b, View: o}
	switch {
	case o.Connections:
		p.connections(l.Connections)
	case o.Daemon:
		p.daemons(l.Daemons)
	case o.Timeout:
		fmt.Fprintf(b, "Timeout (tcp tcpfin udp): %d %d %d\n", l.Timeouts.TCP, l.Timeouts.TCPFin, l.Timeouts.UDP)
	default:
		p.services(l.Services)
	}
	return b.Flush() // reports the first error of all writes
}

// listPrinter writes to a buffer that remembers its first error.
type listPrinter struct {
	*bufio.Writer
	View
}

func (p listPrinter) services(services []ListedService) {
	if p.Only == nil {
		fmt.Fprint(p, "IP Virtual Server version 1.2.1 (size=4096)\n")
	}
	switch {
	case p.Stats:
		p.title("%-33s %8s %8s %8s %8s %8s\n", "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes")
	case p.Rate:
		p.title("%-33s %8s %8s %8s %8s %8s\n", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")
	case p.Thresholds:
		p.title("%-33s %-10s %-10s %-10s %-10s\n", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn")
	case p.PersistentConn:
		p.title("%-33s %-9s %-11s %-10s %-10s\n", "Weight", "PersistConn", "ActiveConn", "InActConn")
	case p.TunInfo:
		fmt.Fprint(p, "Prot LocalAddress:Port Scheduler Flags\n"+
			"  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n")
	default:
		fmt.Fprint(p, "Prot LocalAddress:Port Scheduler Flags\n"+
			"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n")
	}
	for _, s := range services {
		if p.Only != nil && *p.Only != s.Key() {
			continue
		}
		p.service(s)
		for _, r := range s.Reals {
			p.real(r, s.Proto)
		}
	}
}

func (p listPrinter) title(format string, columns ...any) {
	fmt.Fprintf(p, format, append([]any{"Prot LocalAddress:Port"}, columns...)...)
	fmt.Fprint(p, "  -> RemoteAddress:Port\n")
}

// service prints the line of a service (print_service_entry).
func (p listPrinter) service(s ListedService) {
	name := p.serviceName(s)
	switch {
	case p.Stats:
		fmt.Fprintf(p, "%-33s", name)
		p.numbers(s.Stats.Conns, s.Stats.InPkts, s.Stats.OutPkts, s.Stats.InBytes, s.Stats.OutBytes)
	case p.Rate:
		fmt.Fprintf(p, "%-33s", name)
		p.numbers(s.Rates.CPS, s.Rates.InPPS, s.Rates.OutPPS, s.Rates.InBPS, s.Rates.OutBPS)
	default:
		fmt.Fprintf(p, "%s %s", name, s.Scheduler)
		if len(s.Flags) > 0 {
			fmt.Fprintf(p, " (%s)", strings.Join(s.Flags, ","))
		}
		if s.Persistence > 0 {
			fmt.Fprintf(p, " persistent %d", s.Persistence)
			if s.Mask != "" {
				fmt.Fprintf(p, " mask %s", s.Mask)
			}
			if s.Engine != "" {
				fmt.Fprintf(p, " pe %s", s.Engine)
			}
		}
		fmt.Fprint(p, s.words())
	}
	fmt.Fprint(p, "\n")
}

// serviceName is at most 33 characters long for IPv4. A mark is printed as a
// signed number: ipvsadm does.
func (p listPrinter) serviceName(s ListedService) string {
	switch {
	case s.Mark != 0 && s.IPv6:
		return fmt.Sprintf("FWM  %d IPv6", int32(s.Mark))
	case s.Mark != 0:
		return fmt.Sprintf("FWM  %d", int32(s.Mark))
	}
	name := fmt.Sprintf("%-4s %s", protoName(s.Proto), p.name(s.Addr, s.Port, s.Proto))
	if s.IPv6 {
		return name
	}
	return cut(name, 33)
}

// real prints the line of a real server.
func (p listPrinter) real(r ListedReal, proto lb.Protocol) {
	name := p.name(r.Addr, r.Port, proto)
	if !r.Addr.Is6() {
		name = cut(name, 28)
	}
	fmt.Fprintf(p, "  -> %-28s", name)
	switch {
	case p.Stats:
		p.numbers(r.Stats.Conns, r.Stats.InPkts, r.Stats.OutPkts, r.Stats.InBytes, r.Stats.OutBytes)
	case p.Rate: // here ipvsadm never shortens connections and packets
		fmt.Fprintf(p, " %8d %8d %8d", r.Rates.CPS, r.Rates.InPPS, r.Rates.OutPPS)
		p.numbers(r.Rates.InBPS, r.Rates.OutBPS)
	case p.Thresholds:
		fmt.Fprintf(p, " %-10d %-10d %-10d %-10d", r.Upper, r.Lower, r.Active, r.Inactive)
	case p.PersistentConn:
		fmt.Fprintf(p, " %-9d %-11d %-10d %-10d", r.Weight, r.Persist, r.Active, r.Inactive)
	case p.TunInfo:
		tunnel := "n/a"
		if r.Forward == "Tunnel" {
			tunnel = encapInfo(r.Tunnel)
		}
		fmt.Fprintf(p, " %-7s %-13s %-6d %-10d %-10d", r.Forward, tunnel, r.Weight, r.Active, r.Inactive)
	default:
		fmt.Fprintf(p, " %-7s %-6d %-10d %-10d", r.Forward, r.Weight, r.Active, r.Inactive)
	}
	fmt.Fprint(p, "\n")
}

// numbers prints counters in columns of nine, from 100 million on in
// thousands and so on unless they shall be exact (print_largenum).
func (p listPrinter) numbers(all ...uint64) {
	for _, n := range all {
		if p.Exact && n >= 1e8 {
			fmt.Fprintf(p, " %d", n)
			continue
		}
		switch {
		case p.Exact || n < 1e8:
			fmt.Fprintf(p, "%9d", n)
		case n < 1e9:
			fmt.Fprintf(p, "%8dK", n/1e3)
		case n < 1e11:
			fmt.Fprintf(p, "%8dM", n/1e6)
		case n < 1e14:
			fmt.Fprintf(p, "%8dG", n/1e9)
		default:
			fmt.Fprintf(p, "%8dT", n/1e12)
		}
	}
}

// connections prints the table of connections (print_conn). lvx has no
// persistence engines, so those columns of persistent-conn have only a title.
func (p listPrinter) connections(conns []ListedConnection) {
	fmt.Fprint(p, "IPVS connection entries\n")
	fmt.Fprintf(p, "pro expire %-11s %-18s %-18s ", "state", "source", "virtual")
	if p.PersistentConn {
		fmt.Fprintf(p, "%-18s %-16s %s\n", "destination", "pe name", "pe_data")
	} else {
		fmt.Fprint(p, "destination\n")
	}
	for _, c := range conns {
		proto := "IP" // templates of marks
		if c.Proto != 0 {
			proto = protoName(c.Proto)
		}
		expires := fmt.Sprintf("%02d:%02d", c.Expires/60, c.Expires%60)
		name := func(a netip.AddrPort) string { return p.name(a.Addr(), a.Port(), c.Proto) }
		mark := ""
		if p.MarkSynced && c.Synced {
			mark = " sync"
		}
		fmt.Fprintf(p, "%-3s %-6s %-11s %-18s %-18s %s%s\n", proto, expires, c.State, name(c.Client), name(c.Virtual), name(c.Real), mark)
	}
}

func protoName(p lb.Protocol) string {
	switch p {
	case lb.TCP:
		return "TCP"
	case lb.UDP:
		return "UDP"
	case lb.SCTP:
		return "SCTP"
	}
	return "?"
}

// name is an address and a port, at most 59 bytes long (addrport_to_anyname).
// The port of a mark's real has no protocol and therefore no name.
func (p listPrinter) name(a netip.Addr, port uint16, proto lb.Protocol) string {
	host, service := "", ""
	if !p.Numeric && p.Names != nil {
		host, service = p.Names.HostName(a), p.Names.PortName(port, proto)
	}
	if host == "" {
		host = a.String()
	}
	if service == "" {
		service = strconv.Itoa(int(port))
	}
	if a.Is6() {
		host = "[" + host + "]"
	}
	return cut(host+":"+service, 59)
}

func cut(s string, most int) string { return s[:min(len(s), most)] }
