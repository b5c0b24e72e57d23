package keepalived

import (
	"path"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// ImportRules reads a rule file of ipvsadm, what ipvsadm-save writes or a script
// with the same lines, and accounts for every line.
func ImportRules(files Files, name string, h ipvsadm.Host, o Options) (*Result, error) {
	text, err := files.Read(name)
	if err != nil {
		return nil, err
	}
	m := newMapper(o)
	m.option = "--ipvsadm "
	table := &ipvsadm.Table{}
	origin := map[ipvsadm.Key]*Statement{}
	for i, line := range strings.Split(string(text), "\n") {
		s := &Statement{position: position{name, i + 1}, keyword: &keyword{}}
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue // ipvsadm-restore drops it
		}
		s.raw = line
		if program, rule, ok := strings.Cut(line, " "); ok && path.Base(program) == "ipvsadm" {
			line = rule
		}
		err := ipvsadm.Rules(strings.NewReader(line), func(args []string) bool {
			s.Word, s.Args = args[0], args[1:]
			if service := m.readRule(table, s, args, h, origin); service != nil {
				service.Block = append(service.Block, s)
			} else {
				m.all = append(m.all, s)
			}
			return true
		})
		if err != nil {
			s.Word = "line"
			s.mark(Lost, "%v", err)
			m.all = append(m.all, s)
		}
	}
	m.globals.timeouts = setTimeouts(table.Timeouts)
	for _, e := range table.Services {
		m.serveEntry(e, origin[e.Key])
	}
	return m.settle(name)
}

// readRule carries one line out on the table. The result is the line that the
// service of another one comes from.
func (m *mapper) readRule(t *ipvsadm.Table, s *Statement, args []string, h ipvsadm.Host, origin map[ipvsadm.Key]*Statement) (service *Statement) {
	c, fail := ipvsadm.Parse("ipvsadm", args, h)
	switch {
	case fail != nil && isShell(s):
		s.mark(Lost, "not a rule but a shell's: run the script, and import what ipvsadm-save -n writes then")
		return nil
	case fail != nil:
		s.mark(Harmless, "ipvsadm refuses it too: %s", printable(strings.Join(strings.Fields(fail.Text), " ")))
		return nil
	case c.Op == ipvsadm.StartDaemon:
		m.readStartedDaemon(s, c.Daemon)
		return nil
	case c.Op == ipvsadm.StopDaemon:
		s.mark(Harmless, "rules start from nothing: none runs")
		return nil
	case !c.Op.Edits():
		s.mark(Harmless, "changes nothing")
		return nil
	}
	if fail := t.Do(c); fail != nil {
		s.mark(Harmless, "the kernel refuses it too: %s", fail.Text)
		return nil
	}
	switch c.Op {
	case ipvsadm.AddService:
		origin[c.Key] = s
	case ipvsadm.AddServer, ipvsadm.EditServer:
		markUnknown(s, c.Server)
		service = origin[c.Key]
	case ipvsadm.SetTimeouts:
		m.globals.timeoutsItem = &item{from: s}
	}
	if service == nil { // else its fate is the service's
		s.mark(Mapped, "")
	}
	return service
}

// isShell reports whether a line is for a shell to read: ipvsadm would not see it, or
// not as it stands there.
func isShell(s *Statement) bool {
	return !strings.HasPrefix(s.Word, "-") || strings.ContainsAny(s.raw, "$`;&|<>(){}#'\"\\")
}

// markUnknown says of a rule what lvx has no word for.
func markUnknown(s *Statement, server ipvsadm.Server) {
	if server.Weight > 65535 {
		s.mark(Changed, "weight 65535 at most")
	}
}

// setTimeouts are what --set has set; 0 leaves the default.
func setTimeouts(seconds [3]int) []pair {
	var all []pair
	for i, name := range []string{"tcp", "tcp_fin", "udp"} {
		if seconds[i] > 0 {
			all = append(all, pair{name, strconv.Itoa(seconds[i]) + "s"})
		}
	}
	return all
}

// serveEntry makes a service of an entry of the table.
func (m *mapper) serveEntry(e *ipvsadm.Entry, s *Statement) {
	protocol := e.Proto.String()
	v := &virtual{from: s, protocol: protocol, scheduler: e.Scheduler, onePacket: e.OnePacket, persistence: uint64(e.Persistent), way: &way{word: "dr"}}
	if len(e.Servers) > 0 {
		v.way = ptr(wayOf(e.Servers[0]))
	}
	for bit, name := range []string{"-fallback", "-port"} {
		if e.Flags&(1<<bit) != 0 && (v.scheduler == "sh" || v.scheduler == "mh") {
			v.flags = append(v.flags, v.scheduler+name)
		}
	}
	switch {
	case e.Mask.IsValid():
		v.granularity = e.Mask.String()
	case e.Prefix > 0:
		v.granularity = strconv.Itoa(e.Prefix)
	}
	if e.Engine != "" {
		s.overrule(Lost, "lvx binds clients by address, not by what is in their packets")
	}
	end := endpoint{from: s, addr: e.Addr, port: e.Port, mark: e.Mark, is6: e.IPv6}
	b := &body{from: s, protocol: protocol}
	m.balanceKeys(b, v, nil)
	for _, server := range e.Servers {
		b.reals = append(b.reals, m.entryReal(s, server, e.Port, *v.way))
	}
	m.addServices(b, v, []endpoint{end})
}

// entryReal is a real server of the table as the output has it.
func (m *mapper) entryReal(s *Statement, server ipvsadm.Server, listener uint16, usual way) *realOut {
	r := &realOut{item: &item{from: s}, isPlain: true}
	r.put("address", "%s", scalar(server.Addr.String()))
	if server.Forward == lb.NAT && server.Port != 0 && server.Port != listener {
		r.put("port", "%d", server.Port)
	}
	r.put("weight", "%d", min(server.Weight, 65535))
	r.putWay(wayOf(server), usual)
	if server.Upper > 0 {
		r.put("upper_threshold", "%d", server.Upper)
	}
	if server.Lower > 0 && server.Lower <= server.Upper {
		r.put("lower_threshold", "%d", server.Lower)
	}
	return r
}
