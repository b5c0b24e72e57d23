package admin

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// fakeWatch shows packets and then waits.
type fakeWatch struct {
	packets []lb.TracedPacket
	shown   int
	closing time.Duration // how long its end takes
	closed  atomic.Int32
	ended   chan struct{}
}

func newFakeWatch(n int) *fakeWatch {
	w := &fakeWatch{ended: make(chan struct{})}
	for i := range n {
		w.packets = append(w.packets, lb.TracedPacket{
			Time: time.Unix(int64(i), 0).UTC(), Interface: "eth0", Protocol: "tcp",
			Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(i+1)),
			Destination: netip.MustParseAddrPort("192.0.2.100:80"),
			Explanation: lb.Explanation{Verdict: "forwarded", Steps: []string{"one"}},
			LengthIn:    60, FrameIn: []byte{1, 2, 3},
		})
	}
	return w
}

func (w *fakeWatch) Next(ctx context.Context) (lb.TracedPacket, error) {
	if w.shown < len(w.packets) {
		w.shown++
		return w.packets[w.shown-1], nil
	}
	<-ctx.Done()
	return lb.TracedPacket{}, ctx.Err()
}

func (w *fakeWatch) Lost() uint64 { return 7 }

func (w *fakeWatch) Close() error {
	time.Sleep(w.closing)
	if w.closed.Add(1) == 1 {
		close(w.ended)
	}
	return nil
}

func TestTraceComesThrough(t *testing.T) {
	st := newStub()
	st.watch = newFakeWatch(3)
	c := NewClient(start(t, Options{Director: st}))
	enough := errors.New("enough")
	var got []lb.TracedPacket
	begun := false
	lost, err := c.Trace(t.Context(), []string{"port", "80"}, 128, func() { begun = true }, func(p lb.TracedPacket) error {
		if got = append(got, p); len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || lost != 7 || !begun || len(got) != 3 || !slices.Equal(got[2].FrameIn, []byte{1, 2, 3}) || got[2].Source.Port() != 3 {
		t.Errorf("%d packets, %d lost, %v: %+v", len(got), lost, err, got)
	}
	<-st.watch.ended // the listener has gone: so does the watch
	if !slices.Contains(st.calls, "trace [80] 128") {
		t.Errorf("calls %q", st.calls)
	}
	for _, words := range [][]string{{"prot", "1"}, {"host"}} {
		if _, err := c.Trace(t.Context(), words, 0, nil, nil); err == nil {
			t.Errorf("%q is taken as a filter", words)
		}
	}
	if _, err := c.Trace(t.Context(), nil, maxKeep+1, nil, nil); err == nil {
		t.Error("more of a frame is asked for than there is room for")
	}
}

// Who listens after another one finds nothing of that one in the packet path.
func TestTraceWaitsForTheEndOfAnother(t *testing.T) {
	st := newStub()
	st.watch = newFakeWatch(1)
	st.watch.closing = 50 * time.Millisecond
	c := NewClient(start(t, Options{Director: st}))
	enough := errors.New("enough")
	see := func(lb.TracedPacket) error { return enough }
	if _, err := c.Trace(t.Context(), nil, 0, nil, see); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	closed := int32(-1)
	_, err := c.Trace(ctx, nil, 0, func() {
		closed = st.watch.closed.Load()
		cancel()
	}, see)
	if err != nil || closed != 1 {
		t.Errorf("the second one began with %d ended: %v", closed, err)
	}
}

// A trace without packets does not keep the daemon from stopping.
func TestTraceEndsWithTheServer(t *testing.T) {
	st := newStub()
	st.watch = newFakeWatch(0)
	ctx, cancel := context.WithCancel(t.Context())
	s := NewServer(Options{Director: st, Socket: t.TempDir() + "/lvx.sock"})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Up()
	begun := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := NewClient(s.opt.Socket).Trace(t.Context(), nil, 0, func() { close(begun) }, nil)
		ended <- err
	}()
	<-begun
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a trace that the daemon ended ends without an error")
	}
	<-st.watch.ended
}

func TestPacketQuery(t *testing.T) {
	quoted := lb.Packet{Proto: lb.TCP, Src: netip.MustParseAddrPort("192.0.2.1:5"), Dst: netip.MustParseAddrPort("192.0.2.100:80")}
	for _, p := range []lb.Packet{
		quoted,
		{Proto: lb.UDP, Src: quoted.Src, Dst: quoted.Dst, Size: 1500},
		{Proto: lb.ICMP, Src: quoted.Src, Dst: quoted.Dst, ICMPType: 3, ICMPCode: 4, Quotes: &quoted},
	} {
		got, err := parsePacket(packetQuery(p))
		if err != nil {
			t.Fatal(err)
		}
		if (p.Quotes == nil) != (got.Quotes == nil) || p.Quotes != nil && *got.Quotes != *p.Quotes {
			t.Errorf("quoted %+v comes back as %+v", p.Quotes, got.Quotes)
		}
		if got.Quotes = p.Quotes; got != p {
			t.Errorf("%+v comes back as %+v", p, got)
		}
	}
	for key, value := range map[string]string{"size": "70000", "type": "256", "code": "-1", "quotes": "{", "protocol": "sctp"} {
		q := packetQuery(quoted)
		q.Set(key, value)
		if p, err := parsePacket(q); err == nil {
			t.Errorf("%s=%s is read as %+v", key, value, p)
		}
	}
}
