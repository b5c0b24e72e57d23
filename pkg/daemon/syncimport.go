package daemon

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Import takes what /proc/net/ip_vs_conn lists on a director that runs kernel
// IPVS, and reports how many entries it took and how many it could not.
func (s *syncDaemons) Import(r io.Reader) (taken, rejected int, err error) {
	listed, skipped, err := connsync.ReadProc(r)
	if err != nil {
		return 0, 0, err
	}
	rejected = skipped
	for part := range slices.Chunk(listed, importedAtOnce) {
		entries := make([]connsync.Entry, 0, len(part))
		for _, l := range part {
			entries = append(entries, entryOf(l))
		}
		n, err := s.feed.table.Absorb(connsync.BatchOf(entries...))
		if taken, rejected = taken+len(part)-n, rejected+n; err != nil {
			return taken, rejected, err
		}
	}
	return taken, rejected, nil
}

// importedAtOnce is how many entries the table takes at once: meanwhile it does nothing
// else, and a failover waits.
const importedAtOnce = 4096

// entryOf is a listed connection with the time that it has been idle: the
// kernel lists only what is left of its timeout.
func entryOf(l connsync.Listed) connsync.Entry {
	e := entriesOf([]connsync.Record{l.Record})[0]
	if timeout := kernelTimeouts[timeoutKey{l.Protocol, l.State}]; timeout > l.Left && !l.IsTemplate() {
		e.Idle = timeout - l.Left
	}
	if l.IsTemplate() {
		e.Timeout = l.Left
	}
	return e
}

type timeoutKey struct {
	protocol uint8
	state    connsync.State
}

// kernelTimeouts are the kernel's own (tcp_timeouts of ip_vs_proto_tcp.c): the
// list does not tell others that were set there.
var kernelTimeouts = map[timeoutKey]time.Duration{
	{connsync.ProtocolTCP, connsync.StateEstablished}: lb.DefaultTCPTimeout,
	{connsync.ProtocolTCP, connsync.StateFinWait}:     lb.DefaultTCPFinTimeout,
	{connsync.ProtocolTCP, connsync.StateTimeWait}:    2 * time.Minute,
	{connsync.ProtocolTCP, connsync.StateClose}:       10 * time.Second,
	{connsync.ProtocolUDP, connsync.StateNone}:        lb.DefaultUDPTimeout,
}

var errNoWire = errors.New("no director with kernel IPVS is told of connections (set sync: {syncid: N}, or lvx ipvsadm --start-daemon master)")

// Push sends every connection to directors that run kernel IPVS, and reports
// how many.
func (s *syncDaemons) Push(ctx context.Context) (sent int, err error) {
	wires := s.wires()
	if len(wires) == 0 {
		return 0, errNoWire
	}
	err = s.feed.table.Walk(ctx, func(batch *connsync.Batch) error {
		sent += len(batch.Members)
		for _, w := range wires {
			if err := w.Push(ctx, recordsOf(batch)); err != nil {
				return err
			}
		}
		return nil
	})
	return sent, err
}

// wires are those by which this director tells kernels: that of the file, and of each
// daemon that ipvsadm has started as master.
func (s *syncDaemons) wires() (all []*connsync.Wire) {
	if s.sync != nil && s.sync.wire != nil {
		all = append(all, s.sync.wire)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, r := range s.running {
		if d.Master {
			all = append(all, r.wire)
		}
	}
	return all
}
