package keepalived

import (
	"fmt"
	"strconv"
	"strings"
)

// define takes "$NAME=text" and the lines that follow where the text ends with
// a backslash. It reports whether the line was a definition.
func (x *lexer) define(line string) bool {
	name, value, ok := strings.Cut(line[1:], "=")
	if !ok || !isName(name) {
		return false
	}
	x.note("$"+name, "definition", Mapped)
	value = strings.TrimLeft(value, " \t")
	value, isOpen := strings.CutSuffix(value, `\`)
	lines := []string{value}
	if isOpen {
		lines = lines[:0]
		if value = strings.TrimRight(value, " \t"); value != "" {
			lines = append(lines, value)
		}
	}
	for isOpen {
		f := x.file()
		if f == nil || f.at == len(f.lines) {
			break
		}
		isEmpty := strings.TrimRight(f.lines[f.at], "\r") == ""
		next, _ := f.next(x)
		if isEmpty {
			break
		}
		if next == "" { // a comment
			continue
		}
		x.note("$"+name, "definition, continued", Mapped)
		next, isOpen = strings.CutSuffix(next, `\`)
		if next = strings.TrimRight(next, " \t"); next != "" {
			lines = append(lines, next)
		}
	}
	if len(lines) == 0 {
		lines = []string{""}
	}
	x.defs[name] = lines
	return true
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		isLetter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !isLetter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// reference is a use of a definition: $NAME or ${NAME words}.
type reference struct {
	name, words string
	length      int
	hasBraces   bool
}

// parseReference reads the reference at the beginning of s.
func parseReference(s string) (r reference, ok bool) {
	name := s[1:]
	if strings.HasPrefix(name, "{") {
		inner, _, closed := strings.Cut(name[1:], "}")
		if !closed {
			return r, false
		}
		r.length, r.hasBraces = len(inner)+3, true
		r.name, r.words, _ = strings.Cut(inner, " ")
		return r, isName(r.name)
	}
	end := 0
	for end < len(name) && isName(name[:end+1]) {
		end++
	}
	r.name, r.length = name[:end], end+1
	isEnded := end == len(name) || strings.IndexByte(" \t,)", name[end]) >= 0
	return r, end > 0 && isEnded
}

// replace puts values in the place of references. A value of several lines
// counts only at the end of a line; its other lines follow.
func (x *lexer) replace(line string) (string, bool) {
	changed := false
	for at, n := 0, 0; n < maxReplaced; {
		i := strings.IndexByte(line[at:], '$')
		if i < 0 {
			break
		}
		at += i
		r, ok := parseReference(line[at:])
		var value []string
		if ok {
			value, ok = x.value(r)
		}
		isLast := ok && at+r.length == len(line)
		if !ok || len(value) > 1 && !isLast || len(line)+len(value[0]) > maxLine {
			at++
			continue
		}
		n++
		changed = true
		if len(value) > 1 {
			if len(x.feeds) >= maxFeeds {
				x.err = fmt.Errorf("%s:%d: $%s leads to itself", printable(x.at.file), x.at.line, r.name)
				return "", true
			}
			x.feeds = append(x.feeds, &textFeed{value[1:]})
		}
		line = line[:at] + value[0] + line[at+r.length:]
		if strings.HasPrefix(strings.TrimLeft(value[0], " \t"), "~") {
			break
		}
	}
	return line, changed
}

// value finds what a reference stands for.
func (x *lexer) value(r reference) ([]string, bool) {
	switch r.name {
	case "_PWD":
		return []string{x.directory()}, true
	case "_RANDOM":
		least := "0"
		if words := strings.Fields(r.words); len(words) > 0 {
			least = words[0]
		}
		x.note("${_RANDOM}", "always "+printable(least), Changed)
		return []string{least}, true
	case "_ENV":
		if !r.hasBraces {
			return nil, false
		}
		x.note("${_ENV}", "the environment is not asked: replace it by the value it had", Lost)
		return []string{""}, true
	}
	v, ok := x.defs[r.name]
	return v, ok && r.words == ""
}

// sequenceFeed gives a line again and again, with other values each time.
type sequenceFeed struct {
	names  []string
	values [][]string
	text   string
}

func (f *sequenceFeed) next(x *lexer) (string, bool) {
	if len(f.values) == 0 {
		return "", false
	}
	for i, name := range f.names {
		value := ""
		if i < len(f.values[0]) {
			value = f.values[0][i]
		}
		x.defs[name] = []string{value}
	}
	f.values = f.values[1:]
	return f.text, true
}

// sequence takes "~SEQ(v, ...) text" and "~LST(v, ...) text".
func (x *lexer) sequence(line string) {
	keyword := line[:4]
	var f *sequenceFeed
	if keyword == "~SEQ" {
		f = x.numbers(line[4:])
	} else {
		f = parseList(strings.TrimLeft(line[4:], " \t"))
	}
	if f == nil || len(x.feeds) >= maxFeeds {
		x.note(keyword, "keepalived cannot read this", Harmless)
		return
	}
	x.note(keyword, fmt.Sprintf("%d times", len(f.values)), Mapped)
	x.feeds = append(x.feeds, f)
}

// numbers reads what follows ~SEQ: "(var, end)", "(var, start, end)" or
// "(var, start, step, end)"; x before it asks for hexadecimal digits.
func (x *lexer) numbers(s string) *sequenceFeed {
	s, isHexadecimal := strings.CutPrefix(s, "x")
	s, ok := strings.CutPrefix(strings.TrimLeft(s, " \t"), "(")
	inside, text, closed := strings.Cut(s, ")")
	name, list, more := strings.Cut(inside, ",")
	if name = strings.TrimSpace(name); !ok || !closed || !more || name == "" {
		return nil
	}
	list, _ = x.replace(list)
	var n []int64
	for word := range strings.SplitSeq(list, ",") {
		v, err := strconv.ParseInt(strings.TrimSpace(word), 0, 64)
		if err != nil {
			return nil
		}
		n = append(n, v)
	}
	var start, step, end int64
	switch len(n) {
	case 1:
		start, step, end = 1, 1, n[0]
		if end < 0 {
			start = -1
		}
		if end < 1 {
			step = -1
		}
	case 2:
		start, step, end = n[0], 1, n[1]
		if start > end {
			step = -1
		}
	case 3:
		start, step, end = n[0], n[1], n[2]
	default:
		return nil
	}
	if step == 0 || start < end && step < 0 || start > end && step > 0 || isHexadecimal && (start < 0 || end < 0) {
		return nil
	}
	f := &sequenceFeed{names: []string{name}, text: strings.TrimLeft(text, " \t")}
	base := 10
	if isHexadecimal {
		base = 16
	}
	for v := start; (step > 0 && v <= end || step < 0 && v >= end) && len(f.values) < maxPieces; v += step {
		f.values = append(f.values, []string{strconv.FormatInt(v, base)})
		if step > 0 && v > end-step || step < 0 && v < end-step {
			break
		}
	}
	return f
}

// parseList reads what follows ~LST: "(var, a, b, c)" or
// "({var, var}, {a, b}, {c, d})".
func parseList(s string) *sequenceFeed {
	s, ok := strings.CutPrefix(s, "(")
	if !ok {
		return nil
	}
	names, s, ok := cutGroup(s)
	s, comma := strings.CutPrefix(s, ",")
	if !ok || !comma {
		return nil
	}
	f := &sequenceFeed{names: names}
	for {
		var values []string
		values, s, ok = cutGroup(s)
		if !ok || len(values) > len(names) || s == "" {
			return nil
		}
		f.values = append(f.values, values)
		end := s[0]
		s = s[1:]
		if end == ')' {
			f.text = strings.TrimLeft(s, " \t")
			return f
		}
		if end != ',' {
			return nil
		}
	}
}

// cutGroup takes "a" or "{a, b}" off a list.
func cutGroup(s string) (words []string, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	if inner, isGroup := strings.CutPrefix(s, "{"); isGroup {
		inside, rest, closed := strings.Cut(inner, "}")
		for word := range strings.SplitSeq(inside, ",") {
			words = append(words, strings.TrimSpace(word))
		}
		return words, strings.TrimLeft(rest, " \t"), closed
	}
	end := strings.IndexAny(s, ",)")
	if end < 0 {
		return nil, "", false
	}
	return []string{strings.TrimSpace(s[:end])}, s[end:], true
}
