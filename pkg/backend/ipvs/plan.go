package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cloudflare/ipvs"
	"github.com/cloudflare/ipvs/netmask"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A plan is what the kernel should hold for a state.
type plan struct {
	state    lb.State // with the services that failed as they were before
	virtuals []virtual
	rules    ruleset
	sysctls  map[string]string
	timeouts ipvs.Config
	marks    map[string]uint32 // numbers of our choosing, by service
}

// A virtual is one service of the kernel with its reals in the order of the
// file. A service of lvx is one of them, or two if it has listeners of both
// address families.
type virtual struct {
	name  string // of the lb.Service
	svc   ipvs.Service
	reals []ipvs.Destination

	// The sorry server, quiesced, if it is to stay where it has served: see
	// [lb.Service.SorryInhibit].
	inhibited *ipvs.Destination
}

// A key identifies a service in the kernel: by mark, or by protocol, address
// and port.
type key struct {
	Mark   uint32         `json:"mark,omitempty"`
	Family uint16         `json:"family"`
	Proto  uint16         `json:"proto,omitempty"`
	Addr   netip.AddrPort `json:"addr,omitzero"`
}

func keyOf(s ipvs.Service) key {
	if s.FWMark != 0 {
		return key{Mark: s.FWMark, Family: uint16(s.Family)}
	}
	return key{Family: uint16(s.Family), Proto: uint16(s.Protocol), Addr: netip.AddrPortFrom(s.Address, s.Port)}
}

// service is the kernel's identity of k, enough to remove it.
func (k key) service() ipvs.Service {
	s := ipvs.Service{FWMark: k.Mark, Family: ipvs.AddressFamily(k.Family)}
	if k.Mark == 0 {
		s.Protocol, s.Address, s.Port = ipvs.Protocol(k.Proto), k.Addr.Addr(), k.Addr.Port()
	}
	return s
}

// String names k as ipvsadm does: "TCP 10.0.0.100:80", "FWM 10".
func (k key) String() string {
	if k.Mark != 0 {
		if ipvs.AddressFamily(k.Family) == ipvs.INET6 {
			return fmt.Sprintf("FWM %d IPv6", k.Mark)
		}
		return fmt.Sprintf("FWM %d", k.Mark)
	}
	proto := map[ipvs.Protocol]string{ipvs.TCP: "TCP", ipvs.UDP: "UDP", ipvs.SCTP: "SCTP"}[ipvs.Protocol(k.Proto)]
	return proto + " " + k.Addr.String()
}

// firstMark is where numbers of our own choosing begin ("lv" in ASCII), far
// from those that people write into firewall rules.
const firstMark = 0x6c760000

// newPlan compiles a state. The services in failed are wrong, or could not be
// made: the plan holds old's version of them, if old has one, so that they
// stay as they are.
func newPlan(s, old lb.State, failed map[string]error, marks map[string]uint32) plan {
	s = s.Clone()
	s.Services = slices.DeleteFunc(s.Services, func(svc lb.Service) bool {
		if failed[svc.Name] == nil { // which most are not: there may be ten thousand
			return false
		}
		_, had := old.Service(svc.Name)
		return !had
	})
	for i, svc := range s.Services {
		if failed[svc.Name] != nil {
			s.Services[i], _ = old.Service(svc.Name)
		}
	}
	p := plan{state: s, marks: assignMarks(s, marks), sysctls: sysctls(s)}
	standby := s.StandbyVIPs()
	for _, svc := range s.Services {
		p.virtuals = append(p.virtuals, virtuals(svc, standby, p.mark(svc))...)
	}
	p.rules = newRuleset(s, p.mark)
	t := s.Timeouts.WithDefaults()
	p.timeouts = ipvs.Config{TCPTimeout: seconds(t.TCP), TCPFinTimeout: seconds(t.TCPFin), UDPTimeout: seconds(t.UDP)}
	return p
}

// wrong finds the services of a state that IPVS cannot hold, by name.
func wrong(s lb.State, marks map[string]uint32) map[string]error {
	errs := map[string]error{}
	holder := map[key]string{}
	p := plan{marks: assignMarks(s, marks)}
	for _, svc := range s.Services {
		err := check(svc)
		for _, v := range virtuals(svc, nil, p.mark(svc)) {
			k := keyOf(v.svc)
			if other, taken := holder[k]; taken {
				err = errors.Join(err, fmt.Errorf("%s is service %s already", k, other))
			}
			holder[k] = svc.Name
		}
		if err != nil {
			errs[svc.Name] = fmt.Errorf("service %s: %w", svc.Name, err)
		}
	}
	return errs
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

// mark is the firewall mark that svc is served by, 0 if by its address.
func (p plan) mark(svc lb.Service) uint32 {
	if svc.Mark != 0 {
		return svc.Mark
	}
	return p.marks[svc.Name]
}

// needsMark reports whether svc has no mark and yet cannot be served by its
// address. The kernel serves every port of an address for persistent services
// only (ip_vs_schedule: "port zero only supported in persistent services").
func needsMark(svc lb.Service) bool {
	if svc.Mark != 0 || len(svc.Listeners) == 0 {
		return false
	}
	return svc.ByMark() || svc.Listeners[0].EveryPort() && !svc.Persistence.Enabled()
}

// assignMarks gives a number to each service that needs one, the one it had
// before if possible.
func assignMarks(s lb.State, before map[string]uint32) map[string]uint32 {
	taken := map[uint32]bool{0: true}
	for _, svc := range s.Services {
		taken[svc.Mark] = true
	}
	marks := map[string]uint32{}
	for _, svc := range s.Services {
		if m := before[svc.Name]; needsMark(svc) && !taken[m] {
			marks[svc.Name], taken[m] = m, true
		}
	}
	next := uint32(firstMark)
	for _, svc := range s.Services {
		if !needsMark(svc) || marks[svc.Name] != 0 {
			continue
		}
		for taken[next] {
			next++
		}
		marks[svc.Name], taken[next] = next, true
	}
	return marks
}

// check finds what IPVS cannot do.
func check(svc lb.Service) error {
	var errs []error
	if len(svc.Listeners) == 0 && svc.Mark == 0 {
		errs = append(errs, errors.New("no listener"))
	}
	seen := map[netip.AddrPort]bool{}
	for _, r := range svc.Reals {
		if len(svc.Listeners) > 0 && r.Forward != lb.Tunnel && !slices.ContainsFunc(svc.Listeners, func(l lb.Listener) bool { return l.Addr.Is4() == r.Addr.Is4() }) {
			errs = append(errs, fmt.Errorf("real %s: no listener of its address family (only a tunnel gets from IPv4 to IPv6 and back)", r.Addr))
		}
		if r.Lower > r.Upper && r.Upper != 0 {
			errs = append(errs, fmt.Errorf("real %s: lower_threshold %d above upper_threshold %d", r.Addr, r.Lower, r.Upper))
		}
		k := netip.AddrPortFrom(r.Addr, realPort(r, svc))
		if seen[k] {
			errs = append(errs, fmt.Errorf("real %s: listed twice (only forward: nat tells reals apart by port)", r.Addr))
		}
		seen[k] = true
	}
	return errors.Join(errs...)
}

// realPort is the port the kernel gives a real: direct routing and tunnels
// keep the packet's port, so it is the service's own there.
func realPort(r lb.Real, svc lb.Service) uint16 {
	var own uint16
	if !svc.ByMark() && len(svc.Listeners) == 1 {
		own = svc.Listeners[0].First
	}
	if r.Forward == lb.NAT && r.Port != 0 {
		return r.Port
	}
	return own
}

// virtuals makes the kernel's services for svc: none while all its VIPs are
// standby.
func virtuals(svc lb.Service, standby map[netip.Addr]bool, mark uint32) []virtual {
	var vs []virtual
	for _, family := range []ipvs.AddressFamily{ipvs.INET, ipvs.INET6} {
		var mine []lb.Listener
		for _, l := range svc.Listeners {
			if familyOf(l.Addr) == family && !standby[l.Addr] {
				mine = append(mine, l)
			}
		}
		if len(mine) == 0 && !isForeignMark(svc, family) {
			continue
		}
		v := virtual{name: svc.Name, svc: kernelService(svc, family)}
		if mark != 0 {
			v.svc.FWMark = mark
		} else {
			v.svc.Protocol, v.svc.Address, v.svc.Port = ipvs.Protocol(mine[0].Proto), mine[0].Addr, mine[0].First
		}
		v.reals = destinations(svc, family)
		if svc.SorryInhibit && svc.Sorry.IsValid() && familyOf(svc.Sorry) == family {
			d := sorryOf(svc, family)
			d.Weight = 0
			v.inhibited = &d
		}
		vs = append(vs, v)
	}
	return vs
}

// isForeignMark reports whether somebody else's rules mark the packets of svc:
// it has no listener, and its family is that of its reals.
func isForeignMark(svc lb.Service, family ipvs.AddressFamily) bool {
	if svc.Mark == 0 || len(svc.Listeners) > 0 {
		return false
	}
	if len(svc.Reals) == 0 {
		return family == ipvs.INET
	}
	return familyOf(svc.Reals[0].Addr) == family
}

func familyOf(a netip.Addr) ipvs.AddressFamily {
	if a.Is4() {
		return ipvs.INET
	}
	return ipvs.INET6
}

// kernelService is svc without its identity.
func kernelService(svc lb.Service, family ipvs.AddressFamily) ipvs.Service {
	bits := 128
	if family == ipvs.INET {
		bits = 32
	}
	k := ipvs.Service{Family: family, Scheduler: string(svc.Scheduler), Flags: schedFlags(svc), Netmask: netmask.MaskFrom(bits, bits)}
	if svc.OnePacket {
		k.Flags |= ipvs.ServiceOnePacket
	}
	if svc.Persistence.Enabled() {
		k.Flags |= ipvs.ServicePersistent
		k.Timeout = seconds(svc.Persistence.Timeout)
		if n := svc.Persistence.Prefix; n > 0 && n < bits {
			k.Netmask = netmask.MaskFrom(n, bits)
		}
	}
	return k
}

// schedFlags maps the flags of the service's scheduler (ip_vs.h:
// IP_VS_SVC_F_SCHED_SH_FALLBACK, _SH_PORT, _MH_FALLBACK, _MH_PORT).
func schedFlags(svc lb.Service) ipvs.Flags {
	var flags ipvs.Flags
	fallback, port := lb.SHFallback, lb.SHPort
	switch svc.Scheduler {
	case lb.SH:
	case lb.MH:
		fallback, port = lb.MHFallback, lb.MHPort
	default:
		return 0
	}
	if svc.Flags&fallback != 0 {
		flags |= ipvs.ServiceSchedulerOpt1
	}
	if svc.Flags&port != 0 {
		flags |= ipvs.ServiceSchedulerOpt2
	}
	return flags
}

// destinations are the reals of one address family, and the sorry server
// behind them while none of them takes connections.
func destinations(svc lb.Service, family ipvs.AddressFamily) []ipvs.Destination {
	var ds []ipvs.Destination
	usable := false
	isOfBoth := slices.ContainsFunc(svc.Listeners, func(l lb.Listener) bool { return familyOf(l.Addr) != family })
	for _, r := range svc.Reals {
		if familyOf(r.Addr) != family && (isOfBoth || r.Forward != lb.Tunnel) {
			continue
		}
		usable = usable || r.Weight > 0
		ds = append(ds, ipvs.Destination{
			Address: r.Addr, Port: realPort(r, svc), Family: familyOf(r.Addr), Weight: uint32(r.Weight),
			FwdMethod: forwardMethod(r.Forward), UpperThreshold: r.Upper, LowerThreshold: r.Lower,
			TunnelType: tunnelTypes[r.Encap.Kind], TunnelPort: r.Encap.Port, TunnelFlags: tunnelFlags[r.Encap.Checksum],
		})
	}
	if usable || !svc.Sorry.IsValid() || familyOf(svc.Sorry) != family {
		return ds
	}
	sorry := sorryOf(svc, family)
	ds = slices.DeleteFunc(ds, func(d ipvs.Destination) bool { return same(d, sorry) })
	return append(ds, sorry)
}

// sorryOf is the sorry server of a service while it stands in.
func sorryOf(svc lb.Service, family ipvs.AddressFamily) ipvs.Destination {
	return ipvs.Destination{
		Address: svc.Sorry, Port: realPort(lb.Real{Addr: svc.Sorry, Port: svc.SorryPort, Forward: svc.SorryForward}, svc), Family: family,
		Weight: 1, FwdMethod: forwardMethod(svc.SorryForward),
		TunnelType: tunnelTypes[svc.SorryEncap.Kind], TunnelPort: svc.SorryEncap.Port, TunnelFlags: tunnelFlags[svc.SorryEncap.Checksum],
	}
}

// wanted are the reals of v where the kernel has those of have: a sorry server
// that has served may stay. Behind those that are there before it, it need not
// be moved.
func (v virtual) wanted(have []ipvs.Destination) []ipvs.Destination {
	if v.inhibited == nil || index(v.reals, *v.inhibited) >= 0 {
		return v.reals
	}
	at := index(have, *v.inhibited)
	if at < 0 {
		return v.reals
	}
	before := 0
	for _, d := range have[:at] {
		if index(v.reals, d) >= 0 {
			before++
		}
	}
	return slices.Insert(slices.Clone(v.reals), before, *v.inhibited)
}

// What tunnels are made of, in the kernel's words.
var (
	tunnelTypes = [...]ipvs.TunnelType{lb.IPIP: ipvs.IPIP, lb.GUE: ipvs.GUE, lb.GRE: ipvs.GRE}
	tunnelFlags = [...]ipvs.TunnelFlags{
		lb.NoChecksum: ipvs.TunnelEncapNoChecksum, lb.WithChecksum: ipvs.TunnelEncapChecksum, lb.RemoteChecksum: ipvs.TunnelEncapRemoteChecksum,
	}
)

func forwardMethod(f lb.Forward) ipvs.ForwardType {
	switch f {
	case lb.NAT:
		return ipvs.Masquerade
	case lb.Tunnel:
		return ipvs.Tunnel
	}
	return ipvs.DirectRoute
}

// same reports whether two destinations of one service are the same one.
func same(a, b ipvs.Destination) bool { return a.Address == b.Address && a.Port == b.Port }

// sysctls are the knobs that s needs, below /proc/sys/net.
func sysctls(s lb.State) map[string]string {
	flag := func(b bool) string {
		if b {
			return "1"
		}
		return "0"
	}
	want := map[string]string{
		expireNodest:                        flag(s.ExpireNodestConn),
		"ipv4/vs/expire_quiescent_template": flag(s.ExpireQuiescentTempl),
		"ipv4/vs/sloppy_tcp":                flag(s.SloppyTCP),
	}
	for _, svc := range s.Services {
		for _, r := range slices.Concat(svc.Reals, svc.Absent) {
			if r.Forward != lb.NAT {
				continue
			}
			// The director routes both ways, and a stateful firewall on it
			// has to recognise the replies.
			want["ipv4/vs/conntrack"] = "1"
			if r.Addr.Is4() {
				want["ipv4/ip_forward"] = "1"
			} else {
				want["ipv6/conf/all/forwarding"] = "1"
			}
		}
	}
	return want
}
