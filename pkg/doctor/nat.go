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
	named := map[netip.Addr]bool{}
	for _, svc := range e.Config.Services {
		for _, r := range svc.Reals {
			if r.Forward != lb.NAT || named[r.Addr] {
				continue
			}
			named[r.Addr] = true
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
			isXDP := e.Config.Backend != config.BackendIPVS && !e.OnIPVS[svc.Name]
			if isXDP && !slices.Contains(e.Config.Interfaces, route.Device) {
				e.add(NotServed, "real "+r.Addr.String(), "is reached by NAT, and its replies come by "+route.Device+", which XDP does not serve",
					"add "+route.Device+" to interfaces:")
			}
		}
	}
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
