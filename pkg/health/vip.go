package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// tunnelSegment is what a TCP segment of a probe in a tunnel holds at most, either
// way: it fits any way that IPv6 could take, whatever a tunnel adds.
const tunnelSegment = 1180

// vipChecker asks a real by way of a VIP. When that fails it asks the real's
// own address as well, only to distinguish the reasons: the answer is the
// VIP's.
type vipChecker struct {
	target Target
	opts   options
	direct Checker

	mu      sync.Mutex // guards what follows: Close may come from elsewhere
	through Checker    // nil until the path is open
	release func()
}

func (c *vipChecker) Check(ctx context.Context) error {
	timeout := c.target.Spec.Timeout
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	through, err := c.openPath()
	if err != nil {
		return err
	}
	// The comparison must be there when the timeout is up, so it starts
	// while the VIP may still answer.
	comparison := make(chan error, 1)
	compare := func() { comparison <- c.direct.Check(ctx) }
	late := time.AfterFunc(timeout/2, compare)
	viaVIP := through.Check(ctx)
	if late.Stop() {
		if viaVIP == nil {
			return nil
		}
		compare()
	}
	if viaVIP == nil {
		cancel()
		<-comparison
		return nil
	}
	// The next check opens the path anew: the route may have moved to an
	// interface that rewrites nothing.
	_ = c.Close()
	return addTimeout(c.explainFailure(viaVIP, <-comparison), timeout)
}

// openPath opens the path, if it is not, and keeps it until Close.
func (c *vipChecker) openPath() (Checker, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.through != nil {
		return c.through, nil
	}
	mark, release, err := c.opts.path.Open(c.target.Real, c.target.VIP, c.target.Forward, c.target.Encap)
	if err != nil {
		return nil, fmt.Errorf("path to VIP %s: %w: %w", c.target.VIP, ErrNotAsked, err)
	}
	d := dialer{source: c.target.Spec.Source, choose: c.opts.source, mark: mark}
	if c.target.Forward != lb.DR {
		d.segment = tunnelSegment
	}
	through, err := buildPlain(c.target, d, c.opts)
	if err != nil {
		release()
		return nil, err
	}
	c.through, c.release = through, release
	return through, nil
}

// Close gives the path back.
func (c *vipChecker) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.release != nil {
		c.release()
		c.through, c.release = nil, nil
	}
	return nil
}

// explainFailure words a failure through the VIP by what the real's own address
// said to the same question.
func (c *vipChecker) explainFailure(viaVIP, direct error) error {
	real, vip := c.target.Real, c.target.VIP
	switch {
	case errors.Is(viaVIP, ErrNotAsked):
		return viaVIP
	case direct != nil && errors.Is(viaVIP, os.ErrDeadlineExceeded) && !errors.Is(direct, ErrNotAsked):
		return direct // the real itself has a problem, and its address says which
	case direct != nil:
		return viaVIP
	case errors.Is(viaVIP, os.ErrDeadlineExceeded), errors.Is(viaVIP, syscall.EHOSTUNREACH):
		if c.target.Forward != lb.DR {
			return fmt.Errorf("%s on %s but not through VIP %s in a tunnel: does the real decapsulate (lvx real status)?", c.passVerb(), real, vip)
		}
		return fmt.Errorf("%s on %s but not through VIP %s: is the VIP on lo?", c.passVerb(), real, vip)
	case errors.Is(viaVIP, syscall.ECONNREFUSED):
		return fmt.Errorf("%s on %s but refuses VIP %s: is the service bound to its own address only?", c.passVerb(), real, vip)
	}
	return fmt.Errorf("%w, through VIP %s (passes on %s)", viaVIP, vip, real)
}

// passVerb is what a real does that passes.
func (c *vipChecker) passVerb() string {
	switch c.target.Spec.Type {
	case TCP, HTTP, HTTPS:
		return "connects"
	}
	return "answers"
}
