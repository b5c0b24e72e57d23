package keepalived

import (
	"net"
	"net/mail"
	"slices"
	"strings"
	"time"
)

// globals are what global_defs says.
type globals struct {
	ifname       string
	version      int
	isStrict     bool
	startupDelay *time.Duration
	timeouts     []pair
	timeoutsItem *item
	mailItem     *item
	syncDaemon   *Statement
	sync         []pair
	syncItem     *item
	mailFrom     string
	mailTo       []string
	mailServer   string
	alerts       []*Statement
	mails        []*Statement // the statements that lead to mail
}

// newGlobals are keepalived's defaults.
func newGlobals(o Options) globals {
	g := globals{ifname: o.Interface, version: 2}
	if g.ifname == "" {
		g.ifname = "eth0"
	}
	return g
}

// readGlobals reads global_defs.
func (m *mapper) readGlobals(s *Statement) {
	s.mark(Mapped, "")
	g := &m.globals
	for _, c := range s.Block {
		if c.keyword == nil {
			continue
		}
		switch c.Word {
		case "default_interface":
			if isInterface(c.arg(0)) {
				g.ifname = c.arg(0)
				c.mark(Mapped, "")
			}
			c.mark(Lost, "not the name of an interface")
		case "vrrp_version":
			if n := count(c, 2, 3); n != nil {
				g.version = int(*n)
			}
		case "vrrp_strict":
			c.mark(c.keyword.level, "%s", c.keyword.text)
			g.isStrict = or(g.isStrict, truth(c))
		case "vrrp_startup_delay", "vrrp_delay_after_boot":
			g.startupDelay = first(seconds(c, 0), g.startupDelay)
		case "lvs_timeouts":
			g.timeouts = readTimeouts(c)
			g.timeoutsItem = &item{from: c}
		case "lvs_sync_daemon":
			if g.syncDaemon != nil {
				c.mark(Harmless, "keepalived takes the first one only")
				break
			}
			g.syncDaemon = c
		case "vrrp_mcast_group4", "vrrp_mcast_group6":
			if c.arg(0) == "224.0.0.18" || c.arg(0) == "ff02::12" {
				c.mark(Mapped, "")
			}
			c.mark(Lost, "lvx sends to 224.0.0.18 and ff02::12: peers do not hear it on %s", quote(c.arg(0)))
		default:
			g.mail(c)
		}
	}
}

// readTimeouts reads "tcp 900 tcpfin 120 udp 300".
func readTimeouts(c *Statement) []pair {
	var all []pair
	names := map[string]string{"tcp": "tcp", "tcpfin": "tcp_fin", "udp": "udp"}
	for i := 0; i+1 < len(c.Args); i += 2 {
		d, ok := parseSeconds(c.Args[i+1])
		name, known := names[c.Args[i]]
		if !ok || !known || d < time.Second || d%time.Second != 0 {
			c.mark(Harmless, "keepalived ignores %s here", quote(c.Args[i]))
			continue
		}
		if longest := 8 * time.Hour; d > longest {
			c.mark(Changed, "at most 8 h")
			d = longest
		}
		all = append(all, pair{name, duration(d)})
	}
	c.mark(Mapped, "")
	return all
}

// mail reads what is about mail.
func (g *globals) mail(c *Statement) {
	switch c.Word {
	case "notification_email":
		g.mailItem = &item{from: c}
		g.mails = append(g.mails, c)
		for _, a := range c.Block {
			parsed, err := mail.ParseAddress(a.Word)
			if err != nil || parsed.Address != a.Word {
				a.mark(Lost, "not a mail address that lvx takes (it wants NAME@HOST)")
				continue
			}
			if !slices.Contains(g.mailTo, a.Word) {
				g.mailTo = append(g.mailTo, a.Word)
			}
		}
	case "notification_email_from":
		g.mails = append(g.mails, c)
		text := strings.Join(c.Args, " ")
		parsed, err := mail.ParseAddress(text)
		if err != nil {
			c.mark(Changed, "not a mail address that lvx takes: lvx@localhost")
			break
		}
		g.mailFrom = parsed.Address
	case "smtp_server":
		g.mails = append(g.mails, c)
		port := c.arg(1)
		if port == "" {
			port = "25"
		}
		g.mailServer = net.JoinHostPort(c.arg(0), port)
	case "smtp_alert", "smtp_alert_vrrp", "smtp_alert_checker", "no_email_faults":
		g.alerts = append(g.alerts, c)
	}
}

// sendsMail reports whether keepalived sends any mail, and says so of the
// statements that lead to it.
func (m *mapper) sendsMail() bool {
	g := &m.globals
	asked := len(m.services) > 0 || slices.ContainsFunc(m.routers, func(r *router) bool { return r.smtpAlert != nil }) ||
		slices.ContainsFunc(g.alerts, func(c *Statement) bool { return c.Word != "no_email_faults" })
	sends := asked && !g.mailItem.isLeftOut() && len(g.mailTo) > 0 && g.mailServer != ""
	for _, c := range g.mails {
		if sends {
			c.mark(Mapped, "lvx sends mail about every change")
			c.markBlock(Mapped, "")
		} else {
			c.mark(Harmless, "keepalived sends no mail: there is no smtp_server, no address or no smtp_alert")
			c.markBlock(Harmless, "of mail that is not sent")
		}
	}
	for _, c := range g.alerts {
		c.mark(Harmless, "lvx sends mail about every change or about none")
	}
	for _, r := range m.routers {
		if r.smtpAlert != nil {
			r.smtpAlert.mark(Harmless, "lvx sends mail about every change or about none")
		}
	}
	return sends
}

// markUnused says of groups, scripts and tracked things that nothing names what
// keepalived does with them: nothing.
func (m *mapper) markUnused() {
	unused := map[string]bool{
		"virtual_server_group": true, "vrrp_script": true, "vrrp_track_process": true, "vrrp_track_file": true, "track_file": true,
	}
	for _, s := range m.all {
		if s.keyword != nil && unused[s.Word] && s.verdict == nil {
			s.mark(Harmless, "nothing uses it")
			s.markBlock(Harmless, "of something that nothing uses")
		}
	}
}
