package config

import (
	"bytes"
	"net/netip"
	"reflect"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// How one of ten thousand services is read again: the whole file takes YAML
// seconds, and a reload of one service has 50 ms.
//
//	the last text             the text now
//	┌──────────────┐          ┌──────────────┐
//	│ interface: … │ ════════ │ interface: … │  prefix: the bytes that both begin
//	│ services:    │ ════════ │ services:    │  with
//	│  - name: s1  │ ════════ │  - name: s1  │
//	│    …         │ ════════ │    …         │
//	│  - name: s2  │ ◀─ from ─▶  - name: s2  │  changed: the service that has all
//	│    weight: 1 │   ≠      │    weight: 5 │  differences, by the lines that the
//	│  - name: s3  │ ◀─ end ──▶  - name: s3  │  last reading gave its services
//	│    …         │ ════════ │    …         │  suffix: the bytes that both end with
//	└──────────────┘          └──────────────┘
//
// alone reads s2 of both texts as a list of one. If the old s2, read alone, is
// what it was in its place, nothing outside has a say in it (flat: no anchors,
// no blocks), and the new one takes its place in a copy of the configuration.
// What compares services with each other (names, listeners, marks, MACs, VIPs)
// must not have changed. Any doubt, and the whole file is read.

// Reader loads a file again and again. Where only one service has changed
// since the last time, and neither its name nor what it listens on, it reads
// that one and keeps the rest: of ten thousand services, YAML takes most of the
// time of a reload. In every other case it reads the whole file. The
// configurations that it gives share what did not change: they are not to be
// written to.
//
// The zero value is ready. One goroutine at a time may use it.
type Reader struct {
	// Convert reads a text that is not lvx's own; nil without an error says that
	// it is. A nil Convert takes every text for YAML.
	Convert func(path string, text []byte) (*Config, error)

	path string
	text []byte
	cfg  *Config // of text; without what the file's mode adds
	flat bool    // nothing in text reaches beyond its own lines
}

// Load reads and validates the configuration file, as the function of that
// name does.
func (r *Reader) Load(path string) (*Config, error) {
	text, mode, err := contents(path)
	if err != nil {
		return nil, err
	}
	if r.Convert != nil && len(text) <= MaxSize {
		if cfg, err := r.Convert(path, text); cfg != nil || err != nil {
			r.cfg, r.text = nil, nil
			return cfg.seenWith(path, mode), err
		}
	}
	cfg := r.again(path, text)
	if cfg == nil {
		if cfg, err = Parse(path, text); err != nil {
			return nil, err
		}
		r.flat = flat(text)
	}
	r.path, r.text, r.cfg = path, text, cfg
	return cfg.seenWith(path, mode), nil
}

// Text is the text that was loaded last without an error; nil if it was
// converted.
func (r *Reader) Text() []byte { return r.text }

// again is the configuration of a text that differs from the last one in one
// service; nil if that is not so, or not certain.
func (r *Reader) again(path string, text []byte) *Config {
	if r.cfg == nil || !r.flat || r.path != path || len(r.cfg.Warnings) > 0 || len(r.cfg.Services) == 0 || len(text) > MaxSize {
		return nil
	}
	at, from, end := r.changed(text)
	if at < 0 {
		return nil
	}
	grown := len(text) - len(r.text)
	before, now := r.text[from:end], text[from:end+grown]
	if !flat(now) || indent(before) != indent(now) {
		return nil
	}
	was, ok := r.alone(before)
	if !ok {
		return nil
	}
	is, ok := r.alone(now)
	if !ok || is.Name != was.Name || is.Mark != was.Mark || is.ByMark() != was.ByMark() || !slices.Equal(is.Listeners, was.Listeners) {
		return nil
	}
	// The reading of the old text alone must be what it was in its place.
	known := r.cfg.Services[at]
	is.Mark, is.Line = known.Mark, known.Line
	was.Mark, was.Line = known.Mark, known.Line
	if !reflect.DeepEqual(was, known) {
		return nil
	}
	if r.hasVIPAsReal(is) || r.isWarnedOf(&is) {
		return nil
	}
	cfg := *r.cfg
	cfg.Services = slices.Clone(cfg.Services)
	cfg.Services[at] = is
	if lines := bytes.Count(now, newline) - bytes.Count(before, newline); lines != 0 {
		for i := at + 1; i < len(cfg.Services); i++ {
			if cfg.Services[i].Line > known.Line {
				cfg.Services[i].Line += lines
			}
		}
	}
	return &cfg
}

// hasVIPAsReal reports whether a real server of a service is a VIP, of whatever
// service or virtual router.
func (r *Reader) hasVIPAsReal(s Service) bool {
	isReal := func(a netip.Addr) bool {
		return slices.ContainsFunc(s.Reals, func(real lb.Real) bool { return real.Addr == a })
	}
	for i := range r.cfg.Services {
		if slices.ContainsFunc(r.cfg.Services[i].Listeners, func(l lb.Listener) bool { return isReal(l.Addr) }) {
			return true
		}
	}
	for _, inst := range r.cfg.VRRP {
		if slices.ContainsFunc(inst.Addresses, func(p netip.Prefix) bool { return isReal(p.Addr()) }) {
			return true
		}
	}
	return false
}

// isWarnedOf reports whether the rest of the file may give cause to warn of a service.
func (r *Reader) isWarnedOf(s *Service) bool {
	return r.cfg.Sync.IsEnabled() && s.realOfOtherFamily() >= 0 ||
		len(r.cfg.OuterSources) > 0 && s.hasTunnelChecksum() ||
		r.cfg.BGP.IsEnabled() && boundToOne(r.cfg, s) != ""
}

var newline = []byte("\n")

// flat reports whether a text has nothing that reaches beyond its own lines, or
// may: anchors and aliases, blocks of text, tags, documents, tabs.
func flat(text []byte) bool {
	return !bytes.ContainsAny(text, "&*|>!%\t\r") && !bytes.Contains(text, []byte("---")) && !bytes.Contains(text, []byte("..."))
}

// changed finds the service that all differences lie in, and the lines that it
// has in the last text: from the dash of its own to the dash of the next one.
// Negative: there is no such service.
func (r *Reader) changed(text []byte) (service, from, end int) {
	same := prefix(text, r.text)
	tail := suffix(text[same:], r.text[same:])
	first := 1 + bytes.Count(r.text[:same], newline) // the line of the first difference
	services := r.cfg.Services
	next, _ := slices.BinarySearchFunc(services, first+1, func(s Service, line int) int { return s.Line - line })
	// What precedes the first service is not a service, and where the last
	// one ends is not known.
	if next == 0 || next == len(services) {
		return -1, 0, 0
	}
	from = 1 + bytes.LastIndexByte(r.text[:same], '\n')
	for range first - services[next-1].Line {
		from = 1 + bytes.LastIndexByte(r.text[:max(from-1, 0)], '\n')
	}
	end = same
	for range services[next].Line - first {
		n := bytes.IndexByte(r.text[end:], '\n')
		if n < 0 {
			return -1, 0, 0
		}
		end += n + 1
	}
	if same < from || len(r.text)-tail > end {
		return -1, 0, 0
	}
	return next - 1, from, end
}

// block is what is compared at once: most of a file is the same.
const block = 4096

// prefix is how many bytes two texts begin with alike.
func prefix(a, b []byte) (n int) {
	for min(len(a), len(b))-n >= block && bytes.Equal(a[n:n+block], b[n:n+block]) {
		n += block
	}
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// suffix is how many bytes two texts end with alike.
func suffix(a, b []byte) (n int) {
	for min(len(a), len(b))-n >= block && bytes.Equal(a[len(a)-n-block:len(a)-n], b[len(b)-n-block:len(b)-n]) {
		n += block
	}
	for n < min(len(a), len(b)) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}

// alone reads the lines of one service, which must be an entry of a list in
// the block notation and all that there is of it.
func (r *Reader) alone(lines []byte) (Service, bool) {
	dash := indent(lines)
	if !bytes.HasPrefix(lines[dash:], []byte("- ")) || !bytes.HasSuffix(lines, newline) {
		return Service{}, false
	}
	for i, line := range bytes.Split(lines[:len(lines)-1], newline) {
		if i > 0 && indent(line) < len(line) && indent(line) <= dash {
			return Service{}, false
		}
	}
	node, err := tree(r.path, append([]byte("services:\n"), lines...))
	if err != nil {
		return Service{}, false
	}
	d := &decoder{name: r.path, nodes: len(lines) + maxAliased, taken: map[string]int{}}
	o := d.root(node).object()
	found := get(o, "services", nil, list(func(c *cursor) service { return d.service(c, r.cfg.Backend) }))
	if d.first != nil || len(d.warnings) > 0 || len(d.unknownSessions(r.cfg)) > 0 || len(o.names) != 1 || len(found) != 1 ||
		len(found[0].macs) > 0 || len(r.cfg.MACs) > 0 { // a MAC is for all services
		return Service{}, false
	}
	return found[0].Service, true
}

// indent is how many blanks lines begin with.
func indent(lines []byte) int { return len(lines) - len(bytes.TrimLeft(lines, " ")) }
