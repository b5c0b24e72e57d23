package verbatim_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/testenv/verbatim"
)

const list = `# a comment
== one: two kinds
$ ipvsadm -ln
| -> 192.0.2.1:80 Route 1 0 0
r1$ wrong
! not found
> 2 80 443
| r2 r2 r1 r1
~ 192.0.2.100:443/tcp

== two
> 3 80
| same
`

// stage is a player that notes what it is asked to do.
type stage struct{ seen []string }

func (s *stage) Type(host, line string) (string, error) {
	s.seen = append(s.seen, host+"$ "+line)
	if line == "wrong" {
		return "", fmt.Errorf("sh: wrong: not found")
	}
	return "  -> 192.0.2.1:80   Route  1  7  9\n", nil
}

func (s *stage) Ask(n int, ports ...int) string {
	s.seen = append(s.seen, fmt.Sprint(n, ports))
	if len(ports) == 1 {
		return "r1 r1 r1"
	}
	return "r2 r2 r1 r1"
}

func (s *stage) AwaitStatus(text string) { s.seen = append(s.seen, text) }

func TestPlay(t *testing.T) {
	all, err := verbatim.Parse(list)
	if err != nil || len(all) != 2 || all[0].Title != "one: two kinds" {
		t.Fatalf("%+v, %v", all, err)
	}
	var s stage
	for i := range all {
		all[i].Play(t, &s)
	}
	want := []string{"$ ipvsadm -ln", "r1$ wrong", "2 [80 443]", "192.0.2.100:443/tcp", "3 [80]"}
	if diff := cmp.Diff(want, s.seen); diff != "" {
		t.Errorf("played (-want +got):\n%s", diff)
	}
}

// What is no step is an error: a slip of the pen must not leave out a command.
func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"$ before a section", "== a\n| output of nothing", "== a\nipvsadm -ln", "== a\nr1> 2 80"} {
		if all, err := verbatim.Parse(text); err == nil {
			t.Errorf("%q is read as %+v", text, all)
		}
	}
}
