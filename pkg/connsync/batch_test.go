package connsync

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// someEntries are count entries of every kind that a batch tells apart: family,
// state, real, mark, template.
func someEntries(count int) (entries []Entry) {
	for n := range count {
		e := entryOf("172.16.0.1:1")
		e.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), uint16(n+1))
		e.Idle = time.Duration(n) * time.Second
		e.IsProven = n%2 == 0
		switch n % 5 {
		case 1:
			e.State, e.Flags = StateFinWait, e.Flags|FlagInactive
		case 2:
			e.Flags, e.Mark = e.Flags|FlagTemplate, uint32(n%7)
			e.Client = netip.AddrPortFrom(e.Client.Addr(), 0)
		case 3:
			e.Client = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 14: byte(n >> 8), 15: byte(n)}), uint16(n+1))
			e.Virtual, e.Real = at("[2001:db8::100]:80"), at("[2001:db8::5]:80")
		case 4:
			e.Real = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(n % 9)}), 80)
		}
		entries = append(entries, e)
	}
	return entries
}

// readFrames is what a session that was sent frames has its table take.
func readFrames(t *testing.T, frames []entryFrame) *memory {
	t.Helper()
	var said []byte
	for _, f := range frames {
		said = append(said, f.bytes...)
	}
	table := newMemory()
	s := newSession(fedConn{Reader: bytes.NewReader(said)}, table, nil, func() {})
	_ = s.read() // it ends with the bytes
	return table
}

// A peer of this release and one of the release before, which knows no batches, take
// the same of what they are told.
func TestBatchIsTakenAsItsEntries(t *testing.T) {
	want := someEntries(batchEntries + 500)
	for version := uint16(1); version <= protocolNow; version++ {
		frames, err := framesOf(BatchOf(want...), version)
		if err != nil {
			t.Fatal(err)
		}
		if isOfBatches := frames[0].bytes[0] == frameBatch; isOfBatches != (version >= protocolBatches) {
			t.Errorf("version %d: frames of type %d", version, frames[0].bytes[0])
		}
		table := readFrames(t, frames)
		if len(table.entries) != len(want) {
			t.Fatalf("version %d: %d entries of %d", version, len(table.entries), len(want))
		}
		for _, e := range want {
			if got := table.entries[e.Client]; fmt.Sprint(got) != fmt.Sprint(e) {
				t.Fatalf("version %d: %+v (%+v)", version, got, e)
			}
		}
	}
}

// Kinds that mean nothing here are left out with their members, and more behind
// what is known of a member is passed over.
func TestBatchOfALaterRelease(t *testing.T) {
	b := BatchOf(entryOf("172.16.0.1:1"), entryOf("172.16.0.2:2"))
	unknown := b.Kinds[0]
	unknown.Protocol = 250
	b.Members[0].Kind = b.AddKind(unknown)
	frames, err := batchFrames(b)
	if err != nil {
		t.Fatal(err)
	}
	body := frames[0].bytes[frameHeader:]
	members := len(body) - 2*memberLen4
	longer := append([]byte{}, body[:members]...)
	binary.BigEndian.PutUint16(longer[2:], memberLen+3)
	for at := members; at < len(body); at += memberLen4 {
		longer = append(append(longer, body[at:at+memberLen]...), 7, 7, 7)
		longer = append(longer, body[at+memberLen:at+memberLen4]...)
	}
	var got Batch
	if err := parseBatch(&got, longer); err != nil {
		t.Fatal(err)
	}
	if entries := got.Entries(); len(entries) != 1 || fmt.Sprint(entries[0]) != fmt.Sprint(entryOf("172.16.0.2:2")) {
		t.Errorf("%+v", entries)
	}
}

// A session with a peer of the release before: it is told of entries in frames
// that it knows.
func TestPeerThatKnowsNoBatches(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		_, _, _, _ = readFrame(theirs, nil)
		_ = writeFrame(theirs, frameHello, []byte{0, 1, 0, 1})
	}()
	version, err := greet(ours)
	if err != nil || version != 1 {
		t.Fatalf("version %d, %v", version, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := newSession(ours, newMemory("172.16.0.1:1"), func([]Digest) {}, func() {})
	s.version = version
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.run(ctx)
	}()
	for {
		kind, body, _, err := readFrame(theirs, nil)
		if err != nil {
			t.Fatal(err)
		}
		if kind == frameBatch {
			t.Fatal("a batch")
		}
		if kind == frameEntries {
			if entries, err := parseEntries(nil, body); err != nil || len(entries) != 1 {
				t.Errorf("%v, %v", entries, err)
			}
			break
		}
	}
	cancel()
	<-done
}

// Whatever a body of a batch holds, it is read within its bounds, and what is read
// can be told again.
func FuzzBatch(f *testing.F) {
	frames, err := batchFrames(BatchOf(someEntries(10)...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frames[0].bytes[frameHeader:])
	f.Add([]byte{0, 0, 0, memberLen})
	f.Add([]byte{0xff, 0xff, 0, memberLen, 1, 2, 3})
	f.Fuzz(func(t *testing.T, body []byte) {
		var b, again Batch
		if parseBatch(&b, body) != nil {
			return
		}
		if memberLen4*len(b.Members) > len(body) || len(b.Kinds)*recordLen4 > len(body) {
			t.Fatalf("%d kinds, %d members of %d bytes", len(b.Kinds), len(b.Members), len(body))
		}
		frames, err := batchFrames(&b)
		if err != nil {
			t.Fatal(err)
		}
		var got []Entry
		for _, frame := range frames {
			if err := parseBatch(&again, frame.bytes[frameHeader:]); err != nil {
				t.Fatal(err)
			}
			got = append(got, again.Entries()...)
		}
		if want := b.Entries(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%+v (%+v)", got, want)
		}
	})
}
