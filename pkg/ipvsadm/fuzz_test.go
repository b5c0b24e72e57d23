package ipvsadm

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/testenv/transcript"
)

// FuzzParse: a command line is refused with one line and a status, or it is
// one that the table can answer. What the table then holds, saved, and
// restored into another table, is the same.
func FuzzParse(f *testing.F) {
	for _, seed := range transcript.Parse(readFile(f, "transcript.txt")) {
		f.Add(strings.TrimPrefix(seed.Command, "ipvsadm ") + "\n" + seed.Stdin)
	}
	f.Add("-A -t 0x7f.1:080 -p -M 0377.0.0.0") // numbers of inet_aton(3)
	f.Add("-A\x00-t\xff:80")                   // bytes that no shell passes
	f.Fuzz(func(t *testing.T, rules string) {
		var d tableDirector
		err := Rules(strings.NewReader(rules), func(args []string) bool {
			c, fail := Parse("ipvsadm", args, fixedHost{})
			if fail != nil {
				if fail.Text == "" || fail.Status < 0 || fail.Status > 255 {
					t.Errorf("%q: failure %+v", args, fail)
				}
			} else if c.Op.Edits() {
				d.Do(c)
			}
			return true
		})
		if err != nil {
			return // a line longer than any rule
		}
		saved := save(t, &d)
		var again tableDirector
		var stderr strings.Builder
		Call{Program: "ipvsadm", Args: []string{"-R"}, Host: fixedHost{}, Director: &again, Stdin: strings.NewReader(saved), Stdout: io.Discard, Stderr: &stderr}.Run()
		if diff := cmp.Diff(saved, save(t, &again)); diff != "" && !lossy(&d) {
			t.Errorf("-saved +restored:\n%s\n%s", diff, &stderr)
		}
	})
}

// lossy reports whether a table holds what ipvsadm -S prints and -R refuses:
// flags of a scheduler that has since been replaced, marks above 2³¹, which
// are printed negative.
func lossy(d *tableDirector) bool {
	for _, e := range d.Services {
		if e.Flags != 0 || e.Mark > 1<<31-1 {
			return true
		}
	}
	return false
}

func save(t *testing.T, d *tableDirector) string {
	t.Helper()
	var out strings.Builder
	l, err := d.List(View{})
	if err == nil {
		err = PrintRules(&out, l, View{Numeric: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// FuzzAddress: inet_aton's four parts say what netip says of them.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"10.0.0.1", "1.2.3", "0x7f000001", "010.1", "1.2.3.4 x", "1.2.3.4.5", "256.1.1.1", "1..2", "+1.2.3.4", "1_0.0.0.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseIPv4(text)
		if want, err := netip.ParseAddr(text); err == nil && want.Is4() && (!ok || got != want) {
			t.Errorf("%q: %v %v, want %v", text, got, ok, want)
		}
		if ok && !got.Is4() {
			t.Errorf("%q: %v", text, got)
		}
	})
}
