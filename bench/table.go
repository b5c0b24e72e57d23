package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// writers are the commands that only read what runs have written.
var writers = map[string]func([]*Report) (string, error){"chart": chart, "table": table}

// rewrite is such a command: it reads reports and writes them in another form.
func rewrite(as func([]*Report) (string, error), files []string, out io.Writer) error {
	if len(files) == 0 {
		return errors.New("want files that --json wrote")
	}
	var runs []*Report
	for _, f := range files {
		r, err := load(filepath.Clean(f))
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	text, err := as(runs)
	if err == nil {
		_, err = io.WriteString(out, text)
	}
	return err
}

// chart draws one run.
func chart(runs []*Report) (string, error) {
	if len(runs) != 1 {
		return "", fmt.Errorf("%d files: a chart is of one run", len(runs))
	}
	return runs[0].chart()
}

// table writes the targets of one run for a document, in Markdown; of several
// runs, the median and what the runs found.
func table(runs []*Report) (string, error) {
	var order []Check // of the first run that has it
	found := map[string][]float64{}
	for _, r := range runs {
		for _, c := range r.Checks {
			if found[c.What] == nil {
				order = append(order, c)
			}
			found[c.What] = append(found[c.What], c.Value)
		}
	}
	if len(order) == 0 {
		return "", errors.New("no targets in the file")
	}
	var b strings.Builder
	if len(runs) == 1 {
		b.WriteString("| target | found | bound |\n|---|---|---|\n")
	} else {
		b.WriteString("| target | found, the median | runs | bound |\n|---|---|---|---|\n")
	}
	for _, c := range order {
		values := slices.Sorted(slices.Values(found[c.What]))
		fmt.Fprintf(&b, "| %s | %s |", c.What, amount(values[len(values)/2]))
		if len(runs) > 1 {
			fmt.Fprintf(&b, " %s - %s |", amount(values[0]), amount(values[len(values)-1]))
		}
		fmt.Fprintf(&b, " %s |\n", amount(c.Bound))
	}
	return b.String(), nil
}
