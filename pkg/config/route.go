package config

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// Bounds of a route's and a rule's numbers.
const (
	maxRouteTable = 1<<31 - 1
	maxMetric     = 1<<31 - 1
	maxPriority   = 32765 // before the kernel's own rule for the main table
)

// route reads a route that moves with the VIPs.
func route(c *cursor) vrrp.Route {
	o := c.object()
	r := vrrp.Route{
		To:        need(o, "to", "a network, or default", destination),
		Via:       get(o, "via", netip.Addr{}, address),
		Interface: get(o, "interface", "", interfaceName),
		Source:    get(o, "source", netip.Addr{}, address),
		Table:     get(o, "table", 0, number(0, maxRouteTable)),
		Metric:    get(o, "metric", 0, number(0, maxMetric)),
	}
	if !o.done() {
		return r
	}
	if r.Via.Is6() && r.To == defaultRoute {
		r.To = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	switch {
	case !r.Via.IsValid() && r.Interface == "":
		o.at("to").errorf("%s without via and without interface (want one of them)", r.To)
	case r.Via.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
		o.at("via").errorf("%s for %s (want an address of its family)", r.Via, r.To)
	case r.Source.IsValid() && r.Source.Is4() != r.To.Addr().Is4():
		o.at("source").errorf("%s for %s (want an address of its family)", r.Source, r.To)
	}
	return r
}

// defaultRoute is what "default" is without a router of IPv6.
var defaultRoute = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// destination reads a network, or "default".
func destination(c *cursor) netip.Prefix {
	if c.node.Value == "default" {
		return defaultRoute
	}
	return network(c)
}

// rule reads a rule of policy routing that moves with the VIPs.
func rule(c *cursor) vrrp.Rule {
	o := c.object()
	r := vrrp.Rule{
		From:      get(o, "from", netip.Prefix{}, network),
		To:        get(o, "to", netip.Prefix{}, network),
		Interface: get(o, "interface", "", interfaceName),
		Mark:      get(o, "mark", 0, number[uint32](1, 1<<32-1)),
		Table:     need(o, "table", "the number of a routing table", number(1, maxRouteTable)),
		Priority:  get(o, "priority", 0, number(1, maxPriority)),
	}
	if !o.done() {
		return r
	}
	r.IPv6 = r.From.Addr().Is6() || r.To.Addr().Is6()
	switch {
	case !r.From.IsValid() && !r.To.IsValid() && r.Interface == "" && r.Mark == 0:
		o.at("table").errorf("%d for everything (want from, to, interface or mark)", r.Table)
	case r.From.IsValid() && r.To.IsValid() && r.From.Addr().Is4() != r.To.Addr().Is4():
		o.at("to").errorf("%s with from %s (want networks of one family)", r.To, r.From)
	}
	return r
}
