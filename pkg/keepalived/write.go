package keepalived

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// write makes the document of what is not left out.
func (m *mapper) write(name string) *document {
	d := &document{}
	d.comment(0, "What "+name+" means to lvx. Every block names the line that it comes from.")
	d.comment(0, "What became of every statement: lvx import "+m.option+name+" >/dev/null")
	d.blank()
	m.writeGlobals(d)
	sections := []func(*document){m.writeServices, m.writeRouters}
	if m.routersFirst() {
		slices.Reverse(sections)
	}
	for _, write := range sections {
		write(d)
	}
	return d
}

// routersFirst reports whether the file begins with VRRP.
func (m *mapper) routersFirst() bool {
	for _, s := range m.all {
		switch s.Word {
		case "virtual_server":
			return false
		case "vrrp_instance":
			return true
		}
	}
	return false
}

// writeGlobals writes the keys of the top.
func (m *mapper) writeGlobals(d *document) {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range m.routers {
		if r.item.isLeftOut() {
			continue
		}
		add(r.ifname)
		for _, v := range r.addresses {
			if v.dev != "" && m.served[v.Addr()] {
				add(v.dev)
			}
		}
	}
	switch len(names) {
	case 0:
		d.comment(0, "The interface of the VIPs' segment: no vrrp_instance names it.")
		d.put(0, nil, "interface: %s", scalar(m.globals.ifname))
	case 1:
		d.put(0, nil, "interface: %s", scalar(names[0]))
	default:
		d.put(0, nil, "interfaces: %s", scalars(names))
	}
	if m.o.Backend != "" {
		d.put(0, nil, "backend: %s", scalar(m.o.Backend))
	}
	if len(m.globals.timeouts) > 0 && !m.globals.timeoutsItem.isLeftOut() {
		d.put(0, m.globals.timeoutsItem, "timeouts: {%s}", joinPairs(m.globals.timeouts))
	}
	if len(m.globals.sync) > 0 && !m.globals.syncItem.isLeftOut() {
		d.put(0, m.globals.syncItem, "sync: {%s}", joinPairs(m.globals.sync))
	}
	m.writeBFD(d)
	m.secret = false
	if m.sendsMail() {
		g := m.globals
		from := g.mailFrom
		if from == "" {
			from = "lvx@localhost"
		}
		d.put(0, g.mailItem, "notify:")
		d.put(0, g.mailItem, "  smtp: {server: %s, from: %s, to: %s}", scalar(g.mailServer), scalar(from), scalars(g.mailTo))
	}
}

func joinPairs(all []pair) string {
	var parts []string
	for _, p := range all {
		parts = append(parts, p.key+": "+p.value)
	}
	return strings.Join(parts, ", ")
}

// heading names the statement that something comes from, and what is not as
// it was.
func heading(d *document, indent int, s *Statement) {
	words := s.Word
	if len(s.Args) > 0 {
		words += " " + strings.Join(s.Args[:min(len(s.Args), 2)], " ")
	}
	d.comment(indent, fmt.Sprintf("%s (%s:%d)", words, s.file, s.line))
	if s.verdict != nil && s.verdict.Text != "" {
		d.comment(indent, "  "+s.verdict.Text)
	}
	var walk func(list []*Statement)
	walk = func(list []*Statement) {
		for _, c := range list {
			if c.verdict != nil && c.verdict.Level >= Changed && c.Word != "real_server" {
				d.comment(indent, fmt.Sprintf("  line %d: %s: %s (%s)", c.line, c.verdict.Keyword, c.verdict.Text, c.verdict.Level))
			}
			if c.Word != "real_server" {
				walk(c.Block)
			}
		}
	}
	walk(s.Block)
}

// writeServices writes the services in the order of the file.
func (m *mapper) writeServices(d *document) {
	started := false
	anchors := map[*body]string{}
	for _, s := range m.services {
		if s.item.isLeftOut() {
			continue
		}
		d.blank()
		if !started {
			d.put(0, nil, "services:")
			started = true
		}
		heading(d, 2, s.body.from)
		e := entry{doc: d, owner: s.item, indent: 2}
		e.put("name", "%s", scalar(s.name))
		e.put("listen", "%s", scalars(s.listen))
		if s.mark != 0 {
			e.put("mark", "%d", s.mark)
		}
		for _, k := range s.body.keys {
			e.put(k.key, "%s", k.value)
		}
		if anchor, ok := anchors[s.body]; ok {
			e.put("reals", "*%s", anchor)
			continue
		}
		anchor := ""
		if len(s.body.services) > 1 {
			anchors[s.body] = fmt.Sprintf("reals%d", len(anchors)+1)
			anchor = " &" + anchors[s.body]
		}
		m.writeReals(d, s, anchor)
	}
}

// writeReals writes the real servers of a service.
func (m *mapper) writeReals(d *document, s *service, anchor string) {
	reals := slices.DeleteFunc(slices.Clone(s.body.reals), func(r *realOut) bool { return r.item.isLeftOut() })
	if len(reals) == 0 {
		d.put(4, s.item, "reals:%s []", anchor)
		return
	}
	d.put(4, s.item, "reals:%s", anchor)
	for _, r := range reals {
		if !r.isPlain {
			heading(d, 6, r.item.from)
		}
		e := entry{doc: d, owner: r.item, indent: 6}
		for _, k := range r.keys {
			e.put(k.key, "%s", k.value)
		}
		checks := slices.DeleteFunc(slices.Clone(r.checks), func(c *check) bool { return c.item.isLeftOut() })
		if len(checks) == 0 {
			continue
		}
		d.put(8, r.item, "check:")
		for _, c := range checks {
			d.put(10, c.item, "- %s", c.text())
		}
	}
}

// writeRouters writes the VRRP instances in the order of the file.
func (m *mapper) writeRouters(d *document) {
	started := false
	for _, r := range m.routers {
		if r.item.isLeftOut() {
			continue
		}
		d.blank()
		if !started {
			d.put(0, nil, "vrrp:")
			started = true
		}
		heading(d, 2, r.item.from)
		e := entry{doc: d, owner: r.item, indent: 2}
		for _, k := range r.keys() {
			e.put(k.key, "%s", k.value)
		}
		m.secret = m.secret || r.authPass != ""
		if m.globals.startupDelay != nil && *m.globals.startupDelay > 0 {
			e.put("startup_delay", "%s", duration(min(m.globals.startupDelay.Round(time.Millisecond), maxPreempt)))
		}
		var addresses []string
		for _, a := range r.addresses {
			addresses = append(addresses, a.text())
		}
		e.put("addresses", "[%s]", strings.Join(addresses, ", "))
		writeRouted(d, r, "routes", r.routes)
		writeRouted(d, r, "rules", r.rules)
	}
}
