// Package transcript reads and writes what ipvsadm was seen to answer: command
// lines with standard input and output, and exit status. It is for tests.
package transcript

import (
	"fmt"
	"strconv"
	"strings"
)

// Exchange is one command of a transcript, with all that came of it. In a
// file its lines begin with "$ " (the command), "< " (standard input), "| "
// (standard output), "! " (standard error) and "= " (the exit status, unless
// it is 0). Comments begin with "#".
type Exchange struct {
	Command        string
	Stdin          string
	Stdout, Stderr string
	Status         int
}

// Parse reads a transcript.
func Parse(text string) []Exchange {
	var all []Exchange
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if kind == "$" {
			all = append(all, Exchange{Command: rest})
			continue
		}
		if len(all) == 0 {
			continue
		}
		e := &all[len(all)-1]
		switch kind {
		case "<":
			e.Stdin += rest + "\n"
		case "|":
			e.Stdout += rest + "\n"
		case "!":
			e.Stderr += rest + "\n"
		case "=":
			e.Status, _ = strconv.Atoi(rest) // a word that is no number is 0, and differs
		}
	}
	return all
}

// String writes the exchange as the file has it.
func (e Exchange) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ %s\n", e.Command)
	writePrefixed(&b, "<", e.Stdin)
	writePrefixed(&b, "|", e.Stdout)
	writePrefixed(&b, "!", e.Stderr)
	if e.Status != 0 {
		fmt.Fprintf(&b, "= %d\n", e.Status)
	}
	return b.String()
}

func writePrefixed(b *strings.Builder, prefix, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(b, "%s %s\n", prefix, strings.TrimSuffix(line, "\n"))
	}
}
