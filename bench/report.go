package main

import (
	"encoding/json"
	"fmt"
	"io"
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
	Control []Timing `json:"control,omitempty"`
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
		fmt.Fprint(t, "\nover a veth, one core\tMpps\tof floor A\tlost\n")
		for _, x := range r.Wire {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.1f %%\n", x.What, x.Mpps, x.OfFloorA, 100*x.Lost)
		}
	}
	if len(r.Control) > 0 {
		fmt.Fprint(t, "\ncontrol plane\tms\t\t\n")
		for _, x := range r.Control {
			fmt.Fprintf(t, "%s\t%.1f\t\t\n", x.What, x.Milliseconds)
		}
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

// yardstick finds floor B with as many flows in the same order, or 0.
func (r *Report) yardstick(name string) float64 {
	_, size, ok := strings.Cut(name, "/")
	if !ok {
		return 0
	}
	for _, x := range r.Results {
		if x.Name == "floor_b/"+size {
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
	OfFloorA float64 `json:"of_floor_a"`
	Lost     float64 `json:"lost"` // share of the packets sent
}

// Timing is how long the control plane took.
type Timing struct {
	Name         string  `json:"name"`
	What         string  `json:"what"`
	Milliseconds float64 `json:"ms"`
}
