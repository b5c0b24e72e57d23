package xdp

import (
	"testing"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
)

func TestBehaviour(t *testing.T) {
	lbtest.Run(t, func(t *testing.T) lbtest.Harness { return newHarness(t, 4096, 1024) })
}

func TestVerdictsHaveTexts(t *testing.T) {
	if len(verdictTexts) != int(loader.RawVerdictVERDICTS) {
		t.Fatalf("%d texts for %d verdicts", len(verdictTexts), loader.RawVerdictVERDICTS)
	}
	seen := map[string]bool{}
	for i, v := range verdictTexts {
		if v.name == "" || v.meaning == "" || seen[v.name] {
			t.Errorf("verdict %d: name %q, meaning %q", i, v.name, v.meaning)
		}
		seen[v.name] = true
	}
}
