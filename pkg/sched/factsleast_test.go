package sched

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestFactsLeast goes through 18-leastconn.txt: lc, wlc, sed and nq over the
// life of connections. A small model of IPVS's connection table counts; the
// table that each section ends with tells that it counts right.
func TestFactsLeast(t *testing.T) {
	for _, s := range sectionsOf(t, "testdata/18-leastconn.txt", 72) {
		t.Run(s.title, func(t *testing.T) {
			m := &connTable{t: t, services: map[string]*director{}, conns: map[string]*conn{}, over: map[string]bool{}}
			table := -1 // line of the closing table
			for i, line := range s.lines {
				switch {
				case strings.HasPrefix(line, "$ ipvsadm -ln"):
					table = i + 4
				case strings.HasPrefix(line, "$ ipvsadm "):
					m.command(strings.TrimPrefix(line, "$ ipvsadm"))
				case table < 0:
					for _, event := range strings.Fields(line) {
						m.event(event)
					}
				case i >= table:
					m.compare(line)
				}
			}
			if m.compared == 0 {
				t.Error("no closing table")
			}
		})
	}
}

// conn is a connection: to which real of which service, and its state.
type conn struct {
	service string // "t", "u": of TCP, of UDP
	real    uint32
	state   string
}

func (c *conn) active() bool { return c.state == "SYN_RECV" || c.state == "ESTABLISHED" }

type connTable struct {
	t        *testing.T
	services map[string]*director
	conns    map[string]*conn // by number
	over     map[string]bool  // reals above their threshold, by service and ID
	listed   string           // service of the table's last line
	compared int
}

func (m *connTable) command(cmd string) {
	name := "t"
	if strings.Contains(cmd, " -u ") {
		name = "u"
	}
	if m.services[name] == nil {
		m.services[name] = &director{t: m.t}
	}
	m.services[name].run(cmd)
}

func (m *connTable) load(service string, id uint32) Load {
	l := Load{Overloaded: m.over[service+digit(id)]}
	for _, c := range m.conns {
		if c.service == service && c.real == id {
			if c.active() {
				l.Active++
			} else {
				l.Inactive++
			}
		}
	}
	return l
}

// event plays one event; the head of the file says what they mean.
func (m *connTable) event(e string) {
	number, who, opens := strings.Cut(e[1:], ">")
	switch c := m.conns[number]; {
	case opens:
		m.open(e, map[byte]string{'S': "t", 'U': "u"}[e[0]], number, who)
	case e[0] == 'T':
		m.pass(number)
	case strings.ContainsRune("w+-", rune(e[0])):
		m.edit(e)
	case c.state == "SYN_RECV" && e[0] == 'A':
		c.state = "ESTABLISHED"
	case c.state == "SYN_RECV" && e[0] == 'F':
		c.state = "TIME_WAIT"
	case c.state == "ESTABLISHED" && e[0] == 'F':
		c.state = "FIN_WAIT"
	case c.state == "ESTABLISHED" && e[0] == 'R':
		c.state = "CLOSE"
	}
}

func (m *connTable) open(e, service, number, want string) {
	d := m.services[service]
	id := d.ring.PickLeast(func(id uint32) Load { return m.load(service, id) })
	if got := digit(id); got != want {
		m.t.Errorf("%s: got %s", e, got)
	}
	if want == "-" {
		return
	}
	n, _ := strconv.Atoi(want) // go on from where the kernel went
	m.conns[number] = &conn{service, uint32(n), map[string]string{"t": "SYN_RECV", "u": "UDP"}[service]}
	l := m.load(service, uint32(n))
	if upper := d.upper[uint32(n)]; upper > 0 && int(l.Active+l.Inactive) >= upper {
		m.over[service+want] = true
	}
}

// pass lets time pass. A real leaves its overload when it has fewer
// connections than its lower threshold, which is 1 in this file.
func (m *connTable) pass(seconds string) {
	for number, c := range m.conns {
		if c.service == "u" && seconds != "400" || c.state == "ESTABLISHED" {
			continue
		}
		delete(m.conns, number)
	}
	for key := range m.over {
		id, _ := strconv.Atoi(key[1:])
		if l := m.load(key[:1], uint32(id)); l.Active+l.Inactive < 1 {
			delete(m.over, key)
		}
	}
}

func (m *connTable) edit(e string) {
	id, weight, _ := strings.Cut(e[1:], "=")
	for service, d := range m.services {
		verb := map[byte]string{'w': "-e", '+': "-a", '-': "-d"}[e[0]]
		d.run(fmt.Sprintf(" %s -%s 10.0.0.100:80 -r 10.0.0.1%s -w %s", verb, service, id, weight))
	}
}

// compare checks one line of the closing table.
func (m *connTable) compare(line string) {
	f := strings.Fields(line)
	if f[0] != "->" {
		m.listed = strings.ToLower(f[0][:1])
		return
	}
	id := uint32(f[1][len("10.0.0.1")] - '0')
	i := slices.IndexFunc(m.services[m.listed].reals, func(r Real) bool { return r.ID == id })
	l := m.load(m.listed, id)
	got := fmt.Sprint(m.services[m.listed].reals[i].Weight, l.Active, l.Inactive)
	if want := strings.Join(f[3:], " "); got != want {
		m.t.Errorf("closing table: %s: got %s", line, got)
	}
	m.compared++
}
