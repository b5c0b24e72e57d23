package notify

import (
	"context"
	"time"
)

// sender is one way of telling.
type sender interface {
	// send delivers m, or returns an error.
	send(ctx context.Context, m message) error
	// patience is how long one attempt may take, and how many there are.
	patience() (time.Duration, int)
	// String names the sender for the log.
	String() string
}

// outlet is a sender and the messages that wait for it.
type outlet struct {
	sender
	queue chan message
}

// pause is the time between two attempts; it doubles.
const pause = time.Second

// work sends what is in the queue until it is closed. When ctx ends, what is
// left fails at once.
func (n *Notifier) work(ctx context.Context, o *outlet) {
	for m := range o.queue {
		if err := o.deliver(ctx, m); err != nil {
			n.failed.Add(1)
			n.log.Warn("message not delivered", "to", o.String(), "message", m.text(), "error", err)
			continue
		}
		n.delivered.Add(1)
	}
}

func (o *outlet) deliver(ctx context.Context, m message) error {
	timeout, attempts := o.patience()
	wait := pause
	for {
		attempt, cancel := context.WithTimeout(ctx, timeout)
		err := o.send(attempt, m)
		cancel()
		attempts--
		if err == nil || attempts <= 0 || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return err
		}
	}
}
