package ipvsadm

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Host is what the parser asks of the host that it runs on.
type Host interface {
	// Addr is gethostbyname(3) for IPv4.
	Addr(name string) (netip.Addr, bool)
	// Port is getservbyname(3).
	Port(name string, proto lb.Protocol) (uint16, bool)
}

// defaultScheduler is that of ipvsadm and of keepalived.
const defaultScheduler = "wlc"

// parser is parse_options of ipvsadm: options have effects in the order in
// which they are typed.
type parser struct {
	Command
	host Host
	seen [numOptions]bool

	netmask    netip.Addr // -M of IPv4
	prefix     int        // -M of IPv6; naming an address or -6 resets it
	is6        bool       // the family of the service so far
	schedFlags string
}

// Parse understands a command line; program is the name that it was called
// by. Help and the version come back as a [Failure] with status 0, whose text
// is for standard output.
func Parse(program string, args []string, h Host) (Command, *Failure) {
	p := parser{host: h}
	p.Server.Weight = 1
	s := scanner{words: args}
	if fail := p.first(program, &s); fail != nil {
		return Command{}, fail
	}
	for {
		f, why := s.option()
		switch {
		case why != "":
			return Command{}, &Failure{Text: s.word() + ": " + why, Status: 255}
		case f.spec == nil:
			return p.finish(s.others)
		case f.set == nil:
			return Command{}, fatal(fmt.Sprintf("invalid option `%s'", s.word()))
		}
		if fail := f.set(&p, f.value, f.given); fail != nil {
			return Command{}, fail
		}
	}
}

// first takes the first option, which has to be a command.
func (p *parser) first(program string, s *scanner) *Failure {
	f, why := s.option()
	if why != "" || f.spec == nil || f.is == isOption {
		return tryHelp(program)
	}
	switch f.is {
	case isHelp:
		return &Failure{Text: usage(program), Ends: true}
	case isVersion:
		return &Failure{Text: versionLine, Ends: true}
	}
	p.Op = f.command
	p.Daemon.Master = f.value == "master"
	if f.value != "master" && f.value != "backup" {
		switch p.Op {
		case StartDaemon:
			return fatal("illegal start-daemon parameter specified")
		case StopDaemon:
			return fatal("illegal start_daemon specified")
		}
	}
	return nil
}

func tryHelp(program string) *Failure {
	return &Failure{Text: fmt.Sprintf("Try `%s -h' or '%s --help' for more information.", program, program), Status: 255, Ends: true}
}

// finish does what ipvsadm does after the last option.
func (p *parser) finish(others []string) (Command, *Failure) {
	if p.Op == SetTimeouts {
		if len(others) < 3 {
			return Command{}, fatal("--set option requires 3 timeout values")
		}
		for i, word := range others[:3] {
			n, fail := parseTimeout(word, 0)
			if fail != nil {
				return Command{}, fail
			}
			p.Timeouts[i] = n
		}
		others = others[3:]
	}
	if len(others) > 0 {
		return Command{}, fatal("unexpected argument " + others[0])
	}
	for _, step := range []func() *Failure{p.parseSchedFlags, p.checkOptions, p.checkService, p.checkServer, p.checkViews} {
		if fail := step(); fail != nil {
			return Command{}, fail
		}
	}
	p.takeMask()
	return p.Command, nil
}

// checkOptions is generic_opt_check.
func (p *parser) checkOptions() *Failure {
	return checkLegal(legal[p.Op], p.seen[:], 0, fmt.Sprintf("the '%s' command", p.Op))
}

// checkLegal holds options against a row of a table, the first of them being
// that of the row's first column.
func checkLegal(row string, seen []bool, first option, where string) *Failure {
	last := option(0)
	exclusive := false
	for i, is := range seen {
		o := first + option(i)
		switch {
		case !is && row[i] == '+':
			return fatal(fmt.Sprintf("You need to supply the '%s' option for %s", o, where))
		case !is:
		case row[i] == 'x':
			return fatal(fmt.Sprintf("Illegal '%s' option with %s", o, where))
		case row[i] == '1' && exclusive:
			return fatal(fmt.Sprintf("The option '%s' conflicts with the '%s' option in %s", o, last, where))
		case row[i] == '1':
			last, exclusive = o, true
		}
	}
	return nil
}

func (p *parser) checkService() *Failure {
	if p.Op != AddService && p.Op != EditService {
		return nil
	}
	if p.Key.Mark == 0 && p.Key.Port == 0 && p.Service.Persistent == 0 {
		return fatal("Zero port specified for non-persistent service")
	}
	if p.Service.OnePacket && p.Key.Mark == 0 && p.Key.Proto != lb.UDP {
		return fatal("One-Packet Scheduling is only for UDP virtual services")
	}
	if p.Service.Scheduler == "" {
		p.Service.Scheduler = defaultScheduler
	}
	return nil
}

func (p *parser) checkServer() *Failure {
	if p.Op != AddServer && p.Op != EditServer {
		return nil
	}
	// Only masquerading can translate ports.
	if p.Key.Mark == 0 && p.Server.Forward != lb.NAT {
		p.Server.Port = p.Key.Port
	}
	if p.Server.Addr.Is6() != p.is6 && p.Server.Forward != lb.Tunnel {
		return fatal("Different address family is allowed only for tunneling servers")
	}
	tunneled := p.seen[optTunType:]
	if p.Server.Forward != lb.Tunnel {
		for _, is := range tunneled {
			if is {
				return fatal("Tunnel options conflict with forward method")
			}
		}
		return nil
	}
	return checkLegal(legalTunnel[p.Server.Tunnel.Kind], tunneled[1:], optTunPort, fmt.Sprintf("the '%s' tunnel type", p.Server.Tunnel.Kind))
}

func (p *parser) checkViews() *Failure {
	if p.Op == List && p.View.conflict() {
		return fatal(ErrViews.Error())
	}
	return nil
}

// takeMask gives the service the mask of its own family.
func (p *parser) takeMask() {
	if p.is6 {
		if p.prefix != 128 {
			p.Service.Prefix = p.prefix
		}
	} else if p.netmask != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		p.Service.Mask = p.netmask
	}
	if p.Service.Persistent == 0 { // it has no meaning, and nothing shows it
		p.Service.Mask, p.Service.Prefix = netip.Addr{}, 0
	}
}

// parseSchedFlags reads -b, for which the scheduler has to be known.
func (p *parser) parseSchedFlags() *Failure {
	if p.schedFlags == "" {
		return nil
	}
	scheduler := p.Service.Scheduler
	if scheduler == "" {
		scheduler = defaultScheduler
	}
	flags := strings.FieldsFunc(p.schedFlags, func(r rune) bool { return r == ',' })
	if len(flags) == 0 { // ipvsadm 1.31 crashes
		return fatal("invalid scheduler flag `'")
	}
	for _, flag := range flags {
		known := false
		for _, f := range schedFlags {
			if f.name != flag {
				continue
			}
			if f.scheduler != "" && f.scheduler != scheduler {
				return fatal(fmt.Sprintf("incompatible scheduler flag `%s'", flag))
			}
			p.Service.Flags |= f.bit
			known = true
		}
		if !known {
			return fatal(fmt.Sprintf("invalid scheduler flag `%s'", flag))
		}
	}
	return nil
}

// schedFlags are the names of -b.
var schedFlags = []struct {
	name, scheduler string
	bit             uint8
}{
	{"flag-1", "", 1}, {"flag-2", "", 2}, {"flag-3", "", 4},
	{"sh-fallback", "sh", 1}, {"sh-port", "sh", 2},
	{"mh-fallback", "mh", 1}, {"mh-port", "mh", 2},
}
