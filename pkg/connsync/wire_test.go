package connsync

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv"
)

// heard collects what a wire absorbs.
type heard struct {
	mu      sync.Mutex
	records []Record
}

func (h *heard) absorb(records []Record) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = append(h.records, records...)
	return 0, nil
}

func (h *heard) all() []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Record(nil), h.records...)
}

// speakOn runs a wire on a host's eth0 until the test ends.
func speakOn(t *testing.T, h *testenv.Host, o WireOptions) *Wire {
	t.Helper()
	o.Interface, o.Log = "eth0", slog.New(slog.DiscardHandler)
	w, err := NewWire(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Do(func() error { return w.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestWireCarriesRecordsToTheGroup(t *testing.T) {
	c, err := testenv.New(testenv.Standard(testenv.Shape{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	var same, other, every, silent heard
	receiver := speakOn(t, c.Host("d2"), WireOptions{SyncID: 7, Absorb: same.absorb})
	foreign := speakOn(t, c.Host("r1"), WireOptions{SyncID: 8, Absorb: other.absorb})
	speakOn(t, c.Host("r2"), WireOptions{Absorb: every.absorb}).SetRole(false, true)
	sender := speakOn(t, c.Host("d1"), WireOptions{SyncID: 7, Absorb: silent.absorb})
	receiver.SetRole(false, true)
	foreign.SetRole(false, true)
	sender.SetRole(true, true)

	capture, err := c.Host("d2").Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	want := captured[0].want
	// The first may leave before the others have joined the group: it is
	// said again until all have heard it, as masters do.
	eventually(t, "both groups have heard it", func() bool {
		sender.Publish(want)
		time.Sleep(20 * time.Millisecond)
		return len(same.all()) > 0 && len(every.all()) > 0 && foreign.Counts().Foreign.Load() > 0
	})
	for _, h := range []*heard{&same, &every} {
		if diff := cmp.Diff(want, h.all()[:1], compareAddrs); diff != "" {
			t.Errorf("received (-want +got):\n%s", diff)
		}
	}
	if len(other.all()) > 0 {
		t.Error("records of another syncid were taken")
	}
	if len(silent.all()) > 0 {
		t.Error("the sender heard itself")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	frame, err := capture.Wait(ctx, func(f testenv.Frame) bool {
		return len(f.Data) > 42 && netip.AddrFrom4([4]byte(f.Data[30:34])) == DefaultGroup
	})
	if err != nil {
		t.Fatal(err)
	}
	payload := frame.Data[42:]
	if ttl := frame.Data[22]; ttl != DefaultTTL {
		t.Errorf("TTL %d (%d)", ttl, DefaultTTL)
	}
	record := hex.EncodeToString(unhex(t, captured[0].hex)[headerLen1:])
	if got := hex.EncodeToString(payload[headerLen1:][:recordLen4]); got != record {
		t.Errorf("on the wire %s, a kernel's is %s", got, record)
	}
}

// What was published before a flush is on its way behind it, the part-filled
// datagram as well.
func TestWireFlushes(t *testing.T) {
	open := func() *net.UDPConn {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	from, to := open(), open()
	w, err := NewWire(WireOptions{SyncID: 7})
	if err != nil {
		t.Fatal(err)
	}
	w.SetRole(true, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.send(ctx, from, to.LocalAddr().(*net.UDPAddr)) }()
	const count = 50 // a full datagram and a part of another
	for range count {
		w.Publish(captured[0].want)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got := recordsWaiting(t, to); got != count {
		t.Errorf("%d records have left behind a flush, want %d", got, count)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := w.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a flush of a wire that does not run: %v", err)
	}
}

// recordsWaiting takes the datagrams that a socket has received already.
func recordsWaiting(t *testing.T, conn *net.UDPConn) (n int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, MaxMaxLen)
	for isMore := true; isMore; {
		if err := raw.Control(func(fd uintptr) {
			length, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			if isMore = err == nil; isMore {
				records, _, _ := Parse(nil, b[:length])
				n += len(records)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestWireTakesAtMostItsBudget(t *testing.T) {
	var h heard
	w, err := NewWire(WireOptions{Interface: "lo", Absorb: h.absorb, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	datagram := unhex(t, captured[10].hex) // two records
	budget := 3
	for range 3 {
		w.take(datagram, nil, &budget)
	}
	if n, dropped := len(h.all()), w.Counts().Dropped.Load(); n != 3 || dropped != 3 || budget != 0 {
		t.Errorf("%d records taken, %d dropped, budget %d (3, 3, 0)", n, dropped, budget)
	}
	w.take(datagram[:10], nil, &budget)
	if n := w.Counts().Malformed.Load(); n != 1 {
		t.Errorf("%d datagrams counted as malformed (1)", n)
	}
}

func TestWireOptions(t *testing.T) {
	for name, o := range map[string]WireOptions{
		"no multicast":  {Group: netip.MustParseAddr("10.0.0.1")},
		"IPv6":          {Group: netip.MustParseAddr("ff02::1")},
		"tiny datagram": {MaxLen: 20},
	} {
		if _, err := NewWire(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What the queue has no room for is not counted to what comes.
func TestWireCountsWhatItCannotSend(t *testing.T) {
	w, err := NewWire(WireOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.SetRole(true, false)
	for range wireQueued + 3 {
		w.Publish(captured[0].want)
	}
	if st := w.Status(); st.Unsent != 3 || st.Dropped != 0 {
		t.Errorf("%d not sent, %d too many (3, 0)", st.Unsent, st.Dropped)
	}
}
