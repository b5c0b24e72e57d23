package config

import (
	"net/mail"
	"net/netip"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// maxTimeout is the longest connection timeout: the packet path keeps times
// in 16 bits of seconds, and half of them are in the past.
const maxTimeout = 8 * time.Hour

// Sizes of tables: a set of four flows is one cache line.
const (
	minTable = 64
	maxTable = 1 << 24
)

// maxStopGrace bounds how long a host may serve without a daemon after its end.
const maxStopGrace = time.Hour

// config reads the whole file.
func (d *decoder) config(c *cursor) *Config {
	o := c.object()
	cfg := &Config{
		Interfaces:           interfaces(o),
		Backend:              get(o, "backend", BackendAuto, oneOf("a backend", BackendAuto, BackendXDP, BackendIPVS)),
		XDPMode:              get(o, "xdp_mode", XDPAuto, oneOf("a mode of XDP", XDPAuto, XDPNative, XDPGeneric)),
		Notify:               get(o, "notify", Notify{}, notify),
		Admin:                get(o, "admin", Admin{Socket: DefaultSocket}, admin),
		Tables:               get(o, "tables", Tables{DefaultFlows, DefaultTemplates}, tables),
		Timeouts:             get(o, "timeouts", lb.Timeouts{}, timeouts).WithDefaults(),
		SloppyTCP:            get(o, "sloppy_tcp", false, boolean),
		ExpireNodestConn:     get(o, "expire_nodest_conn", true, boolean),
		ExpireQuiescentTempl: get(o, "expire_quiescent_template", false, boolean),
		OuterSources:         get(o, "outer_source", nil, outerSources),
		Peers:                get(o, "peers", nil, readPeers),
		StateDir:             get(o, "state_dir", DefaultStateDir, path),
		PinDir:               get(o, "pin_dir", DefaultPinDir, path),
		StopGrace:            get(o, "stop_grace", DefaultStopGrace, duration(0, maxStopGrace, time.Millisecond)),
		RuntimeEdits:         get(o, "runtime", AllowEdits, oneOf("allow or refuse", AllowEdits, RefuseEdits)),
	}
	cfg.Deny, cfg.Allow = clients(o)
	cfg.Sync = get(o, "sync", Sync{}, readSync(cfg.Interfaces))
	cfg.BGP = get(o, "bgp", BGP{}, readBGP)
	cfg.BFD = get(o, "bfd", nil, list(readBFDSession))
	services := get(o, "services", nil, list(func(c *cursor) service { return d.service(c, cfg.Backend) }))
	compareOuterSources(o, cfg.Backend, services)
	compareSync(o, services)
	routers := get(o, "vrrp", nil, list(func(c *cursor) router { return d.router(c, cfg.Interfaces) }))
	if len(routers) > maxRouters && cfg.Backend != BackendIPVS {
		o.at("vrrp").errorf("%d virtual routers (want at most %d)", len(routers), maxRouters)
	}
	if !o.done() {
		return nil
	}
	d.listeners(services)
	d.marks(services)
	d.realsThatAreVIPs(services, routers)
	d.groups(routers, services)
	d.compareBFD(o, cfg)
	compareBGP(o, cfg, routers, services)
	cfg.MACs = joinMACs(services)
	for _, s := range services {
		cfg.Services = append(cfg.Services, s.Service)
	}
	for _, r := range routers {
		cfg.VRRP = append(cfg.VRRP, r.Instance)
		if r.object.has("hooks") {
			if cfg.RoleHooks == nil {
				cfg.RoleHooks = map[string]RoleHooks{}
			}
			cfg.RoleHooks[r.Name] = r.hooks
		}
	}
	return cfg
}

// interfaces reads "interface" or "interfaces".
func interfaces(o *object) []string {
	one := get(o, "interface", "", interfaceName)
	all := get(o, "interfaces", nil, list(interfaceName))
	switch {
	case o.has("interface") && o.has("interfaces"):
		o.at("interfaces").onKey().errorf("given beside interface, on line %d (want one of the two)", o.at("interface").line)
	case o.has("interface"):
		return []string{one}
	case !o.has("interfaces"):
		o.missing = append(o.missing, `no interface (want "interface: NAME", the segment of the VIPs)`)
	case len(all) == 0:
		o.at("interfaces").errorf("no interface (want at least one)")
	}
	seen := map[string]bool{}
	for _, name := range all {
		if name != "" && seen[name] {
			o.at("interfaces").errorf("%s is there twice (want it once)", quoted(name))
		}
		seen[name] = true
	}
	return all
}

// addresses reads hosts, none of them twice.
func addresses(kind string) read[[]netip.Addr] {
	return func(c *cursor) []netip.Addr {
		seen := map[netip.Addr]int{}
		return list(func(c *cursor) netip.Addr {
			a := address(c)
			if line, ok := seen[a]; ok && a.IsValid() {
				c.errorf("%s is there already, on line %d (want every %s once)", a, line, kind)
			}
			seen[a] = c.line
			return a
		})(c)
	}
}

// maxRouters is as many virtual routers as the packet path has leases for: one of
// LEASES in bpf/types.h is for the VIPs that none of them owns.
const maxRouters = 1023

// maxPeers is as many fellow directors as the packet path can tell apart
// (PEERS in bpf/types.h).
const maxPeers = 8

// readPeers reads the addresses of fellow directors.
func readPeers(c *cursor) []netip.Addr {
	as := addresses("peer")(c)
	if len(as) > maxPeers {
		c.errorf("%d addresses (want at most %d)", len(as), maxPeers)
	}
	return as
}

// clients reads the lists of clients who may not and who may.
func clients(o *object) (deny, allow []netip.Prefix) {
	seen := map[netip.Prefix]int{}
	once := list(func(c *cursor) netip.Prefix {
		p := network(c)
		if line, ok := seen[p]; ok && p.IsValid() {
			c.errorf("%s is there already, on line %d (want it in deny or in allow, once)", p, line)
		}
		seen[p] = c.line
		return p
	})
	return get(o, "deny", nil, once), get(o, "allow", nil, once)
}

// timeouts reads what ipvsadm --set sets.
func timeouts(c *cursor) lb.Timeouts {
	o := c.object()
	limit := duration(time.Second, maxTimeout, time.Second, "the packet path's clock wraps beyond")
	t := lb.Timeouts{
		TCP:    get(o, "tcp", 0, limit),
		TCPFin: get(o, "tcp_fin", 0, limit),
		UDP:    get(o, "udp", 0, limit),
	}
	o.done()
	return t
}

func tables(c *cursor) Tables {
	o := c.object()
	size := number(minTable, maxTable)
	t := Tables{
		Flows:     get(o, "flows", DefaultFlows, size),
		Templates: get(o, "templates", DefaultTemplates, size),
	}
	o.done()
	return t
}

func admin(c *cursor) Admin {
	o := c.object()
	a := Admin{
		Socket:          get(o, "socket", DefaultSocket, path),
		Listen:          get(o, "listen", "", bindAddress),
		Hosts:           get(o, "hosts", nil, list(name)),
		OmitRealMetrics: !get(o, "real_metrics", true, boolean),
	}
	if len(a.Socket) > maxSocket {
		o.at("socket").errorf("%d characters (want at most %d, the kernel's limit for the path of a socket)", len(a.Socket), maxSocket)
	}
	o.done()
	return a
}

// maxSocket is the length of sockaddr_un.sun_path without its zero.
const maxSocket = 107

func notify(c *cursor) Notify {
	o := c.object()
	n := Notify{
		Exec:    get(o, "exec", nil, list(command)),
		SMTP:    get(o, "smtp", SMTP{}, smtp),
		Webhook: get(o, "webhook", "", webURL),
	}
	o.done()
	return n
}

// command reads a program with its arguments, separated by blanks.
func command(c *cursor) string {
	s := filled(c, "the absolute path of a program")
	fields := strings.Fields(s)
	if s != "" && (len(fields) == 0 || !strings.HasPrefix(fields[0], "/")) {
		c.errorf("%s does not begin with an absolute path (want /usr/local/bin/on-change, for example)", quoted(s))
	}
	return strings.Join(fields, " ")
}

func smtp(c *cursor) SMTP {
	o := c.object()
	m := SMTP{
		Server: need(o, "server", "HOST:PORT of a mail server", server("25")),
		From:   need(o, "from", "the sender's mail address", mailbox),
		To:     need(o, "to", "a list of mail addresses", list(mailbox)),
	}
	if o.done() && len(m.To) == 0 {
		o.at("to").errorf("nobody to write to (want at least one mail address)")
	}
	return m
}

// mailbox reads a bare mail address.
func mailbox(c *cursor) string {
	s := filled(c, "a mail address")
	if s == "" {
		return ""
	}
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
		c.errorf("%s is not a mail address (want one such as root@localhost)", quoted(s))
		return ""
	}
	return s
}
