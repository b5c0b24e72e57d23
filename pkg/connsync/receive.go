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
	var entries []Entry
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
		if entries, err = s.handle(kind, body, entries[:0]); err != nil {
			return err
		}
	}
}

// handle takes one frame. Entries is room for what it holds.
func (s *session) handle(kind uint8, body []byte, entries []Entry) ([]Entry, error) {
	switch kind {
	case frameEntries:
		entries, err := parseEntries(entries, body)
		if err != nil {
			return entries, err
		}
		rejected, err := s.table.Absorb(entries)
		if err != nil {
			return entries, fmt.Errorf("absorb: %w", err)
		}
		s.received.Add(uint64(len(entries)))
		s.rejected.Add(uint64(rejected))
		s.absorbed.Add(1)
		s.wakeWriter()
		return entries, nil
	case frameSnapshot:
		s.complete.Store(len(body) > 0 && body[0] == 1) // another walk has begun, or is complete
		s.onState()
	case frameAck:
		if len(body) < 8 {
			return entries, errors.New("short acknowledgement")
		}
		return entries, s.acknowledged(binary.BigEndian.Uint64(body))
	case frameAsk, frameAnswer:
		if len(body) < 8 {
			return entries, errors.New("short ask or answer")
		}
		s.takeAsk(kind, binary.BigEndian.Uint64(body))
	case frameRows:
		rows, err := parseRows(body)
		if err != nil {
			return entries, err
		}
		s.table.AbsorbRows(rows)
	case frameAgain:
		s.tellAgain()
	case frameDigest:
		digests, err := parseDigests(body)
		if err != nil {
			return entries, err
		}
		s.onDigests(digests)
	}
	return entries, nil
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
