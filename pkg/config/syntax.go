package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// tree reads the one YAML document of a file. Its errors have no key yet:
// they are about the notation.
func tree(name string, data []byte) (_ *yaml.Node, err error) {
	if line, what := notText(data); what != "" {
		return nil, &Error{File: name, Line: line, Text: what + " (want a text file in UTF-8)"}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	defer func() {
		if r := recover(); r != nil {
			// The decoder of yaml.v3 panics on some documents.
			err = &Error{File: name, Line: 1, Text: fmt.Sprintf("YAML that cannot be read: %s", printable(fmt.Sprint(r)))}
		}
	}()
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, syntaxError(name, data, dec, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
		return nil, &Error{File: name, Line: 1, Text: `empty file (want at least "interface: NAME")`}
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, &Error{File: name, Line: max(more.Line, 1), Text: "a second YAML document (want one per file)"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(name, data, dec, err)
	}
	return doc.Content[0], nil
}

// notText finds the first character that has no place in a text file.
func notText(data []byte) (line int, what string) {
	line = 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return line, fmt.Sprintf("byte %#02x", data[i])
		case r == '\n':
			line++
		case r == '\t' || r == '\r' || r == '\u0085':
		case unicode.IsControl(r) || r == '\ufffe' || r == '\uffff':
			return line, fmt.Sprintf("control character %U", r)
		}
		i += size
	}
	return 0, ""
}

// syntaxError words what the YAML parser could not read. The line in its own
// message is often that of the block around the mistake, so the mistake's own
// is asked of the parser.
func syntaxError(name string, data []byte, dec *yaml.Decoder, err error) error {
	p := parserState(dec)
	text, _ := strings.CutPrefix(err.Error(), "yaml: ")
	line := 1
	if p.problem != "" {
		text, line = p.problem, p.line
		switch p.context {
		case "while scanning a quoted scalar", "while scanning a simple key":
			line = p.begin // it ran on to the end of the file
		case "":
		default:
			if p.begin < line {
				text += fmt.Sprintf(" (%s that begins on line %d)", p.context, p.begin)
			}
		}
	} else if p.event > 0 {
		line = p.event
	}
	lines := bytes.Split(data, []byte("\n"))
	line = min(max(line, 1), len(lines))
	if hint := hint(string(lines[line-1]), text); hint != "" {
		text = hint
	}
	return &Error{File: name, Line: line, Text: printable(text)}
}

// hint explains the mistakes that people make most.
func hint(line, problem string) string {
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case strings.Contains(indent, "\t"):
		return "tab in the indentation (want spaces)"
	case strings.HasPrefix(problem, "found unexpected end of stream"):
		return "quotes that are not closed (want them closed)"
	case strings.HasPrefix(problem, "found character that cannot start any token"):
		return problem + " (want quotes around a value that begins with @, ` or %)"
	case strings.HasPrefix(problem, "mapping values are not allowed"):
		return problem + ` (want the same indentation as the line above, or quotes around a value with ": ")`
	case strings.HasPrefix(problem, "did not find expected"), strings.HasPrefix(problem, "could not find expected"):
		return problem + " (look for a wrong indentation or a bracket that is not closed)"
	}
	return ""
}

// state is where a YAML parser stopped. Lines count from 1.
type state struct {
	problem string
	line    int    // of the problem
	context string // what was being read
	begin   int    // line on which that begins
	event   int    // line of the event that was read last
}

// parserState looks into the decoder: yaml.v3 keeps the place of a mistake to
// itself. Should another version not have these fields, all is zero.
func parserState(dec *yaml.Decoder) state {
	outer := field(reflect.ValueOf(dec), "parser")
	p := field(outer, "parser")
	number := func(v reflect.Value) int {
		if !v.IsValid() || !v.CanInt() {
			return 0
		}
		return int(v.Int()) + 1
	}
	text := func(v reflect.Value) string {
		if v.Kind() != reflect.String {
			return ""
		}
		return v.String()
	}
	return state{
		problem: text(field(p, "problem")),
		line:    number(field(field(p, "problem_mark"), "line")),
		context: text(field(p, "context")),
		begin:   number(field(field(p, "context_mark"), "line")),
		event:   number(field(field(field(outer, "event"), "start_mark"), "line")),
	}
}

func field(v reflect.Value, name string) reflect.Value {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.FieldByName(name)
}
