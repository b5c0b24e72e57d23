package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// circle is a set of parts that run at the same time and stop together. The
// first one that fails names itself in the error.
type circle struct {
	ctx    context.Context //nolint:containedctx // the life that the parts share: stop ends it
	cancel context.CancelFunc
	parts  sync.WaitGroup
	first  chan struct{} // closed when a part has failed

	mu  sync.Mutex
	err error
}

// newCircle makes a circle whose parts run until [circle.stop], also beyond
// the end of ctx.
func newCircle(ctx context.Context) *circle {
	c := &circle{first: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return c
}

// start runs a part. One that ends before it is stopped has failed.
func (c *circle) start(name string, run func(context.Context) error) {
	c.parts.Go(func() {
		err := run(c.ctx)
		if err == nil && c.ctx.Err() == nil {
			err = errors.New("ended by itself")
		}
		if err != nil {
			c.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

func (c *circle) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.first)
	}
}

// failed is closed when a part has failed.
func (c *circle) failed() <-chan struct{} { return c.first }

// stop stops the parts, waits for them, and returns what the first one that
// failed said.
func (c *circle) stop() error {
	c.cancel()
	c.parts.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
