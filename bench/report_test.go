package main

import (
	"bytes"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/bpf"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSummarize(t *testing.T) {
	if got, want := summarize([]float64{4, 1, 3, 2, 5}), (Result{Median: 3, Low: 2, High: 4, Chunks: 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := quantile([]float64{1, 2}, 0.5); got != 1.5 {
		t.Errorf("between two samples: %v", got)
	}
	if got := summarize(nil).Median; !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func results(pairs ...any) (rs []Result) {
	for i := 0; i < len(pairs); i += 2 {
		rs = append(rs, Result{Name: pairs[i].(string), What: pairs[i].(string), Median: pairs[i+1].(float64)})
	}
	return rs
}

func TestChecks(t *testing.T) {
	got := checks(results("floor_b/1", 20.0, "established/1", 10.0, "floor_b/1M", 400.0, "established/1M", 200.0, "syn/full", 1.0))
	want := []Check{
		{What: "established, 1 flow / floor B", Value: 0.5, Bound: 0.55, OK: true},
		{What: "established, 1M flows / floor B", Value: 0.5, Bound: 0.38},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	r := Report{Checks: append(got, atLeast("rate", 0.9, 0.8), atLeast("rate", 0.7, 0.8))}
	if n := r.missed(); n != 2 {
		t.Errorf("%d missed, want 2", n)
	}
}

func TestAmount(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 17: "17", 0.256: "0.26", 1234.5: "1234", 99.99: "99.99"} {
		if got := amount(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
}

func report() *Report {
	r := &Report{Kernel: "6.1", Results: results("floor_b/1", 20.0, "established/1", 13.0, "floor_a/1", 2.0)}
	r.Checks = checks(r.Results)
	r.addWire([]*stream{
		{Rate: Rate{What: "floor A"}, mpps: []float64{2}, sent: 100, came: 100},
		{Rate: Rate{What: "one"}, mpps: []float64{1.8}, sent: 100, came: 99},
		{Rate: Rate{What: "many"}, mpps: []float64{0.5}, sent: 100, came: 100},
	})
	r.figure("race", "misdirected", "gone astray", "packets", 0)
	r.spread("control", "applied", "applied", "ms", []float64{10, 11, 12})
	return r
}

func TestReport(t *testing.T) {
	r := report()
	var out bytes.Buffer
	must(t, r.print(&out))
	for _, want := range []string{
		"established/1 +13.0 +0.0-0.0 +0.65", "one +1.80 +1.80-1.80 +0.90 +1.00 %", "gone astray +0 packets",
		"applied +11 ms +10.50-11.50", "veth, 1M flows: .* 0.25 +>= 0.33 +MISS", "1 flow / floor B +0.65 +<= 0.55 +MISS", "veth, 1 flow: .* 0.90 +>= 0.80 +ok",
	} {
		if !matches(want, out.String()) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	file := filepath.Join(t.TempDir(), "report.json")
	must(t, r.save(file))
	again, err := load(file)
	must(t, err)
	if diff := cmp.Diff(r, again); diff != "" {
		t.Errorf("read again (-want +got)\n%s", diff)
	}
	out.Reset()
	must(t, rewrite(chart, []string{file}, &out))
	for _, want := range []string{"<svg ", ">established, 1 flow</text>", ">0.65</text>", ">floor B</text>", "</svg>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the chart\n%s", want, out.String())
		}
	}
}

func TestTable(t *testing.T) {
	text, err := table([]*Report{report()})
	must(t, err)
	if !strings.Contains(text, "| established, 1 flow / floor B | 0.65 | 0.55 |\n") {
		t.Error(text)
	}
	if _, err := table([]*Report{{}}); err == nil {
		t.Error("a table of nothing")
	}
}

// Of three runs a table has the median; a target that a run lacks has fewer.
func TestTableOfRuns(t *testing.T) {
	text, err := table([]*Report{
		{Checks: []Check{atMost("a", 0.5, 0.6)}},
		{Checks: []Check{atMost("a", 0.75, 0.6), atMost("bytes", 128, 128)}},
		{Checks: []Check{atMost("a", 0.55, 0.6)}},
	})
	must(t, err)
	want := "| target | found, the median | runs | bound |\n|---|---|---|---|\n| a | 0.55 | 0.50 - 0.75 | 0.60 |\n| bytes | 128 | 128 - 128 | 128 |\n"
	if text != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
}

func TestChartNeedsResults(t *testing.T) {
	if _, err := (&Report{Results: results("established/1", 1.0)}).chart(); err == nil {
		t.Error("a chart of nothing")
	}
	if err := rewrite(chart, nil, new(bytes.Buffer)); err == nil {
		t.Error("a chart of no file")
	}
	if _, err := chart([]*Report{report(), report()}); err == nil {
		t.Error("a chart of two runs")
	}
}

func TestExpand(t *testing.T) {
	if got := expand([]string{"veth", "race"}); !cmp.Equal(got, []string{"veth", "race"}) {
		t.Errorf("two commands: %v", got)
	}
	if got := expand([]string{"all"}); len(got) != len(commands)-1 || got[0] != "packets" || slices.Contains(got, singleEdits) {
		t.Errorf("all: %v", got)
	}
}

func TestEvictions(t *testing.T) {
	var before, after evictions
	before[bpf.EvictedExpired] = 5
	after[bpf.EvictedExpired] = 7
	after[bpf.EvictedEstablished] = 10
	after[bpf.EvictedTemplate] = 99
	l := losses{lost: 12, evicted: after.since(before)}
	if n := l.evicted.total(); n != 12 {
		t.Errorf("%d flows lost their place, want 12", n)
	}
	if n := unaccounted(l); n != 2 {
		t.Errorf("%v are not accounted for, want 2", n)
	}
}

func TestNumber(t *testing.T) {
	n, err := number(processed, "verification time 5 usec\nprocessed 61103 insns (limit 1000000)")
	if n != 61103 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := number(processed, "none here"); err == nil {
		t.Error("a number out of nothing")
	}
}

func TestCompareReports(t *testing.T) {
	report := func(floor, established float64) *Report {
		return &Report{Results: results("floor_b/1", floor, "established/1", established, "lookup", floor)}
	}
	var out bytes.Buffer
	must(t, printTrios(&out, "HEAD~1", []trio{
		{report(100, 50), report(100, 40), report(200, 100)},
		{report(100, 50), report(50, 25), report(100, 50)},
		{report(100, 60), report(100, 40), report(100, 60)},
	}))
	want := `case           x HEAD~1  quartiles    x an identical copy  quartiles
floor_b/1      1.000     1.000-1.000  1.000                1.000-1.000
established/1  1.250     1.250-1.500  1.000                1.000-1.000
lookup         1.000     1.000-2.000  1.000                1.000-1.000
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}

	dir := t.TempDir()
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	must(t, report(100, 50).save(before))
	must(t, report(200, 50).save(after))
	out.Reset()
	must(t, compare([]string{before, after}, &out))
	if want := "established/1  0.50    0.25    0.500\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%s lacks %q", &out, want)
	}
	if err := compare([]string{before}, &out); err == nil {
		t.Error("one file was compared with nothing")
	}
}

func TestWants(t *testing.T) {
	for _, c := range []struct {
		only, group string
		want        bool
	}{
		{"", "one flow", true},
		{"one flow", "one flow of IPv6", true},
		{"one flow,new flows", "new flows, full table", true},
		{"one flow,new flows", "1M flows", false},
		{"new flows, full table", "new flows, full table", true},
		{"new flows, full table", "new flows, empty table", false},
	} {
		if got := (&job{only: c.only}).wants(c.group); got != c.want {
			t.Errorf("--only %q, group %q: %v", c.only, c.group, got)
		}
	}
}
