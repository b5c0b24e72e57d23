package main

import (
	"errors"
	"fmt"
	"html"
	"math"
	"strings"
)

// The chart shows ratios alone: lvx's cases against floor B with as many
// flows in the same order. Absolute times are a machine's, not a program's.
const (
	chartWidth  = 760
	chartLabels = 250 // where the bars begin
	chartRow    = 28
	chartHead   = 64
	chartFoot   = 40
)

// bar is one case of the chart.
type bar struct {
	what         string
	ratio, bound float64
}

// bars are the targets that have floor B for a yardstick and were measured.
func (r *Report) bars() []bar {
	median := map[string]float64{}
	for _, x := range r.Results {
		median[x.Name] = x.Median
	}
	var list []bar
	for _, t := range targets {
		over, under := median[t.over], median[t.under]
		if strings.HasPrefix(t.under, "floor_b") && over > 0 && under > 0 {
			what, _, _ := strings.Cut(t.what, " / ")
			list = append(list, bar{what, over / under, t.most})
		}
	}
	return list
}

// chart draws the bars as an SVG document.
func (r *Report) chart() (string, error) {
	list := r.bars()
	if len(list) == 0 {
		return "", errors.New("no results with floor B beside them (bench --json FILE packets makes some)")
	}
	most := 1.0
	for _, b := range list {
		most = max(most, b.ratio, b.bound)
	}
	most = math.Ceil(most*4) / 4
	x := func(ratio float64) float64 { return chartLabels + ratio/most*(chartWidth-chartLabels-60) }
	height := chartHead + chartRow*(len(list)+1) + chartFoot
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" fill="#222">`, chartWidth, height)
	put(`<title>lvx: time per packet as a share of floor B's</title>`)
	put(`<rect width="%d" height="%d" fill="#fff"/>`, chartWidth, height)
	put(`<text x="16" y="26" font-size="16" font-weight="bold">Time per packet, as a share of floor B's</text>`)
	put(`<text x="16" y="46" fill="#555">floor B: parse, one kernel hash lookup, an array, a counter, with as many flows; less is better</text>`)
	end := chartHead + chartRow*(len(list)+1)
	for ratio := 0.0; ratio <= most; ratio += 0.25 {
		put(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#ddd"/>`, x(ratio), chartHead, x(ratio), end)
		put(`<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%.2f</text>`, x(ratio), end+16, ratio)
	}
	row := func(i int, what, colour string, ratio float64) int {
		y := chartHead + chartRow*i
		put(`<text x="%d" y="%d" text-anchor="end">%s</text>`, chartLabels-8, y+18, html.EscapeString(what))
		put(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, chartLabels, y+5, x(ratio)-chartLabels, chartRow-10, colour)
		put(`<text x="%.1f" y="%d">%.2f</text>`, x(ratio)+6, y+18, ratio)
		return y
	}
	row(0, "floor B", "#aaa", 1)
	for i, c := range list {
		y := row(i+1, c.what, "#2a7ab8", c.ratio)
		put(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#c33" stroke-width="2"/>`, x(c.bound), y+2, x(c.bound), y+chartRow-2)
	}
	put(`<text x="16" y="%d" fill="#555">red: the bound that a change must not cross</text>`, height-8)
	put(`</svg>`)
	return b.String(), nil
}
