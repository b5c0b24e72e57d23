package main

import (
	"strings"
	"testing"
)

func TestPrintSamples(t *testing.T) {
	const text = `# HELP lvx_a_total About a.
# TYPE lvx_a_total counter
lvx_a_total{x="0"} 0
lvx_a_total{x="1"} 7
# HELP lvx_b About b.
lvx_b 10
`
	for args, want := range map[string]string{
		"lvx_a":            "lvx_a_total{x=\"0\"} 0\nlvx_a_total{x=\"1\"} 7\n",
		"lvx_b lvx_a":      "lvx_a_total{x=\"0\"} 0\nlvx_a_total{x=\"1\"} 7\nlvx_b 10\n",
		"lvx_a lvx_a_t":    "lvx_a_total{x=\"0\"} 0\nlvx_a_total{x=\"1\"} 7\n",
		"nonzero":          "lvx_a_total{x=\"1\"} 7\nlvx_b 10\n",
		"nonzero lvx_a":    "lvx_a_total{x=\"1\"} 7\n",
		"lvx_b lvx_nosuch": "lvx_b 10\nerror",
	} {
		names, nonzero := strings.Fields(args), false
		if names[0] == "nonzero" {
			names, nonzero = names[1:], true
		}
		var out strings.Builder
		if err := printSamples(&out, strings.NewReader(text), names, nonzero); err != nil {
			out.WriteString("error")
			if !strings.Contains(err.Error(), `metric "lvx_nosuch"`) {
				t.Errorf("%s: %v", args, err)
			}
		}
		if out.String() != want {
			t.Errorf("%s: %q, want %q", args, out.String(), want)
		}
	}
}
