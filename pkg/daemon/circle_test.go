package daemon

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func wait(ctx context.Context) error { <-ctx.Done(); return nil }

func TestCircleStopsAllParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := newCircle(ctx)
		var ended atomic.Int32
		for _, name := range []string{"a", "b"} {
			c.start(name, func(ctx context.Context) error { _ = wait(ctx); ended.Add(1); return nil })
		}
		cancel()
		synctest.Wait()
		if n := ended.Load(); n != 0 {
			t.Errorf("%d parts ended with the context around the circle", n)
		}
		if err := c.stop(); err != nil || ended.Load() != 2 {
			t.Errorf("%v, %d parts ended", err, ended.Load())
		}
	})
}

// The part that failed first is named, whatever the others say on their way
// out.
func TestCircleNamesThePart(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(context.Context) error
		want string
	}{
		"error":           {func(context.Context) error { return errors.New("no socket") }, "admin: no socket"},
		"ended by itself": {func(context.Context) error { return nil }, "admin: ended by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newCircle(t.Context())
			g.start("vrrp", func(ctx context.Context) error { _ = wait(ctx); return errors.New("later") })
			g.start("admin", c.run)
			<-g.failed()
			if err := g.stop(); err == nil || err.Error() != c.want {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
