package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
)

// typed is what is typed on a director whose ipvsadm is lvx, with what comes
// of it.
type typed struct {
	*seed
	dir string // of the links
}

// TestVerbatim: the commands of the four articles work as they are typed.
func TestVerbatim(t *testing.T) {
	text, err := os.ReadFile("testdata/verbatim.txt")
	must(t, err)
	r := newRig(t, testenv.Shape{Directors: 1})
	equipSeeds(t, r)
	must(t, r.Direct(t.Context(), "d1", "services: []\n"))
	dir := t.TempDir()
	for _, name := range []string{"ipvsadm", "ipvsadm-save", "ipvsadm-restore"} {
		must(t, os.Symlink(lvx, filepath.Join(dir, name)))
	}
	sections := strings.Split(articleAddrs.Replace(string(text)), "\n== ")[1:]
	if len(sections) < 10 {
		t.Fatalf("%d sections only", len(sections))
	}
	for _, section := range sections {
		title, lines, _ := strings.Cut(section, "\n")
		t.Run(title, func(t *testing.T) {
			s := typed{&seed{T: t, Rig: r}, dir}
			s.shell("iptables -t mangle -F")
			s.lvx("runtime", "clear")
			s.play(strings.Split(lines, "\n"))
		})
	}
}

// play plays the lines of a section.
func (s typed) play(lines []string) {
	for i := 0; i < len(lines); i++ {
		kind, rest, _ := strings.Cut(lines[i], " ")
		var out, stderr []string
		for i+1 < len(lines) && (strings.HasPrefix(lines[i+1], "| ") || strings.HasPrefix(lines[i+1], "! ")) {
			i++
			if text, ok := strings.CutPrefix(lines[i], "| "); ok {
				out = append(out, text)
			} else {
				stderr = append(stderr, strings.TrimPrefix(lines[i], "! "))
			}
		}
		switch kind {
		case "$":
			s.command(rest, out, stderr)
		case ">":
			s.ask(strings.Fields(rest), out[0])
		case "~":
			eventually(s.T, func() error {
				if st := s.lvx("status"); !strings.Contains(st, rest) {
					return fmt.Errorf("no %s in the status:\n%s", rest, st)
				}
				return nil
			})
		}
	}
}

// shell types a line on the director.
func (s typed) shell(line string) (string, error) {
	return s.Cluster.Host("d1").Run(s.Context(), "env", "-C", s.dir, "PATH="+s.dir+":"+os.Getenv("PATH"), "LVX_SOCKET="+s.Socket("d1"), "sh", "-c", line)
}

// counts are the connections of a listing, which the articles have at rest.
var counts = regexp.MustCompile(`^(-> \S+ \S+ \d+) \d+ \d+$`)

func (s typed) command(line string, want, wrong []string) {
	s.Helper()
	out, err := s.shell(line)
	if (err != nil) != (wrong != nil) || err != nil && !strings.Contains(err.Error(), strings.Join(wrong, "\n")) {
		s.Fatalf("$ %s\n%v, want %q", line, err, wrong)
	}
	if errors.Is(err, context.Canceled) || want == nil {
		return
	}
	var got []string
	for l := range strings.Lines(out) {
		got = append(got, strings.Join(strings.Fields(l), " "))
	}
	if a, b := withoutCounts(got), withoutCounts(want); a != b {
		s.Errorf("$ %s\ngot\n%s\nwant\n%s", line, a, b)
	}
}

// withoutCounts leaves the counts of connections out.
func withoutCounts(lines []string) string {
	var all []string
	for _, l := range lines {
		all = append(all, counts.ReplaceAllString(l, "$1"))
	}
	return strings.Join(all, "\n")
}

func (s typed) ask(words []string, want string) {
	s.Helper()
	n, err := strconv.Atoi(words[0])
	must(s.T, err)
	var ports []int
	for _, w := range words[1:] {
		p, err := strconv.Atoi(w)
		must(s.T, err)
		ports = append(ports, p)
	}
	got := s.curl(n, ports...)
	if want == "same" {
		s.same(got)
		return
	}
	s.want(fmt.Sprintf("> %s", strings.Join(words, " ")), got, want)
}
