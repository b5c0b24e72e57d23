package daemon

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// What native mode has shown is warned of where native mode serves; where
// generic mode serves instead, nothing is left to be done.
func TestProofsAreNoted(t *testing.T) {
	for name, test := range map[string]struct {
		attached loader.Attachment
		want     string // in the warning, "" for none
	}{
		"proven":                 {loader.Attachment{Mode: loader.Native, Proof: loader.Proven}, ""},
		"nobody answers":         {loader.Attachment{Mode: loader.Native, Proof: loader.NotProven}, "not proven"},
		"native is a must":       {loader.Attachment{Mode: loader.Native, Proof: loader.Disproven}, loader.ErrLost.Error()},
		"fell back to generic":   {loader.Attachment{Mode: loader.Generic, Why: loader.ErrLost.Error()}, ""},
		"nobody is asked for it": {loader.Attachment{Mode: loader.Native}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			all := warnings.New(slog.New(slog.DiscardHandler))
			noteProofs([]loader.Attachment{test.attached}, all)
			list := all.List()
			if test.want == "" && len(list) > 0 || test.want != "" && (len(list) != 1 || !strings.Contains(list[0].Text, test.want)) {
				t.Errorf("%+v, want %q", list, test.want)
			}
		})
	}
}
