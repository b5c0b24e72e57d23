package ipvsadm

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// see notes an option, which may be there once.
func (p *parser) see(o option) *Failure {
	if p.seen[o] {
		return fatal(fmt.Sprintf("multiple '%s' options specified", o))
	}
	p.seen[o] = true
	return nil
}

// number sets an option whose value is a number in range.
func (p *parser) number(o option, text string, least, most int, wrong string, to func(int)) *Failure {
	if fail := p.see(o); fail != nil {
		return fail
	}
	n, ok := parseNumber(text, least, most)
	if !ok {
		return fatal(wrong)
	}
	to(n)
	return nil
}

func (p *parser) address(proto lb.Protocol, text string) *Failure {
	if fail := p.see(optService); fail != nil {
		return fail
	}
	p.Key.Proto = proto
	at := p.parseAddress(text, proto)
	if !at.ok {
		return fatal("illegal virtual server address[:port] specified")
	}
	p.Key.Addr, p.is6 = at.addr, at.addr.Is6()
	if p.is6 {
		p.prefix = 128
	}
	if at.hasPort {
		p.Key.Port = at.port
	}
	return nil
}

func setTCP(p *parser, v string, _ bool) *Failure  { return p.address(lb.TCP, v) }
func setUDP(p *parser, v string, _ bool) *Failure  { return p.address(lb.UDP, v) }
func setSCTP(p *parser, v string, _ bool) *Failure { return p.address(lb.SCTP, v) }

func setMark(p *parser, v string, _ bool) *Failure {
	if fail := p.see(optService); fail != nil {
		return fail
	}
	n, ok := parseLong(v)
	if !ok || n <= 0 || n > math.MaxUint32 {
		return fatal(fmt.Sprintf("invalid fwmark value `%s' specified", v))
	}
	p.Key.Mark, p.is6 = uint32(n), false
	return nil
}

func setIPv6(p *parser, _ string, _ bool) *Failure {
	if p.Key.Mark == 0 {
		return fatal("-6 used before -f\n")
	}
	p.Key.IPv6, p.is6, p.prefix = true, true, 128
	return nil
}

// The kernel's names of schedulers and engines have 16 bytes at most.
const nameLen = 16

func setScheduler(p *parser, v string, _ bool) *Failure {
	p.Service.Scheduler = cut(v, nameLen)
	return p.see(optScheduler)
}

func setEngine(p *parser, v string, _ bool) *Failure {
	p.Service.Engine = cut(v, nameLen)
	return p.see(optEngine)
}

// maxTimeout is the longest time that ipvsadm takes: 31 days.
const maxTimeout = 31 * 86400

// defaultPersistence is that of -p without a value; the manual says 300.
const defaultPersistence = 360

func setPersistent(p *parser, v string, given bool) *Failure {
	if fail := p.see(optPersistent); fail != nil {
		return fail
	}
	if !given {
		p.Service.Persistent = defaultPersistence
		return nil
	}
	n, fail := parseTimeout(v, 1)
	p.Service.Persistent = n
	return fail
}

func parseTimeout(text string, least int) (int, *Failure) {
	n, ok := parseNumber(text, least, maxTimeout)
	if !ok {
		return 0, fatal(fmt.Sprintf("invalid timeout value `%s' specified", text))
	}
	return n, nil
}

func setNetmask(p *parser, v string, _ bool) *Failure {
	if fail := p.see(optNetmask); fail != nil {
		return fail
	}
	if p.is6 {
		p.prefix = leadingNumber(v)
		if p.prefix < 1 || p.prefix > 128 {
			return fatal("illegal ipv6 netmask specified")
		}
		return nil
	}
	mask, ok := parseIPv4(v)
	if !ok {
		mask, ok = p.host.Addr(v)
	}
	if !ok {
		return fatal("illegal virtual server persistent mask specified")
	}
	p.netmask = mask
	return nil
}

func setServer(p *parser, v string, _ bool) *Failure {
	if fail := p.see(optServer); fail != nil {
		return fail
	}
	at := p.parseAddress(v, p.Key.Proto)
	if !at.ok {
		return fatal("illegal real server address[:port] specified")
	}
	p.Server.Addr, p.Server.Port = at.addr, p.Key.Port
	if at.hasPort {
		p.Server.Port = at.port
	}
	return nil
}

func (p *parser) forward(f lb.Forward) *Failure {
	p.Server.Forward = f
	return p.see(optForward)
}

func setMasquerading(p *parser, _ string, _ bool) *Failure { return p.forward(lb.NAT) }
func setTunneling(p *parser, _ string, _ bool) *Failure    { return p.forward(lb.Tunnel) }
func setGatewaying(p *parser, _ string, _ bool) *Failure   { return p.forward(lb.DR) }

func setWeight(p *parser, v string, _ bool) *Failure {
	return p.number(optWeight, v, 0, math.MaxInt32, "illegal weight specified", func(n int) { p.Server.Weight = int32(n) })
}

func setUpper(p *parser, v string, _ bool) *Failure {
	return p.number(optUpper, v, 0, math.MaxInt32, "illegal u_threshold specified", func(n int) { p.Server.Upper = uint32(n) })
}

func setLower(p *parser, v string, _ bool) *Failure {
	return p.number(optLower, v, 0, math.MaxInt32, "illegal l_threshold specified", func(n int) { p.Server.Lower = uint32(n) })
}

func setOnePacket(p *parser, _ string, _ bool) *Failure {
	p.Service.OnePacket = true
	return p.see(optOnePacket)
}

func setSchedFlags(p *parser, v string, _ bool) *Failure {
	p.schedFlags = cut(v, 127) // ipvsadm keeps no more
	return p.see(optSchedFlags)
}

// The views of -L.

func (p *parser) view(o option, is *bool) *Failure {
	*is = true
	return p.see(o)
}

func setNumeric(p *parser, _ string, _ bool) *Failure { return p.view(optNumeric, &p.View.Numeric) }
func setConnection(p *parser, _ string, _ bool) *Failure {
	return p.view(optConnection, &p.View.Connections)
}
func setTimeout(p *parser, _ string, _ bool) *Failure { return p.view(optTimeout, &p.View.Timeout) }
func setDaemon(p *parser, _ string, _ bool) *Failure  { return p.view(optDaemon, &p.View.Daemon) }
func setStats(p *parser, _ string, _ bool) *Failure   { return p.view(optStats, &p.View.Stats) }
func setRate(p *parser, _ string, _ bool) *Failure    { return p.view(optRate, &p.View.Rate) }
func setThresholds(p *parser, _ string, _ bool) *Failure {
	return p.view(optThresholds, &p.View.Thresholds)
}
func setPersistentConn(p *parser, _ string, _ bool) *Failure {
	return p.view(optPersistentConn, &p.View.PersistentConn)
}
func setTunInfo(p *parser, _ string, _ bool) *Failure { return p.view(optTunInfo, &p.View.TunInfo) }
func setNoSort(p *parser, _ string, _ bool) *Failure  { return p.view(optNoSort, &p.View.NoSort) }
func setExact(p *parser, _ string, _ bool) *Failure   { return p.view(optExact, &p.View.Exact) }

// The sync daemons.

func setMcastInterface(p *parser, v string, _ bool) *Failure {
	p.Daemon.Interface = cut(v, nameLen)
	return p.see(optMcast)
}

func setSyncID(p *parser, v string, _ bool) *Failure {
	return p.number(optSyncID, v, 0, 255, "illegal syncid specified", func(n int) { p.Daemon.ID = n })
}

func setMcastGroup(p *parser, v string, _ bool) *Failure {
	if fail := p.see(optMcastGroup); fail != nil {
		return fail
	}
	a, err := netip.ParseAddr(v)
	family := "IPv4"
	for _, c := range v {
		if c == ':' {
			family = "IPv6"
		}
	}
	if err != nil || !a.IsMulticast() || a.Zone() != "" {
		return fatal(fmt.Sprintf("invalid %s mcast-group `%s'", family, v))
	}
	p.Daemon.Group = a
	return nil
}

func setMcastPort(p *parser, v string, _ bool) *Failure {
	return p.number(optMcastPort, v, 1, 65535, "illegal mcast-port specified", func(n int) { p.Daemon.Port = n })
}

func setMcastTTL(p *parser, v string, _ bool) *Failure {
	return p.number(optMcastTTL, v, 1, 255, "illegal mcast-ttl specified", func(n int) { p.Daemon.TTL = n })
}

func setSyncMaxLen(p *parser, v string, _ bool) *Failure {
	return p.number(optSyncMaxLen, v, 1, 65535-20-8, "illegal sync-maxlen specified", func(n int) { p.Daemon.MaxLen = n })
}

// Tunnels.

func setTunType(p *parser, v string, _ bool) *Failure {
	if fail := p.see(optTunType); fail != nil {
		return fail
	}
	kind := slices.Index(lb.EncapKinds[:], v)
	if kind < 0 {
		return fatal("illegal tunnel type specified")
	}
	p.Server.Tunnel.Kind = lb.EncapKind(kind)
	return nil
}

func setTunPort(p *parser, v string, _ bool) *Failure {
	return p.number(optTunPort, v, 1, 65535, "illegal tunnel port specified", func(n int) { p.Server.Tunnel.Port = uint16(n) })
}

func (p *parser) checksum(o option, c lb.EncapChecksum) *Failure {
	p.Server.Tunnel.Checksum = c
	return p.see(o)
}

func setTunNoCsum(p *parser, _ string, _ bool) *Failure {
	return p.checksum(optTunNoCsum, lb.NoChecksum)
}
func setTunCsum(p *parser, _ string, _ bool) *Failure { return p.checksum(optTunCsum, lb.WithChecksum) }
func setTunRemCsum(p *parser, _ string, _ bool) *Failure {
	return p.checksum(optTunRemCsum, lb.RemoteChecksum)
}
