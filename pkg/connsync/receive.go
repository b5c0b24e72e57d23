package connsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

func (s *session) read() error {
	var buffer []byte
	var batch Batch
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(aliveTimeout)); err != nil {
			return err
		}
		var kind uint8
		var body []byte
		var err error
		if kind, body, buffer, err = readFrame(s.conn, buffer); err != nil {
			return err
		}
		if err := s.handle(kind, body, &batch); err != nil {
			return err
		}
	}
}

// handle takes one frame. Batch is room for what it holds.
func (s *session) handle(kind uint8, body []byte, batch *Batch) error {
	switch kind {
	case frameBatch:
		if err := parseBatch(batch, body); err != nil {
			return err
		}
		return s.absorb(batch)
	case frameEntries:
		entries, err := parseEntries(nil, body)
		if err != nil {
			return err
		}
		return s.absorb(BatchOf(entries...))
	case frameSnapshot:
		s.complete.Store(len(body) > 0 && body[0] == 1) // another walk has begun, or is complete
		s.onState()
	case frameAck:
		if len(body) < 8 {
			return errors.New("short acknowledgement")
		}
		return s.acknowledged(binary.BigEndian.Uint64(body))
	case frameAsk, frameAnswer:
		if len(body) < 8 {
			return errors.New("short ask or answer")
		}
		s.takeAsk(kind, binary.BigEndian.Uint64(body))
	case frameRows:
		rows, err := parseRows(body)
		if err != nil {
			return err
		}
		s.table.AbsorbRows(rows)
	case frameAgain:
		s.tellAgain()
	case frameDigest:
		digests, err := parseDigests(body)
		if err != nil {
			return err
		}
		s.onDigests(digests)
	}
	return nil
}

// absorb has the table take what a frame has told of.
func (s *session) absorb(batch *Batch) error {
	rejected, err := s.table.Absorb(batch)
	if err != nil {
		return fmt.Errorf("absorb: %w", err)
	}
	s.received.Add(uint64(len(batch.Members)))
	s.rejected.Add(uint64(rejected))
	s.absorbed.Add(1)
	s.wakeWriter()
	return nil
}

// takeAsk takes the peer's ask, or its answer to one.
func (s *session) takeAsk(kind uint8, n uint64) {
	if kind == frameAsk {
		s.tellNow()
		s.answers.Store(n)
		s.wakeWriter()
		return
	}
	s.answered.Store(n)
	s.changed.wakeAll()
	s.onState()
}

// acknowledged notes that the peer has absorbed n frames of entries since the
// session began.
func (s *session) acknowledged(n uint64) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < s.acked || n-s.acked > uint64(len(s.unacked)) {
		return fmt.Errorf("acknowledgement of %d frames (%d to %d)", n, s.acked, s.acked+uint64(len(s.unacked)))
	}
	count := int(n - s.acked)
	for _, sent := range s.unacked[:count] {
		s.lags = append(s.lags, now.Sub(sent))
	}
	s.lags = s.lags[max(0, len(s.lags)-lagSamples):]
	s.unacked, s.acked = s.unacked[count:], n
	return nil
}

// lag is the 99th percentile of the time from sending a frame of entries to
// the peer's word that it has them, of the latest [lagSamples].
func (s *session) lag() time.Duration {
	s.mu.Lock()
	sorted := slices.Clone(s.lags)
	s.mu.Unlock()
	if len(sorted) == 0 {
		return 0
	}
	slices.Sort(sorted)
	return sorted[len(sorted)*99/100]
}
