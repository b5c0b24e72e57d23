package arch

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// kernelLists are the calls of the netlink library that give a list which may
// have changed meanwhile.
var kernelLists = []string{"AddrList", "LinkList", "NeighList", "RouteList", "RouteListFiltered", "RuleList"}

// lists finds what asks for such a list once: kernellist.Complete asks until it
// is whole.
func (s source) lists() (found []string) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "kernellist" {
			return false
		}
		if slices.Contains(kernelLists, sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s asks for a list that may lack entries (want kernellist.Complete around %s)", s.at(n), sel.Sel.Name))
		}
		return true
	})
	return found
}

func TestListsOfTheKernelAreWhole(t *testing.T) {
	for room, files := range sources(t) {
		if strings.HasPrefix(room, "testenv") {
			continue
		}
		for _, s := range files {
			if !s.test() {
				report(t, s.lists())
			}
		}
	}
	s, err := parse("p/p.go", []byte(`package p
func f() {
	netlink.LinkList()
	kernellist.Complete(netlink.LinkList)
	kernellist.Complete(func() ([]netlink.Addr, error) { return h.AddrList(nil, 0) })
	h.RuleList(2)
}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.lists(); len(got) != 2 {
		t.Errorf("found %q, want two", got)
	}
}
