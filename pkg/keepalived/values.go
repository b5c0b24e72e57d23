package keepalived

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// parseSeconds reads a number of seconds with a decimal fraction, as
// keepalived's read_timer() does.
func parseSeconds(s string) (time.Duration, bool) {
	seconds, fraction, _ := strings.Cut(s, ".")
	if seconds == "" && fraction == "" || len(fraction) > 18 {
		return 0, false
	}
	digits := (fraction + "000000")[:6]
	n, err := strconv.ParseUint("0"+seconds, 10, 32)
	if err != nil {
		return 0, false
	}
	micro, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, false
	}
	return time.Duration(n)*time.Second + time.Duration(micro)*time.Microsecond, true
}

// seconds reads the first argument of s as a time of at least least. What
// keepalived refuses is harmless: the default stays.
func seconds(s *Statement, least time.Duration) *time.Duration {
	d, ok := parseSeconds(s.arg(0))
	if !ok || d < least {
		s.mark(Harmless, "keepalived ignores %s here", quote(s.arg(0)))
		return nil
	}
	s.mark(Mapped, "")
	return &d
}

// count reads the first argument of s as a whole number.
func count(s *Statement, low, high uint64) *uint64 {
	n, err := strconv.ParseUint(s.arg(0), 10, 64)
	if err != nil || n < low || n > high {
		s.mark(Harmless, "keepalived ignores %s here (it wants %d to %d)", quote(s.arg(0)), low, high)
		return nil
	}
	s.mark(Mapped, "")
	return &n
}

// truth reads the first argument of s; without one it is true.
func truth(s *Statement) *bool {
	yes, no := true, false
	switch strings.ToLower(s.arg(0)) {
	case "", "true", "on", "yes":
		s.mark(Mapped, "")
		return &yes
	case "false", "off", "no":
		s.mark(Mapped, "")
		return &no
	}
	s.mark(Harmless, "keepalived ignores %s here", quote(s.arg(0)))
	return nil
}

// parseAddress reads the address of a host.
func parseAddress(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// hostAddress reads the address of a host as keepalived's inet_stosockaddr()
// does, without a range or the length of a network behind it.
func hostAddress(s string) (netip.Addr, bool) {
	host, _, isRange := strings.Cut(s, "-")
	if !isRange {
		host, _, _ = strings.Cut(s, "/")
	}
	return parseAddress(host)
}

// parsePort reads a port; "" is 0.
func parsePort(s string) (uint16, bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil
}

// clamp brings d into bounds, and reports whether it had to.
func clamp(d, low, high time.Duration) (time.Duration, bool) {
	rounded := d.Round(time.Millisecond)
	switch {
	case rounded < low:
		return low, true
	case rounded > high:
		return high, true
	}
	return rounded, rounded != d
}

// command reads the argument vector of a script, as keepalived's
// notify_script_init() does: the text behind the keyword is one word, with
// blanks only in quotes, and split again.
func command(s *Statement) (argv, user []string, ok bool) {
	words, ok := splitCommand(s.raw, false)
	if !ok || len(words) < 2 {
		return nil, nil, false
	}
	argv, ok = splitCommand(words[1], true)
	if !ok || len(argv) == 0 || argv[0] == "" {
		return nil, nil, false
	}
	if !strings.HasPrefix(argv[0], "/") {
		argv = append([]string{"/usr/bin/env"}, argv...)
	}
	return argv, words[2:], true
}

// isPlain reports whether a command has only characters that lvx takes, and
// says so of one that does not.
func isPlain(s *Statement, argv []string) bool {
	for _, word := range argv {
		if strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
			s.mark(Lost, "a command with characters that do not print: put it into a script")
			return false
		}
	}
	return true
}

// or is *p, or what holds without it.
func or[T any](otherwise T, all ...*T) T {
	for _, p := range all {
		if p != nil {
			return *p
		}
	}
	return otherwise
}
