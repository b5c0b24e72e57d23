package config

import (
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Error is the first thing that is wrong with a file, by its lines.
type Error struct {
	File string
	Line int    // from 1; of the anchor's content where an alias is to blame
	Key  string // the way to the value: "services[0].reals[2].weight"; "" for the file as a whole
	Text string // what was found, and in brackets what is expected
}

// Error gives one line: "lvx.yaml:12: services[0].scheduler: ...".
func (e *Error) Error() string {
	key := e.Key
	if key != "" {
		key += ": "
	}
	return fmt.Sprintf("%s:%d: %s%s", printable(e.File), e.Line, key, e.Text)
}

// maxQuoted is how many characters of a value an error shows.
const maxQuoted = 60

// quoted shows a value from the file, short and printable.
func quoted(s string) string {
	if utf8.RuneCountInString(s) > maxQuoted {
		return strconv.Quote(string([]rune(s)[:maxQuoted])) + "..."
	}
	return strconv.Quote(s)
}

// printable shows a name as it is unless it has characters that do not print or
// is very long.
func printable(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return quoted(s)
		}
	}
	if len(s) > 4096 {
		return quoted(s)
	}
	return s
}

// found shows what a node holds.
func found(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a map"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "nothing"
	}
	return quoted(n.Value)
}
