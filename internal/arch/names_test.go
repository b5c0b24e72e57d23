package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
)

// riddles are names that say nothing without their comment. Each was in use
// once; the name behind it is what took its place, or shows the tone.
var riddles = map[string]string{
	"beat":      "message",
	"beside":    "workers",
	"bystander": "bypass",
	"fellows":   "peers",
	"flying":    "inFlight",
	"gone":      "removed",
	"hasten":    "switchRolesEarly",
	"heardOf":   "neighVersion",
	"meet":      "resolveNew",
	"metronome": "advertQueue",
	"nobodys":   "no_flow",
	"plain":     "sendable",
	"plays":     "slot",
	"poked":     "configChanged",
	"reap":      "completions",
	"score":     "queued",
	"sheet":     "messages",
	"strangers": "newReals",
	"stray":     "misdirected",
	"tell":      "notifyChanges",
	"tired":     "throttled",
	"told":      "onApplied",
	"unheard":   "port_unused",
	"unread":    "firewallErr",
	"unsilent":  "silentErr",
	"whole":     "complete",
}

// declared lists the identifiers that s declares: functions, types, fields,
// parameters, constants, variables, also those of function bodies.
func (s source) declared() []*ast.Ident {
	var found []*ast.Ident
	add := func(e ast.Expr) {
		if id, ok := e.(*ast.Ident); ok && id.Name != "_" {
			found = append(found, id)
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			add(n.Name)
		case *ast.TypeSpec:
			add(n.Name)
		case *ast.ValueSpec:
			for _, name := range n.Names {
				add(name)
			}
		case *ast.Field:
			for _, name := range n.Names {
				add(name)
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, name := range n.Lhs {
					add(name)
				}
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				add(n.Key)
				add(n.Value)
			}
		}
		return true
	})
	return found
}

// riddle reports the plain name that a riddle's place is for.
func riddle(name string) (string, bool) {
	better, ok := riddles[name]
	if !ok && name != "" {
		better, ok = riddles[strings.ToLower(name[:1])+name[1:]]
	}
	return better, ok
}

// puzzling lists the declared names of s that are riddles.
func (s source) puzzling() []string {
	var found []string
	for _, id := range s.declared() {
		if better, ok := riddle(id.Name); ok {
			found = append(found, fmt.Sprintf("%s: %s says nothing without its comment (%s was better)", s.at(id), id.Name, better))
		}
	}
	return found
}

func TestNamesArePlain(t *testing.T) {
	for _, files := range sources(t) {
		for _, s := range files {
			report(t, s.puzzling())
		}
	}
}

// The C side declares its names in the BTF of the compiled objects: types,
// members, enumerators, functions with their parameters, globals.
func TestNamesOfTheObjectsArePlain(t *testing.T) {
	objects := 0
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_bpfel.o") {
			return err
		}
		objects++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		spec, err := btf.LoadSpecFromReader(bytes.NewReader(text))
		if err != nil {
			return err
		}
		for typ, err := range spec.All() {
			if err != nil {
				return err
			}
			for _, name := range btfNames(typ) {
				if better, ok := riddle(name); ok {
					t.Errorf("%s: %s says nothing without its comment (%s was better)", path, name, better)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if objects == 0 {
		t.Error("found no compiled object")
	}
}

// btfNames lists the names that a type declares.
func btfNames(typ btf.Type) []string {
	names := []string{typ.TypeName()}
	switch typ := typ.(type) {
	case *btf.Struct:
		for _, m := range typ.Members {
			names = append(names, m.Name)
		}
	case *btf.Union:
		for _, m := range typ.Members {
			names = append(names, m.Name)
		}
	case *btf.Enum:
		for _, v := range typ.Values {
			names = append(names, v.Name)
		}
	case *btf.Func:
		if proto, ok := typ.Type.(*btf.FuncProto); ok {
			for _, p := range proto.Params {
				names = append(names, p.Name)
			}
		}
	}
	return slices.DeleteFunc(names, func(s string) bool { return s == "" })
}

// Functions that are always inlined have no BTF: their names are read from
// the source.
func TestNamesOfCFunctionsArePlain(t *testing.T) {
	for _, path := range cFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range cFunctions(string(text)) {
			if better, ok := riddle(f.name); ok {
				t.Errorf("%s:%d: %s says nothing without its comment (%s was better)", path, f.line, f.name, better)
			}
		}
	}
}

func TestRiddlesAreFound(t *testing.T) {
	const text = `package p

func whole(plain int) (told bool) {
	for gone := range 3 {
		score := gone
	}
}

type T struct{ Tired, tireless bool }
`
	s, err := parse("p/p.go", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, finding := range s.puzzling() {
		where, rest, _ := strings.Cut(finding, ": ")
		name, _, _ := strings.Cut(rest, " says")
		names = append(names, where+" "+name)
	}
	want := []string{
		"p/p.go:3 whole", "p/p.go:3 plain", "p/p.go:3 told", "p/p.go:4 gone", "p/p.go:5 score", "p/p.go:9 Tired",
	}
	slices.Sort(want)
	slices.Sort(names)
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}
