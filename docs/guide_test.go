package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// namedRooms are the directories that the table of architecture.md names.
func namedRooms(t *testing.T) []string {
	t.Helper()
	_, rest, found := strings.Cut(pages(t)["architecture.md"], "\n## Rooms\n")
	if !found {
		t.Fatal("architecture.md has no rooms")
	}
	table, _, _ := strings.Cut(rest, "\n## ")
	var names []string
	for _, line := range strings.Split(table, "\n") {
		for _, m := range room.FindAllStringSubmatch(line, -1) {
			names = append(names, strings.TrimSuffix(m[1], "/"))
		}
	}
	return names
}

var room = regexp.MustCompile("`((?:bench|bpf|cmd|contrib|docs|internal|loader|packaging|pkg|testenv)/[a-z0-9/]*)`")

// Every package is in the table of rooms, or below one that is, and every
// room is there. Below pkg and in testenv, where rooms have names of their own,
// each is named.
func TestRoomsAreThePackages(t *testing.T) {
	named := namedRooms(t)
	for _, name := range named {
		if info, err := os.Stat(filepath.Join("..", name)); err != nil || !info.IsDir() {
			t.Errorf("architecture.md: there is no room %s", name)
		}
	}
	cmd := exec.Command("go", "list", "-tags", "ipvsvm", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		_, name, _ := strings.Cut(path, "/lvx/")
		ok := slices.ContainsFunc(named, func(room string) bool {
			inside := strings.HasPrefix(name, room+"/") && (!strings.HasPrefix(name, "pkg/") || room != "pkg/backend")
			ownRow := strings.Count(name, "/") == 1 && strings.HasPrefix(name, "testenv/")
			return name == room || inside && !ownRow
		})
		if name != "" && !ok {
			t.Errorf("architecture.md: the table of rooms lacks %s", name)
		}
	}
}

var glossaryRow = regexp.MustCompile("(?m)^\\| ([^|]+) \\| [^|]+ \\| (`[^|]+`) \\|$")
var glossaryPlace = regexp.MustCompile("`([^`]+)` `([^`]+)`")

// Everything in the glossary lives where it says.
func TestGlossaryPlaces(t *testing.T) {
	rows := glossaryRow.FindAllStringSubmatch(pages(t)["glossary.md"], -1)
	if len(rows) < 30 {
		t.Fatalf("found %d rows only", len(rows))
	}
	for _, row := range rows {
		places := glossaryPlace.FindAllStringSubmatch(row[2], -1)
		if len(places) == 0 {
			t.Errorf("%s: no place", row[1])
		}
		for _, p := range places {
			text, err := os.ReadFile(filepath.Join("..", p[1]))
			if err != nil {
				t.Errorf("%s: %v", row[1], err)
				continue
			}
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(p[2]) + `\b`).Match(text) {
				t.Errorf("%s: %s is not in %s", row[1], p[2], p[1])
			}
		}
	}
}

var namedPath = regexp.MustCompile("`((?:\\.ci|bench|bpf|cmd|contrib|docs|internal|loader|packaging|pkg|scripts|testenv)/[\\w./-]*)`")

// What the guides name is there.
func TestNamedPathsExist(t *testing.T) {
	found := 0
	for _, page := range []string{"../CONTRIBUTING.md", "../README.md", "../SECURITY.md", "architecture.md", "operations.md"} {
		for _, m := range namedPath.FindAllStringSubmatch(pages(t)[page], -1) {
			found++
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d paths only", found)
	}
}

var exampleCommit = regexp.MustCompile(`Example: "([^"]+)"`)

// The examples of CONTRIBUTING.md are commits of this repository. (An archive
// has no history: there is nothing to ask then.)
func TestExampleCommits(t *testing.T) {
	examples := exampleCommit.FindAllStringSubmatch(pages(t)["../CONTRIBUTING.md"], -1)
	if len(examples) < 5 {
		t.Errorf("found %d examples only", len(examples))
	}
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "-c", "safe.directory="+top, "-C", top, "log", "--format=%s").Output()
	if err != nil {
		t.Logf("no history here: %v", err)
		return
	}
	for _, e := range examples {
		if !strings.Contains("\n"+string(out), "\n"+e[1]) {
			t.Errorf("no commit has the subject %q", e[1])
		}
	}
}
