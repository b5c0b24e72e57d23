package keepalived

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Level says what became of a statement.
type Level int

// The levels. Harmless is what keepalived itself ignores or what lvx does not
// need; Changed is done, but not as keepalived did it; Lost is not done.
const (
	Mapped Level = iota
	Harmless
	Changed
	Lost
)

// Levels lists every [Level], in the order of the account's last line.
func Levels() []Level { return []Level{Mapped, Harmless, Changed, Lost} }

// String gives the word of the account: "mapped".
func (l Level) String() string { return [...]string{"mapped", "harmless", "changed", "lost"}[l] }

// Finding says what became of one statement. It holds no password.
type Finding struct {
	File    string
	Line    int
	Keyword string
	Text    string // what keepalived did and what lvx does
	Level   Level
}

// String gives one line: "keepalived.conf:12: lb_kind: NAT (mapped)".
func (f Finding) String() string {
	text := f.Text
	if text != "" {
		text += " "
	}
	return fmt.Sprintf("%s:%d: %s: %s(%s)", printable(f.File), f.Line, printable(f.Keyword), printable(text), f.Level)
}

// Report accounts for every statement of a file and of what it includes.
type Report []Finding

// Count counts the findings of a level.
func (r Report) Count(l Level) int {
	n := 0
	for _, f := range r {
		if f.Level == l {
			n++
		}
	}
	return n
}

// Total is the account's last line.
func (r Report) Total() string {
	var words []string
	for _, l := range Levels() {
		words = append(words, fmt.Sprintf("%d %s", r.Count(l), l))
	}
	return "total: " + strings.Join(words, ", ")
}

// maxShown is how many characters of a file's text a report shows.
const maxShown = 200

// printable makes text from a file fit for a line of a report.
func printable(s string) string {
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(clean); len(runes) > maxShown {
		return string(runes[:maxShown]) + "..."
	}
	return clean
}

// quote shows a word of a file.
func quote(s string) string { return strconv.Quote(printable(s)) }
