package config

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

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

// has reports whether a key is there.
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

// done reports the first key that is unknown, or else those that are missing:
// one may be the other, misspelt. It reports whether all of the map is well, so
// that its values may be compared with each other.
func (o *object) done() bool {
	i := slices.IndexFunc(o.names, func(name string) bool { return !slices.Contains(o.known, name) })
	switch {
	case i >= 0:
		o.values[o.names[i]].onKey().errorf("unknown key (%s)", o.suggest(o.names[i]))
	case o.node.Kind == yaml.MappingNode:
		for _, text := range o.missing {
			o.errorf("%s", text)
		}
	}
	return o.d.errors == o.before
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
