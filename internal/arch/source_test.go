package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Limits, in lines.
const (
	maxFunction  = 60 // Go, outside tests
	maxCFunction = 80
	maxFile      = 600 // Go and C, tests too
	mostFiles    = 280 // nine of ten, outside tests
)

// source is one parsed Go file.
type source struct {
	path string // relative to the root of the repository
	text []byte
	fset *token.FileSet
	file *ast.File
}

func parse(path string, text []byte) (source, error) {
	s := source{path: path, text: text, fset: token.NewFileSet()}
	var err error
	s.file, err = parser.ParseFile(s.fset, path, text, parser.ParseComments)
	return s, err
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// generated files answer to their generator.
func (s source) generated() bool { return strings.HasSuffix(s.path, "_bpfel.go") }

func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

func lines(text []byte) int { return bytes.Count(text, []byte("\n")) }

// sources parses every Go file of the module that is not generated.
func sources(t *testing.T) map[string][]source {
	t.Helper()
	rooms := map[string][]source{}
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			s, err := parse(filepath.Join(p.room(), name), text)
			if err != nil {
				t.Fatal(err)
			}
			if !s.generated() {
				rooms[p.room()] = append(rooms[p.room()], s)
			}
		}
	}
	return rooms
}

// undocumented lists the exported names of s that have no comment: types,
// functions, methods of exported types, constants and variables. A comment
// on a group or behind a name counts.
func (s source) undocumented() []string {
	var found []string
	missing := func(n ast.Node, name string, docs ...*ast.CommentGroup) {
		documented := func(g *ast.CommentGroup) bool { return g.Text() != "" }
		if ast.IsExported(name) && !slices.ContainsFunc(docs, documented) {
			found = append(found, fmt.Sprintf("%s: %s has no doc comment", s.at(n), name))
		}
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || ast.IsExported(receiver(d)) {
				missing(d, d.Name.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					missing(spec, spec.Name.Name, d.Doc, spec.Doc, spec.Comment)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						missing(spec, name.Name, d.Doc, spec.Doc, spec.Comment)
					}
				}
			}
		}
	}
	return found
}

// receiver names the type that a method belongs to.
func receiver(d *ast.FuncDecl) string {
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

// long lists the functions of s that have more than maxFunction lines.
func (s source) long() []string {
	var found []string
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
		if n > maxFunction {
			found = append(found, fmt.Sprintf("%s: %s has %d lines (at most %d)", s.at(f), f.Name.Name, n, maxFunction))
		}
	}
	return found
}

// skips lists the calls that skip a test for another reason than a kernel
// that cannot do what is tested. Inputs that a fuzz target or a property has no
// use for are allowed.
func (s source) skips() []string {
	var found []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch method(call) {
		case "Fuzz", "Check":
			return false
		case "Skip", "Skipf", "SkipNow":
		default:
			return true
		}
		for _, arg := range call.Args {
			if l, ok := arg.(*ast.BasicLit); ok && strings.Contains(l.Value, "kernel") {
				return true
			}
		}
		found = append(found, s.at(call)+": a test is skipped for a reason other than the kernel")
		return true
	})
	return found
}

// method names the function that an expression calls through a package or a
// value: "Run" of t.Run(...).
func method(e ast.Expr) string {
	if call, ok := e.(*ast.CallExpr); ok {
		if name, ok := call.Fun.(*ast.SelectorExpr); ok {
			return name.Sel.Name
		}
	}
	return ""
}

// blames lists error texts that begin with "failed to" and its kin: an error
// says what was tried, that it failed is known.
func (s source) blames() []string {
	var found []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		if name := method(call); name != "Errorf" && name != "New" {
			return true
		}
		text, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		for _, start := range []string{"failed", "error ", "unable", "could not", "cannot "} {
			if strings.HasPrefix(strings.Trim(text.Value, "`\""), start) {
				found = append(found, fmt.Sprintf("%s: error text %s (say what was tried)", s.at(call), text.Value))
			}
		}
		return true
	})
	return found
}

func TestSource(t *testing.T) {
	for room, files := range sources(t) {
		commented, onlyTests := false, true
		for _, s := range files {
			report(t, s.skips())
			if s.test() {
				continue
			}
			onlyTests = false
			commented = commented || s.file.Doc.Text() != ""
			report(t, s.undocumented())
			report(t, s.long())
			report(t, s.blames())
		}
		if !commented && !onlyTests {
			t.Errorf("%s: no package comment", room)
		}
	}
}

func report(t *testing.T, findings []string) {
	t.Helper()
	for _, finding := range findings {
		t.Error(finding)
	}
}

func TestFileLength(t *testing.T) {
	check := func(path string, text []byte) {
		if n := lines(text); n > maxFile {
			t.Errorf("%s has %d lines (at most %d)", path, n, maxFile)
		}
	}
	for _, files := range sources(t) {
		for _, s := range files {
			check(s.path, s.text)
		}
	}
	for _, path := range cFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		check(path, text)
	}
}

func TestMostFilesAreShort(t *testing.T) {
	var lengths []int
	for _, files := range sources(t) {
		for _, s := range files {
			if !s.test() {
				lengths = append(lengths, lines(s.text))
			}
		}
	}
	for _, path := range cFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lengths = append(lengths, lines(text))
	}
	slices.Sort(lengths)
	if n := lengths[len(lengths)*9/10]; n > mostFiles {
		t.Errorf("a tenth of the %d files outside tests has %d lines or more (at most %d)", len(lengths), n, mostFiles)
	} else {
		t.Logf("nine of ten files have less than %d lines", n)
	}
}

// Not a rule but a habit: as many lines of tests as of code. `go test -v`
// shows where it stands.
func TestReportTestLines(t *testing.T) {
	var code, tests int
	var rows []string
	for room, files := range sources(t) {
		var c, x int
		for _, s := range files {
			if s.test() {
				x += lines(s.text)
			} else {
				c += lines(s.text)
			}
		}
		code, tests = code+c, tests+x
		rows = append(rows, fmt.Sprintf("%-24s code %5d  tests %5d", room, c, x))
	}
	slices.Sort(rows)
	t.Logf("lines:\n%s\n%-24s code %5d  tests %5d", strings.Join(rows, "\n"), "all", code, tests)
}

func TestRulesFindWhatTheyAreFor(t *testing.T) {
	text, err := os.ReadFile("testdata/findings.txt")
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse("p/p.go", text)
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Concat(s.undocumented(), s.long(), s.skips(), s.blames())
	want := []string{
		"p/p.go:3: Exported has no doc comment",
		"p/p.go:7: Method has no doc comment",
		"p/p.go:21: C has no doc comment",
		"p/p.go:26: a test is skipped for a reason other than the kernel",
		"p/p.go:29: a test is skipped for a reason other than the kernel",
		`p/p.go:32: error text "failed to pin map: %w" (say what was tried)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestLongFunction(t *testing.T) {
	body := func(n int) []byte {
		return []byte("package p\n\nfunc f() {\n" + strings.Repeat("\tg()\n", n) + "}\n")
	}
	for n, want := range map[int]int{maxFunction - 2: 0, maxFunction - 1: 1} {
		s, err := parse("p.go", body(n))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(s.long()); got != want {
			t.Errorf("function of %d lines: %d findings, want %d", n+2, got, want)
		}
	}
}
