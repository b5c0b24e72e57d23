package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// kind is an entry of faults.txt.
type kind struct {
	number int
	inputs map[string][]string // tests by input, "package Test/subtest"
}

var (
	kindLine  = regexp.MustCompile(`^([0-9]+) [A-Z].*\.$`)
	inputLine = regexp.MustCompile(`^  ([^|]+?) \| (.*)$`)
	testName  = regexp.MustCompile(`^([a-z0-9/]+) (Test[A-Za-z0-9]+)(?:/(.+))?$`)
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readKinds(t *testing.T) (kinds []kind) {
	t.Helper()
	text, err := os.ReadFile("../../testenv/faults/faults.txt")
	must(t, err)
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := kindLine.FindStringSubmatch(line); m != nil {
			number, err := strconv.Atoi(m[1])
			must(t, err)
			kinds = append(kinds, kind{number, map[string][]string{}})
			continue
		}
		m := inputLine.FindStringSubmatch(line)
		if m == nil || len(kinds) == 0 {
			t.Fatalf("faults.txt:%d: neither a kind nor an input with tests: %s", n+1, line)
		}
		kinds[len(kinds)-1].inputs[m[1]] = strings.Split(m[2], " | ")
	}
	return kinds
}

// testFuncs lists the tests of a package's directory, and the strings of their
// files, which have the names of subtests.
func testFuncs(t *testing.T, dir string) (funcs map[string]bool, words []string) {
	t.Helper()
	funcs = map[string]bool{}
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	must(t, err)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				funcs[n.Name.Name] = n.Recv == nil
			case *ast.BasicLit:
				if word, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
					words = append(words, word)
				}
			}
			return true
		})
	}
	return funcs, words
}

// Every kind of fault has inputs, every input a test that exists, and every
// kind one that has its number.
func TestFaultsHaveTests(t *testing.T) {
	const all = 30
	kinds := readKinds(t)
	if len(kinds) != all {
		t.Errorf("%d kinds, want %d", len(kinds), all)
	}
	named := map[string]bool{}
	for n, k := range kinds {
		if k.number != n+1 || len(k.inputs) == 0 {
			t.Errorf("kind %d is at place %d, with %d inputs", k.number, n+1, len(k.inputs))
		}
		isNumbered := false
		for input, tests := range k.inputs {
			for _, test := range tests {
				m := testName.FindStringSubmatch(test)
				if m == nil {
					t.Errorf("kind %d, %s: %q is no test", k.number, input, test)
					continue
				}
				funcs, words := testFuncs(t, m[1])
				if !funcs[m[2]] {
					t.Errorf("kind %d, %s: there is no %s in %s", k.number, input, m[2], m[1])
				}
				if m[3] != "" && !slices.ContainsFunc(words, func(w string) bool { return strings.TrimSpace(w) == m[3] }) {
					t.Errorf("kind %d, %s: %s in %s has no subtest %q", k.number, input, m[2], m[1], m[3])
				}
				named[m[2]] = true
				isNumbered = isNumbered || strings.HasPrefix(m[2], "TestFault"+twoDigits(k.number))
			}
		}
		if !isNumbered {
			t.Errorf("kind %d has no test TestFault%s...", k.number, twoDigits(k.number))
		}
	}
	for _, name := range numberedTests(t) {
		if !named[name] {
			t.Errorf("faults.txt does not name %s", name)
		}
	}
}

func twoDigits(n int) string { return strconv.Itoa(100 + n)[1:] }

// numberedTests lists the tests of the repository that have a kind's number.
func numberedTests(t *testing.T) (names []string) {
	t.Helper()
	numbered := regexp.MustCompile(`(?m)^func (TestFault[0-9]{2}[A-Za-z0-9]*)\(`)
	must(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range numbered.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
		return err
	}))
	return names
}
