package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// Limits of virtual routers.
const (
	maxAuth    = 8   // characters that fit an advertisement of version 2
	maxLoss    = 253 // by which a tracked thing can lower a priority, keepalived's limit
	maxDelay   = 1000 * time.Second
	maxVIPs    = 255               // addresses that an advertisement can name
	maxSeconds = 255 * time.Second // an advertisement interval of version 2
)

// router is a virtual router with the places that later comparisons blame.
type router struct {
	vrrp.Instance
	hooks  RoleHooks
	object *object
}

// router reads one entry of vrrp. Its interface is by default the first one.
func (d *decoder) router(c *cursor, interfaces []string) router {
	o := c.object()
	r := router{object: o}
	first := ""
	if len(interfaces) > 0 {
		first = interfaces[0]
	}
	r.Name = need(o, "name", "a name that no other virtual router has", name)
	r.Interface = get(o, "interface", first, interfaceName)
	r.VRID = need(o, "virtual_router_id", "1 to 255, the same on all directors", number[uint8](1, 255))
	r.Version = get(o, "version", 2, number(2, 3))
	r.Priority = get(o, "priority", 100, number[uint8](1, 255))
	r.AdvertInterval = get(o, "advert_interval", time.Second, advertInterval(r.Version))
	r.AuthPass = get(o, "auth_pass", "", password)
	r.NoPreempt = !get(o, "preempt", true, boolean)
	r.PreemptDelay = get(o, "preempt_delay", 0, duration(0, maxDelay, time.Millisecond))
	r.StartupDelay = get(o, "startup_delay", 0, duration(0, maxDelay, time.Millisecond))
	r.UnicastPeers = get(o, "unicast_peers", nil, addresses("peer"))
	r.Source = get(o, "unicast_source", netip.Addr{}, address)
	r.Track = get(o, "track_interfaces", nil, list(track))
	r.TrackServices = get(o, "track_services", nil, list(name))
	r.TrackWeight = get(o, "track_weight", 0, number(0, maxLoss))
	r.hooks = get(o, "hooks", RoleHooks{}, roleHooks)
	r.TrackExec = get(o, "track_exec", nil, list(trackExec))
	r.TrackFiles = get(o, "track_file", nil, list(trackFile))
	r.TrackProcesses = get(o, "track_process", nil, list(trackProcess))
	r.TrackBFD = get(o, "track_bfd", nil, list(trackBFD))
	r.SyncGroup = get(o, "sync_group", "", name)
	r.Routing.Routes = get(o, "routes", nil, list(route))
	r.Routing.Rules = get(o, "rules", nil, list(rule))
	r.vips(need(o, "addresses", "the VIPs, [192.0.2.1/24], for example", list(routerVIP)))
	if o.done() {
		r.compare()
	}
	return r
}

// advertInterval reads the time between advertisements: what fits the field
// of a version's advertisements.
func advertInterval(version int) read[time.Duration] {
	if version == 3 {
		return duration(10*time.Millisecond, vrrp.MaxInterval, 10*time.Millisecond)
	}
	return duration(time.Second, maxSeconds, time.Second)
}

// password reads a secret. It is not shown.
func password(c *cursor) string {
	if c.node.ShortTag() == "!!bool" {
		c.errorf("a truth value (want up to %d characters in quotes)", maxAuth)
		return ""
	}
	s, ok := raw(c, fmt.Sprintf("up to %d characters in quotes", maxAuth))
	switch {
	case !ok:
	case len(s) > maxAuth:
		c.errorf("%d bytes long (want at most %d, which is what an advertisement holds)", len(s), maxAuth)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.errorf("a character that does not print (want others)")
	default:
		return s
	}
	return ""
}

// track reads the name of an interface, or a map with its weight.
func track(c *cursor) vrrp.Track {
	if c.node.ShortTag() != "!!map" {
		return vrrp.Track{Interface: interfaceName(c)}
	}
	o := c.object()
	t := vrrp.Track{
		Interface: need(o, "interface", "the name of an interface", interfaceName),
		Weight:    get(o, "weight", 0, number(0, maxLoss)),
	}
	o.done()
	return t
}

// vip reads an address with the length of its prefix, which is by default the
// whole address.
func vip(c *cursor) netip.Prefix {
	s := filled(c, "an address such as 192.0.2.1/24")
	a, err := netip.ParseAddr(s)
	p := netip.PrefixFrom(a, a.BitLen())
	if err != nil {
		p, err = netip.ParsePrefix(s)
		a = p.Addr()
	}
	switch {
	case s == "": // recorded
	case err != nil:
		c.errorf("%s is not an address (want 192.0.2.1/24, for example)", quoted(s))
	case virtual(a) != "":
		c.errorf("%s", virtual(a))
	case p.Bits() == 0:
		c.errorf("%s has a prefix of no length (want the length of the segment's, or %s)", quoted(s), a)
	default:
		c.unique("address", a.String(), a.String())
		return p
	}
	return netip.Prefix{}
}

// compare looks at what the keys of r say about each other.
func (r *router) compare() {
	o := r.object
	o.at("name").unique("virtual router", r.Name, quoted(r.Name))
	if len(r.Addresses) == 0 {
		o.at("addresses").errorf("no address (want at least one)")
		return
	}
	family := func(a netip.Addr) string {
		if a.Is4() {
			return "IPv4"
		}
		return "IPv6"
	}
	own := family(r.Addresses[0].Addr())
	o.at("virtual_router_id").unique("virtual router identifier",
		fmt.Sprint(r.Interface, r.VRID, own), fmt.Sprintf("%d for %s on %s", r.VRID, own, r.Interface))
	r.compareVersion(own)
	advertised := 0
	for _, a := range r.Addresses {
		if family(a.Addr()) == own && !slices.Contains(r.Unadvertised, a.Addr()) {
			advertised++
		}
	}
	if advertised == 0 {
		o.at("addresses").errorf("no %s address that is advertised (want at least one: an advertisement cannot be empty)", own)
	}
	if r.Source.IsValid() && family(r.Source) != own {
		o.at("unicast_source").errorf("%s with the address %s (want the family of the first address)", r.Source, r.Addresses[0])
	}
	if advertised > maxVIPs {
		o.at("addresses").errorf("%d %s addresses (want at most %d, which is what an advertisement holds)", advertised, own, maxVIPs)
	}
	for _, a := range r.UnicastPeers {
		if family(a) != own {
			o.at("unicast_peers").errorf("%s with the address %s (want the family of the first address)", a, r.Addresses[0])
		}
	}
	if o.has("track_weight") && len(r.TrackServices) == 0 {
		o.at("track_weight").errorf("%d without track_services (want both)", r.TrackWeight)
	}
	seen := map[string]bool{}
	for _, t := range r.Track {
		if seen[t.Interface] {
			o.at("track_interfaces").errorf("%s is there twice (want it once)", quoted(t.Interface))
		}
		seen[t.Interface] = true
	}
}

// compareVersion looks at what only one version can do.
func (r *router) compareVersion(own string) {
	switch o := r.object; {
	case r.Version == 2 && own == "IPv6":
		o.at("addresses").errorf("%s in version 2 (want an IPv4 address first, or version: 3)", r.Addresses[0])
	case r.Version == 3 && r.AuthPass != "":
		o.at("auth_pass").errorf("a password in version 3 (want none, RFC 5798 has no authentication; or version: 2)")
	}
}

// groups looks at what virtual routers say of each other and of services.
func (d *decoder) groups(routers []router, services []service) {
	members := map[string]int{}
	known := map[string]bool{}
	for _, r := range routers {
		members[r.SyncGroup]++
	}
	for _, s := range services {
		known[s.Name] = true
	}
	for _, r := range routers {
		if r.SyncGroup != "" && members[r.SyncGroup] == 1 {
			r.object.at("sync_group").warnf("%s has one member only", quoted(r.SyncGroup))
		}
		if i := slices.IndexFunc(r.TrackServices, func(s string) bool { return !known[s] }); i >= 0 {
			r.object.at("track_services").errorf("%s is not the name of a service (want one of those under services)", quoted(r.TrackServices[i]))
		}
	}
}

// SharesIPv6 reports whether a virtual router has an IPv6 VIP.
func (c *Config) SharesIPv6() bool {
	return slices.ContainsFunc(c.VRRP, func(i vrrp.Instance) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
	})
}
