package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// BGP says to which routers VIPs are announced, or who tells routers. The zero
// value: nobody is told.
type BGP struct {
	Engine string  // BGPByLVX, BGPByHook; "": no `bgp:`
	Hook   BGPHook // of the engine hook

	ASN         uint32
	RouterID    netip.Addr // IPv4; zero: the first address of the first interface
	Peers       []BGPPeer
	VIPs        []netip.Addr // that are announced; nil: all that no virtual router has
	AnnounceAll bool         // a VIP is announced while every service of it has quorum, not any

	DrainTime       time.Duration // between asking routers to prefer others and withdrawing
	HoldUp          time.Duration // of service before a VIP is announced again
	GracefulRestart time.Duration // 0: none
	Communities     []uint32
	MED             *uint32
	LocalPref       *uint32
}

// BGPHook is how another routing daemon of this host hears what is to be
// announced: from a file, or from a program, or both.
type BGPHook struct {
	File string   // that holds the routes, "": none
	Exec []string // that reads them, an argument vector; nil: none
}

// Who speaks BGP.
const (
	BGPByLVX  = "gobgp" // lvx itself
	BGPByHook = "hook"  // another daemon of this host
)

// BGPPeer is a router.
type BGPPeer struct {
	Address      netip.Addr
	ASN          uint32
	PasswordFile string
	HoldTime     time.Duration
	Multihop     uint8
	GTSM         bool
	BFDInterval  time.Duration // 0: no BFD
	BFDMissing   uint8         // packets that may be missing
}

// IsEnabled reports whether any VIP is announced by BGP.
func (b BGP) IsEnabled() bool { return b.Engine != "" }

// Announces reports whether a VIP that no virtual router has is announced by
// BGP: such an address is on lo, and nobody is told of it by ARP.
func (b BGP) Announces(vip netip.Addr) bool {
	if !b.IsEnabled() {
		return false
	}
	if b.VIPs == nil {
		return true
	}
	for _, a := range b.VIPs {
		if a == vip {
			return true
		}
	}
	return false
}

// Defaults of `bgp:`.
const (
	defaultDrainTime  = 5 * time.Second
	defaultHoldUp     = 3 * time.Second
	defaultBGPHold    = 90 * time.Second
	defaultBFD        = 300 * time.Millisecond
	defaultBFDMissing = 3
)

// readBGP reads `bgp:`.
func readBGP(c *cursor) BGP {
	o := c.object()
	b := BGP{
		Engine:      get(o, "engine", BGPByLVX, oneOf("an engine", BGPByLVX, BGPByHook)),
		VIPs:        get(o, "vips", nil, readAnnounced),
		AnnounceAll: get(o, "announce", "any", oneOf("a rule", "any", "all")) == "all",
		DrainTime:   get(o, "drain_time", defaultDrainTime, duration(0, time.Minute, time.Millisecond)),
		HoldUp:      get(o, "hold_up", defaultHoldUp, duration(0, 10*time.Minute, time.Millisecond)),
	}
	if b.Engine == BGPByHook {
		b.Hook = need(o, "hook", "{file: PATH, exec: [PROGRAM]}, one of the two or both, of the daemon that speaks BGP", readBGPHook)
		for _, key := range speakerKeys {
			if _, has := o.ask(key); has {
				o.at(key).onKey().errorf("beside engine: hook (want it in the configuration of the daemon that speaks BGP)")
			}
		}
		o.done()
		return b
	}
	if _, has := o.ask("hook"); has {
		o.at("hook").onKey().errorf("without engine: hook (want both)")
	}
	readSpeaker(o, &b)
	return b
}

// speakerKeys are what the engine hook has no use for.
var speakerKeys = []string{"asn", "router_id", "peers", "graceful_restart", "communities", "med", "local_pref"}

// readSpeaker reads what lvx needs for speaking BGP itself.
func readSpeaker(o *object, b *BGP) {
	b.ASN = need(o, "asn", "this director's AS number", number[uint32](1, 1<<32-2))
	b.RouterID = get(o, "router_id", netip.Addr{}, address)
	b.Peers = need(o, "peers", "the routers, [{address: 192.0.2.254, asn: 65000}], for example", list(readBGPPeer))
	b.GracefulRestart = get(o, "graceful_restart", 0, duration(0, 4095*time.Second, time.Second))
	b.Communities = get(o, "communities", nil, list(community))
	optional := func(key string) *uint32 {
		if !o.has(key) {
			_, _ = o.ask(key)
			return nil
		}
		n := get(o, key, 0, number[uint32](0, 1<<32-1))
		return &n
	}
	b.MED, b.LocalPref = optional("med"), optional("local_pref")
	if !o.done() {
		return
	}
	if len(b.Peers) == 0 {
		o.at("peers").errorf("no router (want at least one)")
	}
	if b.RouterID.IsValid() && !b.RouterID.Is4() {
		o.at("router_id").errorf("%s (want an IPv4 address, whatever is announced)", b.RouterID)
	}
	for _, p := range b.Peers {
		if b.GracefulRestart > 0 && p.BFDInterval == 0 {
			o.at("graceful_restart").errorf("without bfd for %s (want both: else its routes stay when this host is dead)", p.Address)
		}
	}
}

// readBGPHook reads how another daemon hears what is to be announced.
func readBGPHook(c *cursor) BGPHook {
	o := c.object()
	h := BGPHook{File: get(o, "file", "", path), Exec: get(o, "exec", nil, vector)}
	if o.done() && h.File == "" && len(h.Exec) == 0 {
		o.errorf("nobody is told (want file: PATH, or exec: [PROGRAM])")
	}
	return h
}

func readBGPPeer(c *cursor) BGPPeer {
	o := c.object()
	p := BGPPeer{
		Address:      need(o, "address", "the router's address", routerAddress),
		ASN:          need(o, "asn", "the router's AS number", number[uint32](1, 1<<32-2)),
		PasswordFile: get(o, "password_file", "", path),
		HoldTime:     get(o, "hold_time", defaultBGPHold, duration(3*time.Second, 65535*time.Second, time.Second)),
		Multihop:     get(o, "multihop", 1, number[uint8](1, 255)),
		GTSM:         get(o, "gtsm", false, boolean),
	}
	if c, ok := o.ask("bfd"); ok {
		bfd := c.object()
		p.BFDInterval = get(bfd, "interval", defaultBFD, duration(50*time.Millisecond, 10*time.Second, time.Millisecond))
		p.BFDMissing = get(bfd, "multiplier", defaultBFDMissing, number[uint8](1, 255))
		bfd.done()
	}
	if !o.done() {
		return p
	}
	if p.BFDInterval > 0 && p.Multihop > 1 {
		o.at("bfd").errorf("beside multihop: %d (want one of the two: BFD of one hop, RFC 5881, is for routers on the segment)", p.Multihop)
	}
	c.unique("peer", "bgp "+p.Address.String(), p.Address.String())
	return p
}

// routerAddress reads an address, which has an interface if it is a link-local one.
func routerAddress(c *cursor) netip.Addr {
	s, _, hasZone := strings.Cut(c.node.Value, "%")
	a, err := netip.ParseAddr(s)
	isLinkLocal := err == nil && a.Is6() && a.IsLinkLocalUnicast()
	switch {
	case isLinkLocal && !hasZone:
		c.errorf("%s is the same on every link (want its interface, too: \"%s%%eth0\", for example)", a, a)
	case isLinkLocal:
		if a, err = netip.ParseAddr(c.node.Value); err != nil {
			c.errorf("%s is not an IP address (want one such as \"fe80::1%%eth0\")", quoted(c.node.Value))
		}
	default:
		return address(c)
	}
	return a
}

// readAnnounced reads "all" or a list of addresses.
func readAnnounced(c *cursor) []netip.Addr {
	if c.node.Kind != yaml.ScalarNode {
		return addresses("VIP")(c)
	}
	if s := filled(c, "all, or a list of addresses"); s != "" && s != "all" {
		c.errorf("%s (want all, or a list of addresses)", quoted(s))
	}
	return nil
}

// community reads an RFC 1997 community, "65010:1".
func community(c *cursor) uint32 {
	s := filled(c, "a community such as \"65010:1\"")
	high, low, ok := strings.Cut(s, ":")
	h, err := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	if s != "" && (!ok || err != nil || err2 != nil) {
		c.errorf("%s is not a community (want two numbers up to 65535, \"65010:1\", for example)", quoted(s))
	}
	return uint32(h)<<16 | uint32(l)
}

// compareBGP looks at what virtual routers and BGP say of the same address.
func compareBGP(o *object, cfg *Config, routers []router, services []service) {
	b := cfg.BGP
	if !b.IsEnabled() {
		return
	}
	virtual := map[netip.Addr]string{}
	for _, r := range routers {
		for _, a := range r.Addresses {
			virtual[a.Addr()] = r.Name
		}
	}
	served := map[netip.Addr]bool{}
	for _, s := range services {
		for _, l := range s.Listeners {
			served[l.Addr] = true
		}
	}
	for _, vip := range b.VIPs {
		switch name, ok := virtual[vip]; {
		case ok:
			o.at("bgp").errorf("%s is announced here and owned by the virtual router %s (want one of the two)", vip, quoted(name))
		case !served[vip]:
			o.at("bgp").errorf("%s: no service listens on it (want a VIP of a service)", vip)
		}
	}
	for _, s := range services {
		isAnnounced := slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool { return b.Announces(l.Addr) && virtual[l.Addr] == "" })
		if why := boundToOne(cfg, &s.Service); isAnnounced && why != "" {
			o.at("bgp").warnf("service %s: %s", s.Name, why)
		}
	}
	if len(cfg.Sync.Peers) > 0 && !(o.has("tables") && o.at("tables").object().has("flows")) {
		o.at("bgp").warnf("with sync: each director holds the connections of all directors, and there is room for %d here, the default (set tables.flows to what all of them need)", cfg.Tables.Flows)
	}
}

// boundToOne is why connections of a service that several directors announce do
// not go on at another one than theirs, for people; "": they do.
func boundToOne(cfg *Config, s *Service) string {
	isTCP := slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool { return l.Proto == lb.TCP })
	switch {
	case len(cfg.Sync.Peers) > 0:
		return ""
	case s.Scheduler != "mh" && s.Scheduler != "sh" && s.Scheduler != "dh":
		return fmt.Sprintf("connections of %s go on at another director, and ICMP errors that reach another one find their real, only with sync:", s.Scheduler)
	case isTCP && !cfg.SloppyTCP:
		return "connections go on at another director only with sloppy_tcp: true, or with sync:"
	case s.Persistence.Enabled():
		return "clients are bound to a real, and ICMP errors that reach another director find theirs, on each director by itself without sync:"
	}
	return ""
}
