package config

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// decoder is the reading of one file. It goes on after a mistake and keeps
// the one that comes first in the file.
type decoder struct {
	name     string
	first    *Error
	errors   int // how many there were
	warnings []string
	nodes    int             // nodes that may still be read, so that aliases cannot multiply without end
	taken    map[string]int  // line of everything that must be unique
	keys     map[string]bool // if not nil, collects every key that is understood
}

// cursor is a place in the file.
type cursor struct {
	d     *decoder
	node  *yaml.Node // not an alias
	line  int
	begun int // line of the key, which may be an earlier one; 0 in a list
	up    *cursor
	key   string // in a map
	index int    // in a list
}

// read is how a value becomes typed. It records what is wrong and then
// returns the zero value.
type read[T any] func(*cursor) T

func (d *decoder) root(n *yaml.Node) *cursor {
	return &cursor{d: d, node: n, line: n.Line}
}

// entry goes down into a list.
func (c *cursor) entry(n *yaml.Node, index int) *cursor {
	n = target(n)
	return &cursor{d: c.d, node: n, line: n.Line, up: c, index: index}
}

// value goes down into a map.
func (c *cursor) value(k, v *yaml.Node) *cursor {
	v = target(v)
	line := v.Line
	if v.Kind == yaml.ScalarNode && v.Value == "" {
		line = k.Line // there may be nothing
	}
	return &cursor{d: c.d, node: v, line: line, begun: k.Line, up: c, key: k.Value}
}

// target follows an alias; there are no aliases of aliases.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// path names the place: "services[0].reals[2].weight".
func (c *cursor) path() string {
	switch {
	case c.up == nil:
		return ""
	case c.key == "":
		return fmt.Sprintf("%s[%d]", c.up.path(), c.index)
	case c.up.up == nil:
		return plain(c.key)
	}
	return c.up.path() + "." + plain(c.key)
}

// generic is the path with empty brackets: the name of a key of the format.
func (c *cursor) generic() string {
	switch {
	case c.up == nil:
		return ""
	case c.key == "":
		return c.up.generic() + "[]"
	case c.up.up == nil:
		return c.key
	}
	return c.up.generic() + "." + c.key
}

// errorf records what is wrong here.
func (c *cursor) errorf(format string, args ...any) {
	c.d.errors++
	if c.d.nodes < 0 {
		return // it was given up
	}
	if c.d.first == nil || c.line < c.d.first.Line {
		c.d.first = &Error{File: c.d.name, Line: c.line, Key: c.path(), Text: fmt.Sprintf(format, args...)}
	}
}

// warnf records what is odd here.
func (c *cursor) warnf(format string, args ...any) {
	e := Error{File: c.d.name, Line: c.line, Key: c.path(), Text: fmt.Sprintf(format, args...)}
	c.d.warnings = append(c.d.warnings, e.Error())
}

// unique records an error if something of the same kind has the same name.
func (c *cursor) unique(kind, name, shown string) {
	id := kind + "\x00" + name
	if line, ok := c.d.taken[id]; ok {
		c.errorf("%s is there already, on line %d (want another %s)", shown, line, kind)
		return
	}
	c.d.taken[id] = c.line
}

// spend counts a node. Once there were too many, nothing is read any more,
// and that is the error.
func (c *cursor) spend() bool {
	if c.d.nodes == 0 {
		c.d.first = nil
		c.errorf("aliases that multiply to more than %d values (want them written out, or fewer)", maxAliased)
	}
	c.d.nodes--
	return c.d.nodes >= 0
}

// list reads a list. A single value is a list of one.
func list[T any](entry read[T]) read[[]T] {
	return func(c *cursor) []T {
		var all []T
		switch {
		case c.node.Kind == yaml.SequenceNode && c.node.ShortTag() == "!!seq":
			for i, n := range c.node.Content {
				if !c.spend() {
					break
				}
				all = append(all, entry(c.entry(n, i)))
			}
		case c.node.Kind == yaml.ScalarNode && c.node.ShortTag() == "!!null":
			c.errorf("nothing (want a list; [] is an empty one)")
		case c.node.Kind == yaml.SequenceNode:
			c.errorf("tag %s (want none)", quoted(c.node.Tag))
		default:
			all = append(all, entry(c))
		}
		return all
	}
}

// object is a map whose keys are asked for by name. What was not asked for
// until done is an unknown key.
type object struct {
	*cursor
	names   []string // in the order of the file
	values  map[string]*cursor
	known   []string
	missing []string // texts
	before  int      // errors there were when it began
}

// object reads a map.
func (c *cursor) object() *object {
	o := &object{cursor: c, values: map[string]*cursor{}, before: c.d.errors}
	if c.node.Kind != yaml.MappingNode {
		c.errorf("%s (want a map of keys and values)", found(c.node))
		return o
	}
	if tag := c.node.ShortTag(); tag != "!!map" {
		c.errorf("tag %s (want none)", quoted(tag))
	}
	o.add(c.node, 0)
	return o
}

// maxMerges bounds how deep maps may be merged into one another.
const maxMerges = 16

// add takes the keys of n. Merged maps give only what is not there yet.
func (o *object) add(n *yaml.Node, depth int) {
	own := map[string]int{}
	var merges []*cursor
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !o.spend() {
			return
		}
		k := target(n.Content[i])
		at := o.value(k, n.Content[i+1])
		line, twice := own[k.Value]
		switch {
		case k.Kind != yaml.ScalarNode || k.Value == "":
			at.up.onLine(k.Line).errorf("%s as a key (want a word)", found(k))
		case k.ShortTag() == "!!merge":
			merges = append(merges, at)
		case twice:
			at.onKey().errorf("key given twice, first on line %d (want it once)", line)
		default:
			own[k.Value] = k.Line
			if o.values[k.Value] == nil {
				o.names = append(o.names, k.Value)
				o.values[k.Value] = at
			}
		}
	}
	for _, m := range merges {
		o.merge(m, depth+1)
	}
}

// merge adds the maps of a "<<" key.
func (o *object) merge(m *cursor, depth int) {
	if depth > maxMerges {
		m.onKey().errorf("maps merged into one another more than %d deep (want fewer)", maxMerges)
		return
	}
	for _, at := range list(func(c *cursor) *cursor { return c })(m) {
		if at.node.Kind != yaml.MappingNode {
			at.errorf("%s (want an alias of a map)", found(at.node))
			continue
		}
		o.add(at.node, depth)
	}
}

// at is the place of a key, or of the map where the key is missing.
func (o *object) at(key string) *cursor {
	if c, ok := o.values[key]; ok {
		return c
	}
	return o.cursor
}

// has tells whether a key is there.
func (o *object) has(key string) bool { return o.values[key] != nil }

// ask makes a key known and finds its value.
func (o *object) ask(key string) (*cursor, bool) {
	if !slices.Contains(o.known, key) {
		o.known = append(o.known, key)
	}
	if o.d.keys != nil {
		o.d.keys[(&cursor{up: o.cursor, key: key}).generic()] = true
	}
	c, ok := o.values[key]
	return c, ok
}

// get reads a key that need not be there.
func get[T any](o *object, key string, otherwise T, value read[T]) T {
	c, ok := o.ask(key)
	if !ok {
		return otherwise
	}
	return value(c)
}

// need reads a key that must be there; want says what to write.
func need[T any](o *object, key, want string, value read[T]) T {
	c, ok := o.ask(key)
	if !ok {
		o.missing = append(o.missing, fmt.Sprintf("no %s (want %s)", key, want))
		var zero T
		return zero
	}
	return value(c)
}

// done reports the keys that are unknown, or else those that are missing: one
// may be the other, misspelt. It tells whether all of the map is well, so
// that its values may be compared with each other.
func (o *object) done() bool {
	unknown := false
	for _, name := range o.names {
		if slices.Contains(o.known, name) {
			continue
		}
		unknown = true
		o.values[name].onKey().errorf("unknown key (%s)", o.suggest(name))
	}
	if !unknown && o.node.Kind == yaml.MappingNode {
		for _, text := range o.missing {
			o.errorf("%s", text)
		}
	}
	return o.d.errors == o.before
}

// onKey is the same place on the line of its key.
func (c *cursor) onKey() *cursor { return c.onLine(c.begun) }

func (c *cursor) onLine(line int) *cursor {
	moved := *c
	moved.line = line
	return &moved
}

// suggest names the known key that looks most like a misspelt one, or all.
func (o *object) suggest(name string) string {
	best, least := "", 3
	for _, k := range o.known {
		if d := distance(name, k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	slices.Sort(o.known)
	return "want one of " + strings.Join(o.known, ", ")
}

// distance counts the edits between two words (Levenshtein), up to a length
// at which nobody would call it a misspelling.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
