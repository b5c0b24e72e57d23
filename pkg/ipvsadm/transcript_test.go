package ipvsadm

import (
	"fmt"
	"strings"
)

// exchange is one command of a transcript, with all that came of it. In the
// file testdata/transcript.txt its lines begin with "$ " (the command), "< "
// (standard input), "| " (standard output), "! " (standard error) and "= "
// (the exit status, unless it is 0). Comments begin with "#".
type exchange struct {
	command        string
	stdin          string
	stdout, stderr string
	status         int
}

func parseTranscript(text string) []exchange {
	var all []exchange
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if kind == "$" {
			all = append(all, exchange{command: rest})
			continue
		}
		if len(all) == 0 {
			continue
		}
		e := &all[len(all)-1]
		switch kind {
		case "<":
			e.stdin += rest + "\n"
		case "|":
			e.stdout += rest + "\n"
		case "!":
			e.stderr += rest + "\n"
		case "=":
			fmt.Sscan(rest, &e.status) //nolint:errcheck // a word that is no number is 0, and differs
		}
	}
	return all
}

func (e exchange) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ %s\n", e.command)
	writePrefixed(&b, "<", e.stdin)
	writePrefixed(&b, "|", e.stdout)
	writePrefixed(&b, "!", e.stderr)
	if e.status != 0 {
		fmt.Fprintf(&b, "= %d\n", e.status)
	}
	return b.String()
}

func writePrefixed(b *strings.Builder, prefix, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(b, "%s %s\n", prefix, strings.TrimSuffix(line, "\n"))
	}
}
