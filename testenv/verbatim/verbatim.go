// Package verbatim plays what articles type, line by line, and compares what
// comes of it with what the articles show. It is for tests, and knows neither
// hosts nor lvx: a [Player] types and asks.
//
// "== TITLE" begins a section. "$ COMMAND" is typed on the director,
// "NAME$ COMMAND" on the host of that name. "| LINE" is a line of its output
// (blanks are taken as one, connections as any number), "! LINE" one of
// standard error. "> N PORT..." asks the VIP's ports N times in turn; "| r2 r1"
// is who answered, "| same" that one real answered all. "~ TEXT" waits until
// the director's status has that text.
package verbatim

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Director is the host of commands for which the list names none.
const Director = ""

// Player is where a list is played.
type Player interface {
	// Type runs a line of a shell on a host; the error has what it wrote to
	// standard error.
	Type(host, line string) (stdout string, err error)
	// Ask asks ports of the VIP n times in turn and gives the names of those
	// who answered: "r2 r1".
	Ask(n int, ports ...int) string
	// AwaitStatus waits until the director's status has a text.
	AwaitStatus(text string)
}

// Section is a part of a list that stands for itself.
type Section struct {
	Title string
	Steps []Step
}

// Step is one line that is typed or asked, with what comes of it.
type Step struct {
	Kind   byte // '$', '>' or '~'
	Host   string
	Text   string
	Stdout []string // nil = not shown
	Stderr []string // nil = the command succeeds
}

// Parse reads a list.
func Parse(list string) ([]Section, error) {
	var all []Section
	for n, line := range strings.Split(list, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if title, ok := strings.CutPrefix(line, "== "); ok {
			all = append(all, Section{Title: title})
			continue
		}
		if len(all) == 0 || !all[len(all)-1].read(line) {
			return nil, fmt.Errorf("line %d: %q: neither a section nor a step of one", n+1, line)
		}
	}
	return all, nil
}

// read reads a line of a section and reports whether it is one.
func (s *Section) read(line string) bool {
	kind, rest, _ := strings.Cut(line, " ")
	if kind == "|" || kind == "!" {
		if len(s.Steps) == 0 {
			return false
		}
		step := &s.Steps[len(s.Steps)-1]
		if kind == "|" {
			step.Stdout = append(step.Stdout, rest)
		} else {
			step.Stderr = append(step.Stderr, rest)
		}
		return true
	}
	host := kind[:len(kind)-1]
	step := Step{Kind: kind[len(kind)-1], Host: host, Text: rest}
	if step.Kind != '$' && (host != Director || !strings.ContainsRune(">~", rune(step.Kind))) {
		return false
	}
	s.Steps = append(s.Steps, step)
	return true
}

// Play plays a section.
func (s *Section) Play(t *testing.T, p Player) {
	t.Helper()
	for _, step := range s.Steps {
		switch step.Kind {
		case '$':
			step.typed(t, p)
		case '>':
			step.asked(t, p)
		case '~':
			p.AwaitStatus(step.Text)
		}
	}
}

// counts are the connections of a listing, which the articles have at rest.
var counts = regexp.MustCompile(`^(-> \S+ \S+ \d+) \d+ \d+$`)

// typed runs a command and compares its output.
func (s *Step) typed(t *testing.T, p Player) {
	t.Helper()
	out, err := p.Type(s.Host, s.Text)
	if (err != nil) != (s.Stderr != nil) || err != nil && !strings.Contains(err.Error(), strings.Join(s.Stderr, "\n")) {
		t.Fatalf("%s$ %s\n%v, want %q", s.Host, s.Text, err, s.Stderr)
	}
	if s.Stdout == nil {
		return
	}
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if a, b := withoutCounts(got), withoutCounts(s.Stdout); a != b {
		t.Errorf("%s$ %s\ngot\n%s\nwant\n%s", s.Host, s.Text, a, b)
	}
}

// withoutCounts leaves the counts of connections out.
func withoutCounts(lines []string) string {
	var all []string
	for _, line := range lines {
		all = append(all, counts.ReplaceAllString(line, "$1"))
	}
	return strings.Join(all, "\n")
}

// asked asks the VIP and compares who answered.
func (s *Step) asked(t *testing.T, p Player) {
	t.Helper()
	var numbers []int
	for _, word := range strings.Fields(s.Text) {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("> %s: %v", s.Text, err)
		}
		numbers = append(numbers, n)
	}
	if len(numbers) < 2 || len(s.Stdout) != 1 {
		t.Fatalf("> %s: want a count, ports, and one line of who answers", s.Text)
	}
	got := p.Ask(numbers[0], numbers[1:]...)
	if want := s.Stdout[0]; want != "same" && got != want || want == "same" && !isOne(got) {
		t.Errorf("> %s: %s, want %s", s.Text, got, want)
	}
}

// isOne reports whether all names are the same.
func isOne(names string) bool {
	all := strings.Fields(names)
	for _, name := range all {
		if name != all[0] {
			return false
		}
	}
	return len(all) > 0
}
