package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// Report is everything that one run found out. Absolute times move from
// machine to machine: read the figures against each other.
type Report struct {
	Kernel  string   `json:"kernel"`
	Arch    string   `json:"arch"`
	CPUs    int      `json:"cpus"`
	Results []Result `json:"results,omitempty"`
	Wire    []Rate   `json:"wire,omitempty"`
	Figures []Figure `json:"figures,omitempty"`
	Checks  []Check  `json:"checks"`
}

func newReport() *Report {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return &Report{Kernel: unix.ByteSliceToString(u.Release[:]), Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
}

// print shows the report as tables.
func (r *Report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Results) > 0 {
		r.printResults(t)
	}
	if len(r.Wire) > 0 {
		fmt.Fprint(t, "\nover a veth, one core\tMpps\tquartiles\tof floor A\tlost\n")
		for _, x := range r.Wire {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f-%.2f\t%.2f\t%.2f %%\n", x.What, x.Mpps, x.Low, x.High, x.OfFloorA, 100*x.Lost)
		}
	}
	part := ""
	for _, f := range r.Figures {
		if f.Part != part {
			part = f.Part
			fmt.Fprintf(t, "\n%s\t\tquartiles\t\n", part)
		}
		fmt.Fprintln(t, f)
	}
	fmt.Fprint(t, "\ntarget\tfound\tbound\t\n")
	for _, c := range r.Checks {
		sign, word := "<=", "ok"
		if c.Least {
			sign = ">="
		}
		if !c.OK {
			word = "MISS"
		}
		fmt.Fprintf(t, "%s\t%.2f\t%s %.2f\t%s\n", c.What, c.Value, sign, c.Bound, word)
	}
	return t.Flush()
}

func (r *Report) printResults(t io.Writer) {
	floor := 0.0
	for _, x := range r.Results {
		if x.Name == "floor_b/1" {
			floor = x.Median
		}
	}
	fmt.Fprint(t, "case\tns\tquartiles\tx floor B\n")
	for _, x := range r.Results {
		ratio := "-"
		if b := r.yardstick(x.Name); b > 0 {
			ratio = fmt.Sprintf("%.2f", x.Median/b)
		} else if floor > 0 {
			ratio = fmt.Sprintf("%.2f of 1 flow", x.Median/floor)
		}
		fmt.Fprintf(t, "%s\t%.1f\t%.1f-%.1f\t%s\n", x.What, x.Median, x.Low, x.High, ratio)
	}
}

// yardstick finds floor B of the case's family with as many flows in the same
// order, or 0.
func (r *Report) yardstick(name string) float64 {
	what, size, ok := strings.Cut(name, "/")
	if !ok {
		return 0
	}
	floor := "floor_b/"
	if strings.HasSuffix(what, "6") {
		floor = "floor_b6/"
	}
	for _, x := range r.Results {
		if x.Name == floor+size {
			return x.Median
		}
	}
	return 0
}

// missed counts the targets that do not hold.
func (r *Report) missed() int {
	n := 0
	for _, c := range r.Checks {
		if !c.OK {
			n++
		}
	}
	return n
}

func (r *Report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func load(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Rate is how many packets per second came through.
type Rate struct {
	Name     string  `json:"name"`
	What     string  `json:"what"`
	Mpps     float64 `json:"mpps"`
	Low      float64 `json:"low_mpps"`  // first quartile of the rounds
	High     float64 `json:"high_mpps"` // third quartile
	OfFloorA float64 `json:"of_floor_a"`
	Lost     float64 `json:"lost"` // share of the packets sent
}

// Figure is one number that a command found out.
type Figure struct {
	Part  string  `json:"part"` // the command
	Name  string  `json:"name"`
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	Low   float64 `json:"low,omitempty"`  // first quartile, where it was measured more than once
	High  float64 `json:"high,omitempty"` // third quartile
}

// String is a line of the table.
func (f Figure) String() string {
	spread := ""
	if f.High > 0 {
		spread = amount(f.Low) + "-" + amount(f.High)
	}
	return fmt.Sprintf("%s\t%s %s\t%s\t", f.What, amount(f.Value), f.Unit, spread)
}

// amount writes as many digits as mean something.
func amount(x float64) string {
	if x == math.Trunc(x) || x >= 1000 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func (r *Report) figure(part, name, what, unit string, value float64) {
	r.Figures = append(r.Figures, Figure{Part: part, Name: name, What: what, Unit: unit, Value: value})
}

// spread notes what was measured several times.
func (r *Report) spread(part, name, what, unit string, samples []float64) {
	s := summarize(samples)
	r.Figures = append(r.Figures, Figure{Part: part, Name: name, What: what, Unit: unit, Value: s.Median, Low: s.Low, High: s.High})
}
