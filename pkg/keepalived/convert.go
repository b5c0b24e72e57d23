package keepalived

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/config"
)

// Options say what a file does not.
type Options struct {
	ViaVIP      bool                // checks of direct routing and of tunnels ask through the VIP
	Backend     string              // of the output; "" leaves lvx's default
	Interface   string              // where the file names none; "" is keepalived's default, eth0
	ID          string              // of the lines that begin with @ID
	Instance    string              // ${_INSTANCE}
	MergeGroups bool                // one service for a virtual_server_group instead of one for each of its entries
	Marks       map[uint32][]string // listeners of firewall marks: "192.0.2.1:80/tcp"
}

// Result is what a file means to lvx.
type Result struct {
	YAML      []byte
	Config    *config.Config // what pkg/config makes of YAML
	Report    Report
	HasSecret bool // YAML holds a password
}

// mapper collects what the output will have.
type mapper struct {
	o        Options
	option   string // of lvx import, before the file's name
	notes    Report // of lines that are no statements
	all      []*Statement
	groups   map[string]*Statement
	files    map[string]*Statement // track_file
	scripts  map[string]*Statement // vrrp_script
	process  map[string]*Statement // vrrp_track_process
	bfd      map[string]*Statement // bfd_instance
	sessions []*session            // of these, in their order
	names    map[string]bool
	taken    map[string]position // VIPs, listeners and virtual routers
	served   map[netip.Addr]bool // addresses of services
	services []*service
	routers  []*router
	globals  globals
	secret   bool
}

func newMapper(o Options) *mapper {
	return &mapper{
		o: o, groups: map[string]*Statement{}, files: map[string]*Statement{},
		scripts: map[string]*Statement{}, process: map[string]*Statement{}, bfd: map[string]*Statement{}, names: map[string]bool{}, taken: map[string]position{},
		served: map[netip.Addr]bool{}, globals: newGlobals(o),
	}
}

// Import reads a configuration of keepalived.
func Import(files Files, name string, o Options) (*Result, error) {
	m, err := read(files, name, o)
	if err != nil {
		return nil, err
	}
	return m.settle(name)
}

// read reads a file and what it includes, and finds out what it means.
func read(files Files, name string, o Options) (*mapper, error) {
	m := newMapper(o)
	all, err := parseFile(files, name, o, func(f Finding) { m.notes = append(m.notes, f) })
	if err != nil {
		return nil, err
	}
	m.all = all
	m.readAll()
	return m, nil
}

// readAll reads every block; what refers to others comes last.
func (m *mapper) readAll() {
	for _, s := range m.all {
		if s.Word == "virtual_server_group" && s.keyword != nil && len(s.Args) > 0 {
			m.groups[s.arg(0)] = s
		}
		define := func(blocks map[string]*Statement) {
			if blocks[s.arg(0)] == nil { // keepalived takes the first one
				blocks[s.arg(0)] = s
			}
		}
		switch {
		case s.keyword == nil:
		case s.Word == "vrrp_track_file", s.Word == "track_file":
			define(m.files)
		case s.Word == "vrrp_script":
			define(m.scripts)
		case s.Word == "vrrp_track_process":
			define(m.process)
		case s.Word == "bfd_instance":
			m.readBFD(s)
		}
		if s.Word == "global_defs" && s.keyword != nil {
			m.readGlobals(s)
		}
	}
	for _, s := range m.all {
		switch {
		case s.keyword == nil:
		case s.Word == "virtual_server":
			m.readService(s)
		case s.Word == "vrrp_instance":
			m.readRouter(s)
		}
	}
	m.readSyncGroups()
	m.readSync()
	m.markUnused()
}

// maxRefusals is how many parts of the output are left out one by one.
const maxRefusals = 100

// settle writes the output until pkg/config accepts it. What it refuses is
// left out and lost; after too many refusals, everything.
func (m *mapper) settle(name string) (*Result, error) {
	for refusals := 0; ; refusals++ {
		if refusals == maxRefusals {
			m.leaveAllOut()
		}
		doc := m.write(name)
		text := doc.text()
		cfg, err := config.Parse(name, text)
		if err == nil {
			return &Result{YAML: text, Config: cfg, Report: m.account(), HasSecret: m.secret}, nil
		}
		var wrong *config.Error
		if !errors.As(err, &wrong) || wrong.Line < 1 || wrong.Line > len(doc.owner) || doc.owner[wrong.Line-1] == nil {
			return nil, fmt.Errorf("%s: what it means to lvx is no configuration: %w", printable(name), err)
		}
		left := doc.owner[wrong.Line-1]
		left.isOut = true
		left.from.overrule(Lost, "left out: %s", wrong.Text)
		left.from.markBlock(Lost, "of what is left out")
	}
}

// leaveAllOut gives up on services and virtual routers.
func (m *mapper) leaveAllOut() {
	leave := func(i *item) {
		i.isOut = true
		i.from.overrule(Lost, "left out: more than %d mistakes in the file", maxRefusals)
		i.from.markBlock(Lost, "of what is left out")
	}
	for _, s := range m.services {
		leave(s.item)
	}
	for _, r := range m.routers {
		leave(r.item)
	}
}

// take keeps a name that may be there once; where says who has it.
func (m *mapper) take(kind, name string, s *Statement) (where position, isFree bool) {
	where, isTaken := m.taken[kind+name]
	if !isTaken {
		m.taken[kind+name] = s.position
	}
	return where, !isTaken
}

// account gives the verdict on every statement, in the order of the file.
func (m *mapper) account() Report {
	var all Report
	var walk func(parent *Statement, list []*Statement)
	walk = func(parent *Statement, list []*Statement) {
		for _, s := range list {
			if s.keyword == &valueKeyword {
				s.mark(parent.verdict.Level, "%s", parent.verdict.Text)
			}
			finish(s)
			all = append(all, *s.verdict)
			walk(s, s.Block)
		}
	}
	walk(nil, m.all)
	all = append(all, m.notes...)
	files := map[string]int{}
	for _, f := range all {
		if _, ok := files[f.File]; !ok {
			files[f.File] = len(files)
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		if a.File != b.File {
			return files[a.File] - files[b.File]
		}
		return a.Line - b.Line
	})
	return all
}

// finish gives a statement that has none the verdict of its keyword.
func finish(s *Statement) {
	switch {
	case s.verdict != nil:
	case s.keyword == nil:
		s.mark(Harmless, "keepalived does not know this here and ignores it")
	default:
		s.mark(s.keyword.level, "%s", s.keyword.text)
	}
	if s.isGlued && s.verdict.Level == Mapped {
		s.verdict.Text = strings.TrimLeft(s.verdict.Text+"; a comment sign ends the word, as for keepalived", "; ")
	}
	if s.isHidden {
		s.verdict.Keyword = "(hidden)"
	}
}

// unique makes a name that nothing of its kind has.
func (m *mapper) unique(kind, name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, name)
	if clean == "" || strings.ContainsRune("._-", rune(clean[0])) {
		clean = "x" + clean
	}
	clean = clean[:min(len(clean), 60)]
	free := clean
	for n := 2; m.names[kind+free]; n++ {
		free = fmt.Sprintf("%s-%d", clean[:min(len(clean), 56)], n)
	}
	m.names[kind+free] = true
	return free
}
