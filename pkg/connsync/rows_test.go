package connsync

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func someRows() Rows {
	return Rows{Service: "web", Count: 256, Changed: []Row{
		{Number: 0, Real: at("10.0.0.5:0"), Settled: at("10.0.0.4:0"), Since: 7 * time.Second},
		{Number: 255, Real: at("[2001:db8::5]:8080"), Settled: at("[2001:db8::4]:80"), Since: 900 * time.Second},
	}}
}

func TestRowsOnTheWire(t *testing.T) {
	compare := cmpopts.EquateComparable(someRows().Changed[0].Real)
	want := someRows()
	b := appendRows(nil, &want)
	got, err := parseRows(b)
	if diff := cmp.Diff(want, got, compare); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for n := range b {
		if got, err := parseRows(b[:n]); err == nil && len(got.Changed) > 1 {
			t.Errorf("%d bytes of %d are %+v", n, len(b), got)
		}
	}

	// A later release has more to say of each row.
	const more = 3
	begin := 1 + len(want.Service) + rowsHead
	later := bytes.Clone(b[:begin])
	later[begin-1] = rowLen + more
	for at := begin; at < len(b); at += rowLen {
		later = append(append(later, b[at:at+rowLen]...), make([]byte, more)...)
	}
	got, err = parseRows(later)
	if diff := cmp.Diff(want, got, compare); err != nil || diff != "" {
		t.Errorf("of a later release: %v (-want +got):\n%s", err, diff)
	}
	for what, change := range map[string]func(b []byte){
		"a row beyond the service's": func(b []byte) { b[begin] = 1 },
		"short rows":                 func(b []byte) { b[begin-1] = rowLen - 1 },
		"too many":                   func(b []byte) { b[begin-rowsHead] = 1 },
	} {
		wrong := bytes.Clone(b)
		change(wrong)
		if got, err := parseRows(wrong); err == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}
