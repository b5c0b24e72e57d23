package config

import (
	"bytes"
	"reflect"
	"slices"
)

// Reader loads a file again and again. Where only one service has changed
// since the last time, and neither its name nor what it listens on, it reads
// that one and keeps the rest: of ten thousand services, YAML takes most of the
// time of a reload. In every other case it reads the whole file. The
// configurations that it gives share what did not change: they are not to be
// written to.
//
// The zero value is ready. One goroutine at a time may use it.
type Reader struct {
	path string
	text []byte
	cfg  *Config // of text; without what the file's mode adds
}

// Load reads and validates the configuration file, as the function of that
// name does.
func (r *Reader) Load(path string) (*Config, error) {
	text, mode, err := contents(path)
	if err != nil {
		return nil, err
	}
	cfg := r.again(path, text)
	if cfg == nil {
		if cfg, err = Parse(path, text); err != nil {
			return nil, err
		}
	}
	r.path, r.text, r.cfg = path, text, cfg
	return cfg.seenWith(path, mode), nil
}

// again is the configuration of a text that differs from the last one in one
// service; nil if that is not so, or not certain.
func (r *Reader) again(path string, text []byte) *Config {
	if r.cfg == nil || r.path != path || len(r.cfg.Warnings) > 0 || len(r.cfg.Services) == 0 || len(text) > MaxSize {
		return nil
	}
	// What reaches beyond its own lines, or may: anchors and aliases, blocks
	// of text, tags, documents, tabs.
	if bytes.ContainsAny(text, "&*|>!%\t\r") || bytes.Contains(text, []byte("---")) || bytes.Contains(text, []byte("...")) {
		return nil
	}
	old := lineStarts(r.text)
	at, from, end := r.changed(text, old)
	if at < 0 {
		return nil
	}
	grown := len(text) - len(r.text)
	before, now := r.text[from:end], text[from:end+grown]
	if indent(before) != indent(now) {
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

var newline = []byte("\n")

// lineStarts are the offsets of all lines, and the end.
func lineStarts(text []byte) []int {
	starts := make([]int, 1, bytes.Count(text, newline)+2)
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return append(starts, len(text))
}

// changed finds the service that all differences lie in, and the lines that it
// has in the last text: from the dash of its own to the dash of the next one.
// Negative: there is no such service.
func (r *Reader) changed(text []byte, starts []int) (service, from, end int) {
	same := 0
	for n := min(len(text), len(r.text)); same < n && text[same] == r.text[same]; {
		same++
	}
	tail := 0
	for n := min(len(text), len(r.text)) - same; tail < n && text[len(text)-1-tail] == r.text[len(r.text)-1-tail]; {
		tail++
	}
	first, _ := slices.BinarySearch(starts, same+1) // the line of the first difference, from 1
	services := r.cfg.Services
	next, _ := slices.BinarySearchFunc(services, first+1, func(s Service, line int) int { return s.Line - line })
	// A line that the whole difference may have been put in front of belongs
	// to nobody for certain, and what follows the last service neither.
	if next == 0 || next == len(services) || services[next].Line >= len(starts) {
		return -1, 0, 0
	}
	from, end = starts[services[next-1].Line-1], starts[services[next].Line-1]
	if same < from || len(r.text)-tail > end || len(r.text)-tail < from {
		return -1, 0, 0
	}
	return next - 1, from, end
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
	if d.first != nil || len(d.warnings) > 0 || len(o.names) != 1 || len(found) != 1 {
		return Service{}, false
	}
	return found[0].Service, true
}

// indent is how many blanks lines begin with.
func indent(lines []byte) int { return len(lines) - len(bytes.TrimLeft(lines, " ")) }
