package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"
)

// raw gives the characters of a single value; want is for the error.
func raw(c *cursor, want string) (string, bool) {
	n := c.node
	switch tag := n.ShortTag(); {
	case n.Kind != yaml.ScalarNode, tag == "!!null":
		c.errorf("%s (want %s)", found(n), want)
		return "", false
	case tag != "!!str" && tag != "!!int" && tag != "!!float" && tag != "!!timestamp" && tag != "!!bool":
		c.errorf("tag %s (want none)", quoted(tag))
		return "", false
	}
	return n.Value, true
}

// text reads any characters. What YAML takes for a truth value needs quotes.
func text(c *cursor) string { return textFor(c, "text") }

func textFor(c *cursor, want string) string {
	s, ok := raw(c, want)
	if ok && c.node.ShortTag() == "!!bool" {
		c.errorf("%s is a truth value (want %s: write it in quotes)", s, want)
		return ""
	}
	return s
}

// line reads text without line breaks and other characters that do not print.
func line(c *cursor) string { return lineFor(c, "text") }

func lineFor(c *cursor, want string) string {
	s := textFor(c, want)
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		c.errorf("%s holds a character that does not print (want %s)", quoted(s), want)
		return ""
	}
	return s
}

// filled reads one line of text that must not be empty. An empty result is an
// error that has been recorded.
func filled(c *cursor, want string) string {
	s := lineFor(c, want)
	if s == "" && c.node.Kind == yaml.ScalarNode && c.node.ShortTag() == "!!str" && c.node.Value == "" {
		c.errorf(`"" is empty (want %s)`, want)
	}
	return s
}

// word reads text without blanks.
func word(c *cursor) string {
	s := line(c)
	if strings.ContainsRune(s, ' ') {
		c.errorf("%s holds a blank (want none)", quoted(s))
		return ""
	}
	return s
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// name reads what services and virtual routers are called.
func name(c *cursor) string {
	s := filled(c, "a name")
	if s != "" && !namePattern.MatchString(s) {
		c.errorf("%s is not a name (want 1 to 63 letters, digits, dots, underscores and hyphens, a letter or digit first)", quoted(s))
		return ""
	}
	return s
}

// boolean reads true or false.
func boolean(c *cursor) bool {
	s, ok := raw(c, "true or false")
	if ok && s != "true" && s != "false" {
		c.errorf("%s is not a truth value (want true or false)", quoted(s))
	}
	return s == "true"
}

// number reads a whole number, decimal or 0x and hexadecimal. A leading zero
// would be octal to some readers of YAML and decimal to others.
func number[T ~int | ~uint8 | ~uint16 | ~uint32](low, high T) read[T] {
	return func(c *cursor) T {
		want := fmt.Sprintf("a whole number from %d to %d", low, high)
		s, ok := raw(c, want)
		if !ok {
			return 0
		}
		digits, base := strings.ReplaceAll(s, "_", ""), 10
		if hex, ok := strings.CutPrefix(digits, "0x"); ok {
			digits, base = hex, 16
		}
		n, err := strconv.ParseInt(digits, base, 64)
		switch {
		case err != nil && !errors.Is(err, strconv.ErrRange):
			c.errorf("%s is not a whole number (want %d to %d)", quoted(s), low, high)
		case base == 10 && len(digits) > 1 && strings.TrimLeft(digits, "+-")[0] == '0':
			c.errorf("%s begins with a zero (want it without)", quoted(s))
		case err != nil || n < int64(low) || n > int64(high):
			c.errorf("%s is out of range (want %d to %d)", quoted(s), low, high)
		default:
			return T(n)
		}
		return 0
	}
}

// share reads a decimal fraction.
func share(low, high float64) read[float64] {
	return func(c *cursor) float64 {
		s, ok := raw(c, "a number")
		if !ok {
			return 0
		}
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || !(low <= x && x <= high) {
			c.errorf("%s is out of range (want %g to %g)", quoted(s), low, high)
			return 0
		}
		return x
	}
}

// duration reads a time span with its unit, a multiple of step. Why explains
// the limits in errors.
func duration(low, high, step time.Duration, why ...string) read[time.Duration] {
	return func(c *cursor) time.Duration {
		want := fmt.Sprintf("%s to %s, in steps of %s", brief(low), brief(high), brief(step))
		want = strings.Join(append([]string{want}, why...), ": ")
		s, ok := raw(c, "a time such as 10s: "+want)
		if !ok {
			return 0
		}
		t, err := time.ParseDuration(s)
		switch _, unitless := strconv.ParseFloat(s, 64); {
		case unitless == nil && s != "0":
			c.errorf("%s has no unit (want %ss, for example)", quoted(s), printable(s))
		case err != nil:
			c.errorf("%s is not a time (want one such as 500ms, 10s, 1m30s)", quoted(s))
		case t < low || t > high:
			c.errorf("%s is out of range (want %s)", quoted(s), want)
		case t%step != 0:
			c.errorf("%s is too fine (want %s)", quoted(s), want)
		default:
			return t
		}
		return 0
	}
}

// brief writes a duration without the units that are zero: "8h", not "8h0m0s".
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// oneOf reads one of a few words.
func oneOf[T ~string](what string, choices ...T) read[T] {
	all := make([]string, len(choices))
	for i, v := range choices {
		all[i] = string(v)
	}
	want := "one of " + strings.Join(all, ", ")
	return func(c *cursor) T {
		s, ok := raw(c, want)
		if !ok {
			return ""
		}
		for _, v := range choices {
			if string(v) == s {
				return v
			}
		}
		c.errorf("%s is not %s (want %s)", quoted(s), what, want)
		return ""
	}
}

// path reads the absolute path of a file or directory.
func path(c *cursor) string {
	s := filled(c, "an absolute path")
	if s == "" {
		return ""
	}
	if !filepath.IsAbs(s) {
		c.errorf("%s is not an absolute path (want one that begins with /)", quoted(s))
		return ""
	}
	return filepath.Clean(s)
}
