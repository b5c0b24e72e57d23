package notify

import (
	"context"
	"errors"
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

// summariser is a sender that tells of several messages in one.
type summariser interface {
	// summarise makes one message of several, oldest first.
	summarise(ms []message) message
}

// outlet is a sender and the messages that wait for it.
type outlet struct {
	sender
	queue    chan message
	interval time.Duration // between two messages of a summariser
	stopping chan struct{} // closed when nothing is to wait any more
}

// pause is the time between two attempts; it doubles.
const pause = time.Second

// work sends what is in the queue until it is closed. When ctx ends, what is
// left fails at once.
func (o *outlet) work(ctx context.Context, report func(sender, message, error)) {
	s, sums := o.sender.(summariser)
	for m := range o.queue {
		if !sums {
			report(o.sender, m, deliver(ctx, o.sender, m))
			continue
		}
		if ms := append([]message{m}, o.takeWaiting()...); len(ms) > 1 {
			m = s.summarise(ms)
		}
		report(o.sender, m, deliver(ctx, o.sender, m))
		select { // what happens meanwhile is told of together
		case <-time.After(o.interval):
		case <-o.stopping:
		}
	}
}

// takeWaiting takes what is in the queue now.
func (o *outlet) takeWaiting() (ms []message) {
	for {
		select {
		case m, ok := <-o.queue:
			if !ok {
				return ms
			}
			ms = append(ms, m)
		default:
			return ms
		}
	}
}

// report counts what became of a message. One that was not delivered is said
// aloud: it is the only trace of what it tells.
func (n *Notifier) report(to sender, m message, err error) {
	if err == nil {
		n.delivered.Add(1)
		return
	}
	n.failed.Add(1)
	n.log.Warn("message not delivered", "to", to.String(), "message", m.text(), "error", err)
	if n.undelivered != nil {
		n.undelivered(to.String(), m.text(), err)
	}
}

func deliver(ctx context.Context, to sender, m message) error {
	timeout, attempts := to.patience()
	wait := pause
	for {
		attempt, cancel := context.WithTimeout(ctx, timeout)
		err := to.send(attempt, m)
		cancel()
		attempts--
		var refused refusedError
		if err == nil || attempts <= 0 || ctx.Err() != nil || errors.As(err, &refused) {
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
