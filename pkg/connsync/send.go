package connsync

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

func (s *session) frame(kind uint8, body []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(aliveTimeout)); err != nil {
		return err
	}
	return writeFrame(s.conn, kind, body)
}

func (s *session) write(ctx context.Context) error {
	s.missed.Store(s.table.Missed())
	if err := s.walk(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(aliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.wake:
			if err := s.catchUp(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if err := s.askAgain(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keepAlive says that this end is there, also while the table is walked and has
// nothing to tell of for a while.
func (s *session) keepAlive(ctx context.Context) error {
	tick := time.NewTicker(aliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.frame(frameAlive, nil); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// askAgain asks the peer for another walk if what it told of before is known here
// only now. A peer of an earlier release passes it over.
func (s *session) askAgain() error {
	missed := s.table.Missed()
	if missed == s.missed.Load() {
		return nil
	}
	s.doubt() // a walk may be under way, and its end is not the other one's
	s.complete.Store(false)
	s.missed.Store(missed)
	return s.frame(frameAgain, nil)
}

// tellAgain has the writer walk again.
func (s *session) tellAgain() {
	s.mu.Lock()
	s.overflowed = true
	s.walked.Store(false)
	s.mu.Unlock()
	s.wakeWriter()
}

// catchUp sends what waits, walks again if entries were dropped, and answers the
// peer behind that.
func (s *session) catchUp(ctx context.Context) error {
	answer := s.answers.Load() // first: what was queued before it came is sent before the answer
	if err := s.sendNews(); err != nil {
		return err
	}
	if s.takeOverflow() {
		if err := s.walk(ctx); err != nil {
			return err
		}
	}
	if answer == s.answerSent {
		return nil
	}
	s.answerSent = answer
	return s.frame(frameAnswer, binary.BigEndian.AppendUint64(nil, answer))
}

func (s *session) takeOverflow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.overflowed
	s.overflowed = false
	return was
}

// walk sends the whole table, rows first. News are sent in between, before the next part
// is read, so that nothing older follows them.
func (s *session) walk(ctx context.Context) error {
	if err := s.frame(frameSnapshot, []byte{0}); err != nil {
		return err
	}
	for _, rows := range s.table.ChangedRows() {
		if err := s.frame(frameRows, appendRows(nil, &rows)); err != nil {
			return err
		}
	}
	err := s.table.Walk(ctx, func(b *Batch) error {
		if err := s.sendBatch(b); err != nil {
			return err
		}
		return s.sendNews()
	})
	if err != nil {
		return fmt.Errorf("walk over the table: %w", err)
	}
	if !s.endWalk() {
		return nil // the peer is not complete before another walk
	}
	if err := s.frame(frameSnapshot, []byte{1}); err != nil {
		return err
	}
	s.changed.wakeAll()
	s.onState()
	return nil
}

// endWalk reports whether a walk has told of everything: nothing was dropped meanwhile,
// and the peer has not asked for another one.
func (s *session) endWalk() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.walked.Store(!s.overflowed)
	return !s.overflowed
}

// sendNews sends what waits: acknowledgements, digests, entries, and behind them
// an ask.
func (s *session) sendNews() error {
	ask := s.asks.Load() // first: what was queued before it was made is sent before it
	if n := s.absorbed.Load(); n != s.ackSent {
		if err := s.frame(frameAck, binary.BigEndian.AppendUint64(nil, n)); err != nil {
			return err
		}
		s.ackSent = n
	}
	s.mu.Lock()
	frames, digests := s.queue, s.digests
	s.queue, s.queued, s.digests = nil, 0, nil
	s.mu.Unlock()
	if digests != nil {
		if err := s.frame(frameDigest, appendDigests(nil, digests)); err != nil {
			return err
		}
	}
	if err := s.sendFrames(frames); err != nil || ask == s.askSent {
		return err
	}
	s.askSent = ask
	return s.frame(frameAsk, binary.BigEndian.AppendUint64(nil, ask))
}

func (s *session) sendBatch(b *Batch) error {
	frames, err := framesOf(b, s.version)
	if err != nil {
		return err
	}
	return s.sendFrames(frames)
}

func (s *session) sendFrames(frames []entryFrame) error {
	for _, f := range frames {
		s.mu.Lock()
		s.unacked = append(s.unacked, time.Now())
		behind := len(s.unacked)
		s.mu.Unlock()
		if behind > maxUnacked {
			return fmt.Errorf("the peer has not acknowledged %d frames of entries", behind)
		}
		if err := s.conn.SetWriteDeadline(time.Now().Add(aliveTimeout)); err != nil {
			return err
		}
		if _, err := s.conn.Write(f.bytes); err != nil {
			return err
		}
		s.sent.Add(uint64(f.count))
	}
	return nil
}
