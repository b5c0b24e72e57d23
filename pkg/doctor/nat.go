package doctor

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// examineNAT looks at what NAT needs of this host, which is the gateway of the
// reals: that it forwards, and that the packet path sees their replies. Whether the
// reals have it as their gateway shows by their replies alone: see the warnings of
// the daemon.
func (e *exam) examineNAT() {
	forwards := map[string]bool{}
	type place struct {
		real  netip.Addr
		isXDP bool
	}
	named := map[place]bool{}
	var private, vips []netip.Addr
	for _, svc := range e.Config.Services {
		for _, r := range svc.Reals {
			isXDP := e.Config.Backend != config.BackendIPVS && !e.OnIPVS[svc.Name]
			if r.Forward != lb.NAT {
				continue
			}
			if isXDP {
				vips = appendUDP(vips, svc.Listeners)
			}
			if named[place{r.Addr, isXDP}] {
				continue
			}
			named[place{r.Addr, isXDP}] = true
			route, err := e.host.Route(r.Addr)
			if err != nil {
				e.addNote(Unknown, "real "+r.Addr.String(), "by which interface its replies come is not known: "+err.Error(), "")
				continue
			}
			if route.IsLocal {
				continue
			}
			if r.Addr.Is6() {
				forwards["net.ipv6.conf.all.forwarding"] = true
			} else {
				forwards["net.ipv4.ip_forward"] = true
			}
			if r.Addr.IsPrivate() {
				private = append(private, r.Addr)
			}
			if isXDP && !slices.Contains(e.Config.Interfaces, route.Device) {
				e.add(NotServed, "real "+r.Addr.String(), "is reached by NAT, and its replies come by "+route.Device+", which XDP does not serve",
					"add "+route.Device+" to interfaces:")
			}
			if isXDP {
				e.judgeMasquerading(r.Addr, route.Device)
			}
		}
	}
	e.examineWayOut(private)
	e.examineVIPsByNAT(vips)
	for key := range forwards {
		value, err := e.host.Sysctl(key)
		switch {
		case err != nil:
			e.addNote(Unknown, "sysctl "+key, err.Error(), "")
		case value == "0":
			e.add(NoForwarding, "sysctl "+key, "is 0: this host is the gateway of reals by NAT, and passes on nothing that they send", "sysctl -w "+key+"=1")
		}
	}
}

// judgeMasquerading looks for rules that hide clients from a real, whose replies then
// come back whatever its gateway is. Kernel IPVS heeds them where vs.conntrack is 1.
func (e *exam) judgeMasquerading(real netip.Addr, device string) {
	if tracked, err := e.host.Sysctl("net.ipv4.vs.conntrack"); err == nil && tracked == "0" {
		return
	}
	subject := "real " + real.String()
	rules, err := e.host.Masquerading(netip.Addr{}, real, device)
	if err != nil {
		e.addNote(Unknown, subject, "whether the firewall masquerades what goes to it is not known: "+err.Error(), "")
		return
	}
	for _, rule := range rules {
		e.add(BypassedNAT, subject, "netfilter would hide clients from it ("+rule+"), but XDP is before it: it sees their addresses",
			"make this host its gateway and remove the rule, or use backend: ipvs")
	}
}

// examineWayOut looks at how reals by NAT reach the outside on their own, by this host
// as their gateway.
func (e *exam) examineWayOut(private []netip.Addr) {
	if len(private) == 0 {
		return
	}
	for _, name := range e.Config.Interfaces {
		if i, err := e.host.Interface(name); err != nil || !i.IsDefault {
			continue
		}
		for _, real := range private {
			if rules, err := e.host.Masquerading(real, netip.Addr{}, name); err == nil && len(rules) == 0 {
				command := "iptables"
				if real.Is6() {
					command = "ip6tables"
				}
				e.addNote(NoMasquerade, "real "+real.String(), "what it sends of its own leaves by "+name+" with its private address: no rule masquerades it",
					"if it is to reach out: "+command+" -t nat -A POSTROUTING -s "+real.String()+" -o "+name+" -j MASQUERADE")
				return // the others have the same cure
			}
		}
	}
}

// appendUDP appends the addresses that listeners of UDP have, each once.
func appendUDP(vips []netip.Addr, listeners []lb.Listener) []netip.Addr {
	for _, l := range listeners {
		if l.Proto == lb.UDP && !slices.Contains(vips, l.Addr) {
			vips = append(vips, l.Addr)
		}
	}
	return vips
}

// examineVIPsByNAT looks for rules that give replies from a VIP another source. XDP is
// before them; but a reply whose client's MAC has to be asked for is sent by the kernel's
// stack. TCP does without a finding: connection tracking takes a SYN+ACK alone for invalid
// and leaves the packet as it is, and what is lost later is sent again.
func (e *exam) examineVIPsByNAT(vips []netip.Addr) {
	for _, vip := range vips {
		for _, name := range e.Config.Interfaces {
			rules, err := e.host.Masquerading(vip, netip.Addr{}, name)
			if err != nil {
				e.addNote(Unknown, "VIP "+vip.String(), "whether the firewall masquerades replies from it is not known: "+err.Error(), "")
				break
			}
			for _, rule := range rules {
				e.add(HiddenVIP, "VIP "+vip.String(), "netfilter gives replies of UDP another source ("+rule+") whose client's MAC the kernel has to ask for: these clients do not take them",
					"have the rule name whom it is for: -s and the network of the real servers")
			}
		}
	}
}
