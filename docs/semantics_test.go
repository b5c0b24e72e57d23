package docs_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// semantics.md compares the kernel with lvx and cites tests as proof. These
// tests hold it to that: what it cites exists where it says, says itself what
// it repeats, and nothing that was observed is left out.

// row is a line of a table with observations of the kernel.
type row struct{ kernel, facts, lvx, shown string }

func rows(t *testing.T) (all []row) {
	t.Helper()
	for line := range strings.Lines(pages(t)["semantics.md"]) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 4 || strings.HasPrefix(line, "|---") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[1] != "facts" {
			all = append(all, row{cells[0], cells[1], cells[2], cells[3]})
		}
	}
	if len(all) < 80 {
		t.Fatalf("found %d rows only", len(all))
	}
	return all
}

// rooms are the packages by the names that the tables use.
var rooms = map[string]string{
	"xdp": "pkg/backend/xdp", "sched": "pkg/sched", "config": "pkg/config", "neigh": "pkg/neigh", "vip": "pkg/vip",
	"netfilter": "pkg/netfilter", "lvx": "cmd/lvx", "ipvsadm": "pkg/ipvsadm", "e2e": "testenv/e2e", "suite": "pkg/lb/lbtest",
	"probe": "loader/probe", "realserver": "pkg/realserver", "fallback": "testenv/vm/fallback", "auto": "pkg/backend/auto",
}

// cite is a test with the room that it is said to be in.
type cite struct{ room, name string }

var citing = regexp.MustCompile("(?:\\b([a-z0-9]+) )?`([^`]+)`")

// cites reads "xdp `TestA`, `TestB`, suite `rr/order`".
func cites(shown string) (all []cite) {
	room := ""
	for _, m := range citing.FindAllStringSubmatch(shown, -1) {
		if m[1] != "" {
			room = m[1]
		}
		all = append(all, cite{room, m[2]})
	}
	return all
}

// comments gives the comment of every test function of a room.
func comments(t *testing.T, room string) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", rooms[room], "*_test.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: no tests in %q (%v)", room, rooms[room], err)
	}
	all := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunction.FindAllStringSubmatch(string(b), -1) {
			all[m[2]] = m[1]
		}
	}
	return all
}

var testFunction = regexp.MustCompile(`(?m)((?:^//.*\n)*)^func (Test\w+)\(`)

func TestSemanticsCitesTests(t *testing.T) {
	suite, err := os.ReadFile("../pkg/lb/lbtest/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]string{}
	for room := range rooms {
		if room != "suite" {
			found[room] = comments(t, room)
		}
	}
	known := func(c cite) bool {
		if c.room == "suite" {
			return strings.Contains(string(suite), `{"`+c.name+`",`)
		}
		_, ok := found[c.room][c.name]
		return ok
	}
	text := pages(t)["semantics.md"]
	n := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "|") || len(cells) < 4 {
			continue
		}
		for _, c := range cites(cells[len(cells)-2]) {
			n++
			if !known(c) {
				t.Errorf("semantics.md cites %s `%s`, which does not exist", c.room, c.name)
			}
		}
	}
	for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1) {
		if !slices.ContainsFunc(slices.Collect(maps.Values(found)), func(in map[string]string) bool { _, ok := in[m[1]]; return ok }) {
			t.Errorf("semantics.md names %s, which does not exist", m[1])
		}
	}
	if n < 150 {
		t.Errorf("%d citations found", n)
	}
}

// observed is how many numbered sections the files of observations have; 0 are
// files that are not divided by numbers.
var observed = map[string]int{
	"01": 0, "02": 0, "03": 0, "05": 11, "06": 0, "07": 7, "08": 11, "08b": 7, "09": 6,
	"10": 0, "11": 0, "12": 0, "17": 0, "18": 0,
}

// fact is a file of observations and a section of it, "" for all.
type fact struct{ file, section string }

// factsOf reads "08 §3, 08b §1"; "judge" is no file.
func factsOf(column string) (all []fact) {
	if column == "judge" {
		return nil
	}
	for part := range strings.SplitSeq(column, ", ") {
		file, section, _ := strings.Cut(part, " §")
		all = append(all, fact{file, section})
	}
	return all
}

func TestSemanticsCoversTheFacts(t *testing.T) {
	seen := map[fact]bool{}
	for _, r := range rows(t) {
		for _, f := range factsOf(r.facts) {
			sections, ok := observed[f.file]
			if !ok || (f.section == "") != (sections == 0) {
				t.Errorf("%q cites %q (want a file, and a section where it has numbers)", r.kernel, r.facts)
			}
			seen[f] = true
		}
	}
	for file, sections := range observed {
		if sections == 0 && !seen[fact{file, ""}] {
			t.Errorf("no row for ipvs-facts/%s", file)
		}
		for n := range sections {
			if f := (fact{file, fmt.Sprint(n + 1)}); !seen[f] {
				t.Errorf("no row for ipvs-facts/%s section %s", f.file, f.section)
			}
		}
	}
}

var repeats = regexp.MustCompile(`ipvs-facts/(\d+b?)(?:\s+sections? ((?:\d+|, | and )+))?`)

// says reports whether a test's comment names a fact.
func says(comment string, f fact) bool {
	text := strings.Join(strings.Fields(strings.ReplaceAll(comment, "//", " ")), " ")
	for _, m := range repeats.FindAllStringSubmatch(text, -1) {
		if m[1] == f.file && (f.section == "" || slices.Contains(regexp.MustCompile(`\d+`).FindAllString(m[2], -1), f.section)) {
			return true
		}
	}
	return false
}

// Every behaviour in files 01 to 09 has a test that names the file and the
// section, unless the row says that lvx leaves it alone.
func TestFactsAreNamedByTheirTests(t *testing.T) {
	all := map[string]map[string]string{}
	for room := range rooms {
		if room != "suite" {
			all[room] = comments(t, room)
		}
	}
	for _, r := range rows(t) {
		if strings.HasPrefix(r.lvx, "not used") || r.facts >= "1" {
			continue
		}
		for _, f := range factsOf(r.facts) {
			named := slices.ContainsFunc(cites(r.shown), func(c cite) bool { return says(all[c.room][c.name], f) })
			if !named {
				t.Errorf("%q: no test of %s names ipvs-facts/%s %s", r.kernel, r.shown, f.file, f.section)
			}
		}
	}
}
