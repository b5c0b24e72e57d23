package main

import (
	"fmt"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
)

// bfd shows the BFD sessions of the file.
func (s *screen) bfd(all []director.BFDStatus) {
	if len(all) == 0 {
		return
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		for _, b := range all {
			class := "down"
			detail := guard.Text(b.Reason)
			if b.IsUp {
				class, detail = "up", fmt.Sprintf("detects in %s", b.Detection)
			}
			row(class, "bfd "+guard.Text(b.Session), b.State, s.ago(b.Since), b.Neighbour.String(), detail)
		}
	})
}
