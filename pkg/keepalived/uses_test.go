package keepalived

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// diskFiles are files of this host.
type diskFiles struct{}

func (diskFiles) Glob(string) ([]string, error)    { return nil, nil }
func (diskFiles) Read(name string) ([]byte, error) { return os.ReadFile(name) }

// use is how often a word is used at its place, by what becomes of it.
type use struct {
	place  string
	levels [4]int
}

// usual is what becomes of most.
func (u use) usual() Level {
	most := Mapped
	for l := range u.levels {
		if u.levels[l] > u.levels[most] {
			most = Level(l)
		}
	}
	return most
}

func (u use) sum() int {
	return u.levels[Mapped] + u.levels[Harmless] + u.levels[Changed] + u.levels[Lost]
}

// readUses reads testdata/uses/uses.txt.
func readUses(t *testing.T) (all []use, total int) {
	t.Helper()
	text, err := os.ReadFile("testdata/uses/uses.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
			continue
		case f[0] == "total":
			total, err = strconv.Atoi(f[1])
		case len(f) != 5:
			t.Fatalf("uses.txt: %q", line)
		default:
			u := use{place: f[4]}
			for l := range u.levels {
				if u.levels[l], err = strconv.Atoi(f[l]); err != nil {
					break
				}
			}
			all = append(all, u)
		}
		if err != nil {
			t.Fatalf("uses.txt: %q: %v", line, err)
		}
	}
	return all, total
}

// levelsOf are the levels of the statements of a file by their place.
func levelsOf(t *testing.T, name string) map[string]map[Level]bool {
	t.Helper()
	m := newMapper(Options{})
	all, err := parseFile(diskFiles{}, name, Options{}, func(Finding) {})
	if err != nil {
		t.Fatal(err)
	}
	m.all = all
	m.readAll()
	if _, err := m.settle(name); err != nil {
		t.Fatal(err)
	}
	levels := map[string]map[Level]bool{}
	var walk func(place string, list []*Statement)
	walk = func(place string, list []*Statement) {
		for _, s := range list {
			here := place + "/" + s.Word
			switch s.keyword {
			case nil:
				here = "?"
			case &valueKeyword:
				here = place + "/*"
			}
			if levels[here] == nil {
				levels[here] = map[Level]bool{}
			}
			levels[here][s.verdict.Level] = true
			walk(here, s.Block)
		}
	}
	walk("", m.all)
	return levels
}

// bestOf is the best level of those that were found.
func bestOf(levels map[Level]bool) (Level, bool) {
	for _, l := range Levels() {
		if levels[l] {
			return l, true
		}
	}
	return Lost, false
}

// TestUses: of what people write in keepalived.conf, at least 95 % means the
// same to lvx, or something else that is said; every word is still what the
// statistics say of it; and docs/migrate.md has the figures and the words.
func TestUses(t *testing.T) {
	uses, total := readUses(t)
	levels := levelsOf(t, "testdata/uses/uses.conf")
	var sums [4]int
	listed := 0
	page, err := os.ReadFile("../../docs/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range uses {
		best, found := bestOf(levels[u.place])
		if !found || best > max(u.usual(), Harmless) {
			t.Errorf("%s: %s in the statistics, now %s (there: %t)", u.place, u.usual(), best, found)
		}
		for l, n := range u.levels {
			sums[l] += n
		}
		listed += u.sum()
		if word := u.place[strings.LastIndex(strings.TrimSuffix(u.place, "/*"), "/")+1:]; best >= Changed && !strings.Contains(string(page), "`"+strings.TrimSuffix(word, "/*")) {
			t.Errorf("docs/migrate.md does not name %s, which is %s", u.place, best)
		}
	}
	sums[Lost] += total - listed
	share := func(l Level) string { return fmt.Sprintf("%.1f %%", 100*float64(sums[l])/float64(total)) }
	if kept := total - sums[Lost]; 100*kept < 95*total {
		t.Errorf("%d of %d uses are kept (want 95 %%)", kept, total)
	}
	for _, l := range Levels() {
		if row := fmt.Sprintf("| %s | %d | %s |", l, sums[l], share(l)); !strings.Contains(string(page), row) {
			t.Errorf("docs/migrate.md has no row %q", row)
		}
	}
}
