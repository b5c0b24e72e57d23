package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// Route is a route that goes where VIPs go.
type Route struct {
	To        netip.Prefix // length 0: the default route
	Via       netip.Addr   // the router; the zero Addr = none
	Interface string       // "" = the one that reaches Via
	Source    netip.Addr   // of this host's own packets; the zero Addr = the kernel's choice
	Table     int          // 0 = the main table
	Metric    int          // 0 = the kernel's default
}

// Rule is a rule of policy routing that goes where VIPs go. What is zero is not
// asked for.
type Rule struct {
	From, To  netip.Prefix
	Interface string // that packets came in by
	Mark      uint32
	Table     int // where the route is looked up
	Priority  int // 0 = the kernel's choice, before the other rules
	IPv6      bool
}

// Routing is what goes with VIPs besides their addresses.
type Routing struct {
	Routes []Route
	Rules  []Rule
}

// IsEmpty reports whether there is neither a route nor a rule.
func (r Routing) IsEmpty() bool { return len(r.Routes) == 0 && len(r.Rules) == 0 }

// Add makes sure that the routes and rules are there. Those that cannot be put
// there are errors; the others are put there all the same.
func (r Routing) Add() error {
	var errs []error
	for _, route := range r.Routes {
		errs = append(errs, route.change("add route", netlink.RouteAdd, unix.EEXIST))
	}
	for _, rule := range r.Rules {
		errs = append(errs, rule.change("add rule", netlink.RuleAdd, unix.EEXIST))
	}
	return errors.Join(errs...)
}

// Remove takes the routes and rules away, whoever put them there. What is gone
// already is no error.
func (r Routing) Remove() error {
	var errs []error
	for _, rule := range r.Rules {
		errs = append(errs, rule.change("remove rule", netlink.RuleDel, unix.ENOENT))
	}
	for _, route := range r.Routes {
		errs = append(errs, route.change("remove route", netlink.RouteDel, unix.ESRCH))
	}
	return errors.Join(errs...)
}

// Without is what r has and o has not.
func (r Routing) Without(o Routing) Routing {
	return Routing{
		Routes: slices.DeleteFunc(slices.Clone(r.Routes), func(x Route) bool { return slices.Contains(o.Routes, x) }),
		Rules:  slices.DeleteFunc(slices.Clone(r.Rules), func(x Rule) bool { return slices.Contains(o.Rules, x) }),
	}
}

// change asks the kernel for a route, or to forget it. done is its error for
// what is so already.
func (r Route) change(what string, do func(*netlink.Route) error, done error) error {
	raw := netlink.Route{
		Dst: ipNet(r.To), Gw: r.Via.AsSlice(), Src: r.Source.AsSlice(), Table: r.Table, Priority: r.Metric,
	}
	if r.Interface != "" {
		link, err := netlink.LinkByName(r.Interface)
		if errors.As(err, new(netlink.LinkNotFoundError)) && errors.Is(done, unix.ESRCH) {
			return nil // its routes went with it
		}
		if err != nil {
			return fmt.Errorf("%s %s: interface %s: %w", what, r.To, r.Interface, err)
		}
		raw.LinkIndex = link.Attrs().Index
	}
	if !r.Via.IsValid() && r.To.Addr().Is4() {
		raw.Scope = netlink.SCOPE_LINK
	}
	err := do(&raw)
	if errors.Is(err, unix.EEXIST) && errors.Is(done, unix.EEXIST) {
		err = r.findOwn(&raw)
	}
	if err != nil && !errors.Is(err, done) {
		return fmt.Errorf("%s %s: %w", what, r.To, err)
	}
	return nil
}

// errOtherRoute is returned where the kernel takes no second route: it knows
// routes apart by network, TOS and metric, whatever their gateway.
var errOtherRoute = errors.New("another route has its place (ip route show; give one of them another metric)")

// ipv6Metric is the metric of an IPv6 route that names none (IP6_RT_PRIO_USER).
const ipv6Metric = 1024

// findOwn makes sure that the route that has the place of want goes the same way.
func (r Route) findOwn(want *netlink.Route) error {
	family, metric, table := netlink.FAMILY_V4, r.Metric, r.Table
	if r.To.Addr().Is6() {
		family = netlink.FAMILY_V6
		if metric == 0 {
			metric = ipv6Metric
		}
	}
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	list, err := kernellist.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	for _, have := range list {
		if leadsTo(have, r.To) && have.Tos == 0 && have.Priority == metric && have.Gw.Equal(want.Gw) && have.Src.Equal(want.Src) &&
			(want.LinkIndex == 0 || have.LinkIndex == want.LinkIndex) {
			return nil
		}
	}
	return errOtherRoute
}

// leadsTo reports whether a route is one to a network.
func leadsTo(r netlink.Route, to netip.Prefix) bool {
	if r.Dst == nil {
		return to.Bits() == 0
	}
	return r.Dst.String() == to.Masked().String()
}

// change asks the kernel for a rule, or to forget it. The kernel takes the same
// rule twice, so one that is there is looked for first.
func (r Rule) change(what string, do func(*netlink.Rule) error, done error) error {
	raw := netlink.NewRule()
	raw.Family = unix.AF_INET
	if r.IPv6 {
		raw.Family = unix.AF_INET6
	}
	raw.IifName, raw.Mark, raw.Table = r.Interface, r.Mark, r.Table
	if r.From.IsValid() {
		raw.Src = ipNet(r.From)
	}
	if r.To.IsValid() {
		raw.Dst = ipNet(r.To)
	}
	if r.Priority > 0 {
		raw.Priority = r.Priority
	}
	if errors.Is(done, unix.EEXIST) {
		if isThere, err := hasRule(raw); isThere || err != nil {
			return err
		}
	}
	if err := do(raw); err != nil && !errors.Is(err, done) {
		return fmt.Errorf("%s (table %d): %w", what, r.Table, err)
	}
	return nil
}

// hasRule reports whether the kernel has a rule.
func hasRule(want *netlink.Rule) (bool, error) {
	list, err := kernellist.Complete(func() ([]netlink.Rule, error) { return netlink.RuleList(want.Family) })
	if err != nil {
		return false, fmt.Errorf("rules: %w", err)
	}
	text := func(n *net.IPNet) string {
		if n == nil {
			return ""
		}
		return n.String()
	}
	for _, r := range list {
		if text(r.Src) == text(want.Src) && text(r.Dst) == text(want.Dst) && r.IifName == want.IifName &&
			r.Mark == want.Mark && r.Table == want.Table && (want.Priority < 0 || r.Priority == want.Priority) {
			return true, nil
		}
	}
	return false, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
