package docs_test

import (
	"flag"
	"fmt"
	"math"
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

// lossOfNewcomers is what share of newcomers finds eight places taken while a table
// fills up with load connections for each of its sets, and what share of the sets is
// full then. A newcomer goes to its first set, unless that has one free place or none
// and the second has more of them (set_choose of bpf/set.h).
func lossOfNewcomers(load float64) (lost, full float64) {
	const steps = 100_000
	dt := load / steps
	sets := [5]float64{1} // by how many of their four places are taken
	for range steps {
		nearlyFull := sets[3] + sets[4]
		var taken [4]float64
		for n := range 3 {
			taken[n] = sets[n] * (1 + nearlyFull)
		}
		taken[3] = sets[3]*nearlyFull + sets[3]*sets[4]
		lost += sets[4] * sets[4] * dt
		for n, share := range taken {
			sets[n] -= share * dt
			sets[n+1] += share * dt
		}
	}
	return lost / load, sets[4]
}

// What performance.md says of connections that lose their place follows from how
// places are chosen.
func TestLossesAreComputed(t *testing.T) {
	perf := pages(t)["performance.md"]
	for _, of := range []struct {
		load, unit float64
		pattern    string
	}{
		{1, 1e-6, `and ([\d.]+) in a million newcomers meet two full ones`},
		{1.5, 1e-6, `many again (\d+) in a million`},
		{0.5, 1e-12, `with half as many (\d+) in a million million`},
	} {
		lost, _ := lossOfNewcomers(of.load)
		if want := measured(t, perf, of.pattern); math.Abs(lost/of.unit-want) > 0.05*want {
			t.Errorf("load %v: %.3g of a unit are lost, not %v", of.load, lost/of.unit, want)
		}
	}
	if _, full := lossOfNewcomers(1); math.Abs(100*full-measured(t, perf, `([\d.]+) % of the sets are full`)) > 0.005 {
		t.Errorf("%.3f %% of the sets are full", 100*full)
	}
}
