package config

import (
	"fmt"

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
	bfdUses  []bfdUse        // places that name a BFD session
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
		return printable(c.key)
	}
	return c.up.path() + "." + printable(c.key)
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

// onKey is the same place on the line of its key.
func (c *cursor) onKey() *cursor { return c.onLine(c.begun) }

func (c *cursor) onLine(line int) *cursor {
	moved := *c
	moved.line = line
	return &moved
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
