package docs_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what is computed into the documents")

// Of the table of sizes: directors with so many cores, and connections in all.
const (
	sizedCores       = 8
	sizedConnections = 10_000_000
)

// measured finds a figure in performance.md.
func measured(t *testing.T, page, pattern string) float64 {
	t.Helper()
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(page, -1)
	if len(found) != 1 {
		t.Fatalf("performance.md has %d places like %s", len(found), pattern)
	}
	x, err := strconv.ParseFloat(found[0][1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// sizes is the table of what directors side by side carry.
func sizes(wire, bytesOfFlow float64) string {
	var b strings.Builder
	memory := func(connections float64) string { return fmt.Sprintf("%.0f MB", connections*bytesOfFlow/1e6) }
	b.WriteString("| directors | each carries, of all | most that each may carry | packets | flow table, without `sync:` | with `sync:` |\n|---|---|---|---|---|---|\n")
	for _, n := range []float64{2, 3, 4, 6, 8} {
		fmt.Fprintf(&b, "| %.0f | %.0f %%, with one gone %.0f %% | %.0f %% of its capacity | %.0f × | %.1f million, %s | %.0f million, %s |\n",
			n, 100/n, 100/(n-1), 100*(n-1)/n, (n-1)*sizedCores*wire,
			sizedConnections/(n-1)/1e6, memory(sizedConnections/(n-1)), sizedConnections/1e6, memory(sizedConnections))
	}
	return b.String()
}

// The table of sizes is computed from what the bench has found.
func TestSizesAreComputed(t *testing.T) {
	perf := pages(t)["performance.md"]
	want := sizes(measured(t, perf, `\| lvx, 1 M flows \| ([\d.]+) \|`), measured(t, perf, `A flow of the stated capacity takes (\d+) bytes`))
	const begin, end = "<!-- BEGIN sizes: computed from performance.md -->\n", "<!-- END sizes -->"
	page := pages(t)["scale.md"]
	head, rest, ok := strings.Cut(page, begin)
	got, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("scale.md has no table of sizes")
	}
	if *update {
		if err := os.WriteFile("scale.md", []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("the table of sizes is not what is computed (-document +now; go test ./docs -run %s -update):\n%s", t.Name(), diff)
	}
}
