package keepalived

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// item is a part of the output that can be left out as a whole, where
// pkg/config does not accept it.
type item struct {
	from   *Statement
	isOut  bool
	parent *item
}

// isLeftOut reports whether the item or what it belongs to is left out.
func (i *item) isLeftOut() bool {
	for ; i != nil; i = i.parent {
		if i.isOut {
			return true
		}
	}
	return false
}

// document is YAML, with the item that every line belongs to.
type document struct {
	lines []string
	owner []*item
}

// put adds a line.
func (d *document) put(indent int, owner *item, format string, args ...any) {
	d.lines = append(d.lines, strings.Repeat(" ", indent)+fmt.Sprintf(format, args...))
	d.owner = append(d.owner, owner)
}

// comment adds comment lines.
func (d *document) comment(indent int, text string) {
	d.put(indent, nil, "# %s", printable(text))
}

// blank adds an empty line.
func (d *document) blank() {
	d.lines = append(d.lines, "")
	d.owner = append(d.owner, nil)
}

func (d *document) text() []byte { return []byte(strings.Join(d.lines, "\n") + "\n") }

// entry writes the keys of a map that is an entry of a list: the first one
// behind the hyphen.
type entry struct {
	doc     *document
	owner   *item
	indent  int
	started bool
}

// put adds a key.
func (e *entry) put(key, format string, args ...any) {
	lead, indent := "  ", e.indent
	if !e.started {
		lead, e.started = "- ", true
	}
	e.doc.put(indent, e.owner, "%s%s: %s", lead, key, fmt.Sprintf(format, args...))
}

// scalar writes text so that YAML reads the same text: in double quotes, with
// the escapes that JSON has too.
func scalar(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < 0x20 || r == 0x7f || r > 0x7e && !strconv.IsPrint(r):
			fmt.Fprintf(&out, `\U%08x`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// scalars writes a list in one line.
func scalars(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = scalar(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// duration writes a time as the configuration has it: "6s", "1m30s", "100ms".
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
