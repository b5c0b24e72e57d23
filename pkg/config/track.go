package config

import (
	"net/netip"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// maxTracked is by how much a tracked program can change a priority, either
// way: keepalived's limit.
const maxTracked = 253

// trackExec reads a program whose exit status counts.
func trackExec(c *cursor) vrrp.TrackExec {
	o := c.object()
	t := vrrp.TrackExec{
		Argv:     strings.Split(need(o, "argv", "the program and its arguments, [/usr/bin/pgrep, -x, haproxy], for example", arguments), "\n"),
		Interval: get(o, "interval", 0, duration(minInterval, maxInterval, time.Millisecond)),
		Timeout:  get(o, "timeout", 0, duration(minTimeout, time.Hour, time.Millisecond)),
		Fall:     get(o, "fall", 0, number(1, maxCount)),
		Rise:     get(o, "rise", 0, number(1, maxCount)),
		Weight:   get(o, "weight", 0, number(-maxTracked, maxTracked)), IsReversed: get(o, "reverse", false, boolean),
		InitFail: get(o, "init_fail", false, boolean),
	}
	if o.done() && t.Argv[0] == "" {
		o.at("argv").errorf("empty (want the program and its arguments)")
	}
	return t.WithDefaults()
}

// trackFile reads a file whose number counts.
func trackFile(c *cursor) vrrp.TrackFile {
	o := c.object()
	t := vrrp.TrackFile{
		Path:   need(o, "path", "the path of a file that holds a whole number", path),
		Weight: get(o, "weight", 0, number(-maxTracked, maxTracked)), IsReversed: get(o, "reverse", false, boolean),
	}
	o.done()
	return t
}

// trackProcess reads a program that must be running.
func trackProcess(c *cursor) vrrp.TrackProcess {
	o := c.object()
	t := vrrp.TrackProcess{
		Name:   need(o, "name", "the name of a command, or the path that it was started by", line),
		Quorum: get(o, "quorum", 1, number(1, maxCount)),
		Weight: get(o, "weight", 0, number(-maxTracked, maxTracked)), IsReversed: get(o, "reverse", false, boolean),
	}
	o.done()
	return t
}

// placedVIP is one entry of the addresses of a virtual router.
type placedVIP struct {
	prefix   netip.Prefix
	device   string // "" = the router's
	isHidden bool   // in no advertisement
}

// routerVIP reads an address, or a map with where it goes and whether it is
// advertised.
func routerVIP(c *cursor) placedVIP {
	if c.node.ShortTag() != "!!map" {
		return placedVIP{prefix: vip(c)}
	}
	o := c.object()
	v := placedVIP{
		prefix:   need(o, "address", "an address such as 192.0.2.1/24", vip),
		device:   get(o, "interface", "", interfaceName),
		isHidden: !get(o, "advertise", true, boolean),
	}
	o.done()
	return v
}

// vips puts the entries of addresses where the router has them.
func (r *router) vips(all []placedVIP) {
	for _, v := range all {
		addr := v.prefix.Addr()
		r.Addresses = append(r.Addresses, v.prefix)
		if v.isHidden {
			r.Unadvertised = append(r.Unadvertised, addr)
		}
		if v.device != "" {
			if r.Devices == nil {
				r.Devices = map[netip.Addr]string{}
			}
			r.Devices[addr] = v.device
		}
	}
}
