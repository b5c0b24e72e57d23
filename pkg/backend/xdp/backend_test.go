package xdp

import (
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
)

func TestBehaviour(t *testing.T) {
	h := newHarness(t, 4096, 1024)
	lbtest.Run(t, func(t *testing.T) lbtest.Harness {
		if strings.Contains(t.Name(), "/close/") {
			return newHarness(t, 4096, 1024)
		}
		h.reset(t)
		return shared{h}
	})
}

// shared is a harness for one case after the other: loading the program takes
// seconds in a guest.
type shared struct{ *harness }

func (shared) Close(bool) error { return nil }
