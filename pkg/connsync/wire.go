package connsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultGroup is where kernel IPVS sends its datagrams (IP_VS_SYNC_GROUP).
var DefaultGroup = netip.MustParseAddr("224.0.0.81")

// Defaults and limits of the wire.
const (
	DefaultWirePort = 8848 // UDP (IP_VS_SYNC_PORT)
	DefaultTTL      = 1

	flushAfter    = time.Second            // a part-filled datagram leaves, as the kernel's does after 2 s
	pace          = 400 * time.Microsecond // between datagrams: a kernel's receive buffer holds about 90
	maxWireRate   = 200_000                // records per second that are taken; more are counted and dropped
	wireBuffer    = 4 << 20                // bytes of the receive buffer
	wireQueued    = 1 << 16                // records that wait to be sent; more are counted and dropped
	wireReadError = time.Second            // pause after an error of the socket
)

// WireOptions say which wire is spoken on.
type WireOptions struct {
	Interface string     // whose segment the other directors are on
	Group     netip.Addr // zero: [DefaultGroup]; IPv4 multicast
	Port      uint16     // 0: [DefaultWirePort]
	TTL       uint8      // 0: [DefaultTTL]
	SyncID    uint8      // 0 sends as group 0 and takes every group, as a kernel does
	MaxLen    int        // 0: [DefaultMaxLen]
	Version0  bool       // send version 0, for kernels before 2.6.39; both versions are understood
	Log       *slog.Logger

	// Absorb takes what was received; it does not keep the slice.
	Absorb func(records []Record) (rejected int, err error)
}

// Wire speaks with directors that run kernel IPVS: it sends while this host is
// master and listens while it is backup. Nothing on it is authenticated or
// acknowledged.
type Wire struct {
	o      WireOptions
	queue  chan Record
	counts WireCounts
	sends  atomic.Bool
	hears  atomic.Bool
	pushed chan Record // what is sent whatever the role: see Push
	flush  chan chan struct{}

	mu  sync.Mutex
	err error
}

// WireCounts are totals since the start.
type WireCounts struct {
	Sent      atomic.Uint64 // records
	Received  atomic.Uint64 // records
	Rejected  atomic.Uint64 // records that the table did not take, or that have no meaning here
	Malformed atomic.Uint64 // datagrams with an error
	Foreign   atomic.Uint64 // datagrams of another syncid
	Dropped   atomic.Uint64 // records beyond the rate that is taken
	Unsent    atomic.Uint64 // records that the queue had no room for
}

// NewWire checks o. Nothing is opened before [Wire.Run].
func NewWire(o WireOptions) (*Wire, error) {
	if !o.Group.IsValid() {
		o.Group = DefaultGroup
	}
	if !o.Group.Is4() || !o.Group.IsMulticast() {
		return nil, fmt.Errorf("group %s of connection sync (an IPv4 multicast address)", o.Group)
	}
	if o.Port == 0 {
		o.Port = DefaultWirePort
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.MaxLen == 0 {
		o.MaxLen = DefaultMaxLen
	}
	if _, err := o.packer(); err != nil {
		return nil, err
	}
	return &Wire{o: o, queue: make(chan Record, wireQueued), pushed: make(chan Record), flush: make(chan chan struct{})}, nil
}

func (o WireOptions) packer() (*Packer, error) {
	version := uint8(version1)
	if o.Version0 {
		version = 0
	}
	return NewPacker(version, o.SyncID, o.MaxLen)
}

// SetRole says whether this host sends what changes and whether it takes what
// others send. The kernel's master sends, its backup listens.
func (w *Wire) SetRole(sends, hears bool) {
	w.sends.Store(sends)
	w.hears.Store(hears)
}

// Counts are the wire's counters.
func (w *Wire) Counts() *WireCounts { return &w.counts }

// Err is why the wire does not work now, nil if it does.
func (w *Wire) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// fail notes an error, or with nil its end, and logs what is new.
func (w *Wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && (w.err == nil || w.err.Error() != err.Error()) {
		w.o.Log.Warn("connection sync with kernel IPVS does not work", "component", "sync", "err", err)
	}
	w.err = err
}

// Publish queues records to be sent, if this host sends. It does not wait.
func (w *Wire) Publish(records []Record) {
	if !w.sends.Load() {
		return
	}
	for _, r := range records {
		select {
		case w.queue <- r:
		default:
			w.counts.Unsent.Add(1)
		}
	}
}

// Push sends records whatever this host's role is, and waits until they are on
// their way: kernels that take them have no other way to learn what they missed.
func (w *Wire) Push(ctx context.Context, records []Record) error {
	for _, r := range records {
		select {
		case w.pushed <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Flush sends what was published before, and waits until it is on its way or ctx
// ends. Nobody acknowledges it.
func (w *Wire) Flush(ctx context.Context) error {
	sent := make(chan struct{})
	select {
	case w.flush <- sent:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-sent:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Run speaks until ctx ends. An interface that is not there, or a socket that
// fails, is tried again.
func (w *Wire) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := w.speak(ctx)
		if ctx.Err() != nil {
			break
		}
		w.fail(err)
		select {
		case <-time.After(wireReadError):
		case <-ctx.Done():
		}
	}
	return nil
}

func (w *Wire) speak(ctx context.Context) error {
	conn, to, err := w.open(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel()
	var sendErr error
	sender.Go(func() {
		if sendErr = w.send(ctx, conn, to); sendErr != nil {
			cancel()
		}
	})
	w.fail(nil)
	err = w.receive(conn)
	cancel()
	sender.Wait()
	if sendErr != nil && !errors.Is(sendErr, net.ErrClosed) {
		return sendErr
	}
	return err
}

// receive takes datagrams until the socket fails.
func (w *Wire) receive(conn *net.UDPConn) error {
	b := make([]byte, MaxMaxLen+1)
	var records []Record
	budget, second := maxWireRate, time.Now()
	for {
		n, _, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		if !w.hears.Load() {
			continue
		}
		if now := time.Now(); now.Sub(second) >= time.Second {
			budget, second = maxWireRate, now
		}
		records = w.take(b[:n], records[:0], &budget)
	}
}

// take absorbs one datagram, as far as the second's budget of records goes.
func (w *Wire) take(b []byte, records []Record, budget *int) []Record {
	records, header, err := Parse(records, b)
	if w.o.SyncID != 0 && header.SyncID != w.o.SyncID {
		w.counts.Foreign.Add(1)
		return records
	}
	if err != nil {
		w.counts.Malformed.Add(1)
	}
	w.counts.Rejected.Add(uint64(header.Skipped))
	if len(records) > *budget {
		w.counts.Dropped.Add(uint64(len(records) - *budget))
		records = records[:*budget]
	}
	*budget -= len(records)
	if len(records) == 0 {
		return records
	}
	rejected, err := w.o.Absorb(records)
	w.counts.Received.Add(uint64(len(records)))
	w.counts.Rejected.Add(uint64(rejected))
	w.fail(err)
	return records
}

// send gathers queued records into datagrams. A datagram leaves when it is
// full, or a while after its first record came.
func (w *Wire) send(ctx context.Context, conn *net.UDPConn, to *net.UDPAddr) error {
	packer, err := w.o.packer()
	if err != nil {
		return err
	}
	timer := time.NewTicker(flushAfter)
	defer timer.Stop()
	leave := func(datagram []byte) error {
		if datagram == nil {
			return nil
		}
		if _, err := conn.WriteToUDP(datagram, to); err != nil {
			return fmt.Errorf("send to %s: %w", to, err)
		}
		time.Sleep(pace)
		return nil
	}
	for {
		var err error
		select {
		case r := <-w.queue:
			err = leave(w.pack(packer, r))
		case r := <-w.pushed:
			err = leave(w.pack(packer, r))
		case <-timer.C:
			err = leave(packer.Flush())
		case sent := <-w.flush:
			for n := len(w.queue); n > 0 && err == nil; n-- {
				err = leave(w.pack(packer, <-w.queue))
			}
			if err == nil {
				err = leave(packer.Flush())
			}
			close(sent)
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pack adds a record to the datagram that is being filled, and returns the
// datagram if that is full.
func (w *Wire) pack(packer *Packer, r Record) (full []byte) {
	full, err := packer.Add(r)
	if err != nil {
		w.counts.Rejected.Add(1) // version 0 and IPv6, most likely
		return nil
	}
	w.counts.Sent.Add(1)
	return full
}
