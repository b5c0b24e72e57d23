package daemon

import (
	"log/slog"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// What comes on the wire that is none of kernel IPVS's is warned of once, however
// much of it there is, and for as long as it comes.
func TestBadDatagramsAreWarnedOfOnce(t *testing.T) {
	registry := warnings.New(slog.New(slog.DiscardHandler))
	var begun, ended []string
	registry.OnChange(func(w warnings.Warning, began bool) {
		if began {
			begun = append(begun, w.Subject)
		} else {
			ended = append(ended, w.Subject)
		}
	})
	var watch wireWatch
	st := connsync.WireStatus{SyncID: 5, Hears: true}
	now := time.Now()
	look := func() { watch.look(&st, now, registry.Put, registry.End) }
	look()
	if len(registry.List()) != 0 {
		t.Fatalf("warned of nothing: %+v", registry.List())
	}
	for range 100 {
		st.Malformed, st.Dropped, st.Foreign = st.Malformed+1000, st.Dropped+1, st.Foreign+3
		now = now.Add(time.Second)
		look()
	}
	if len(begun) != 2 || len(registry.List()) != 2 {
		t.Errorf("%d warnings began: %v, %+v", len(begun), begun, registry.List())
	}
	now = now.Add(badTime)
	look()
	if len(registry.List()) != 0 || len(ended) != 2 {
		t.Errorf("a minute later: %+v, %v", registry.List(), ended)
	}
	st.Unsent = 7
	look()
	if got := registry.List(); len(got) != 1 || got[0].Subject != "syncid 5 queue" {
		t.Errorf("what this director could not send: %+v", got)
	}
	now = now.Add(badTime)
	st.Fault = "interface eth9: no such network interface"
	look()
	if got := registry.List(); len(got) != 1 || got[0].Subject != "syncid 5" {
		t.Errorf("a fault: %+v", got)
	}
}
