package bgp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// The types of messages (RFC 4271 section 4.1).
const (
	openMessage      = 1
	updateMessage    = 2
	keepaliveMessage = 4
)

const hostileASN = 65001

// message is one with its header.
func message(kind uint8, body ...byte) []byte {
	b := bytes.Repeat([]byte{0xff}, 16)
	b = binary.BigEndian.AppendUint16(b, uint16(19+len(body)))
	return append(append(b, kind), body...)
}

// openOfRouter asks for IPv4 and IPv6 unicast and AS numbers of four bytes.
func openOfRouter() []byte {
	return message(openMessage, 4, hostileASN>>8, hostileASN&0xff, 0, 90, 172, 25, 0, 12,
		20, 2, 18, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4, 0, 0, hostileASN>>8, hostileASN&0xff)
}

// soundUpdates are UPDATEs as a router sends them: one route with attributes of
// many kinds, one of IPv6, and a withdrawal of a VIP that is not its own.
func soundUpdates() [][]byte {
	update := func(withdrawn, attributes, routes []byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
		b = binary.BigEndian.AppendUint16(append(b, withdrawn...), uint16(len(attributes)))
		return message(updateMessage, append(append(b, attributes...), routes...)...)
	}
	attributes := []byte{
		0x40, 1, 1, 0, // ORIGIN
		0x40, 2, 6, 2, 1, 0, 0, hostileASN >> 8, hostileASN & 0xff, // AS_PATH
		0x40, 3, 4, 172, 25, 0, 12, // NEXT_HOP
		0x80, 4, 4, 0, 0, 0, 1, // MULTI_EXIT_DISC
		0xc0, 7, 8, 0, 0, 0xfd, 0xe9, 172, 25, 0, 12, // AGGREGATOR
		0xc0, 8, 8, 0xff, 0xff, 0, 0, 0xfd, 0xe9, 0, 1, // COMMUNITIES
		0xc0, 16, 8, 0, 2, 0xfd, 0xe9, 0, 0, 0, 1, // EXTENDED COMMUNITIES
		0xc0, 32, 12, 0, 0, 0xfd, 0xe9, 0, 0, 0, 1, 0, 0, 0, 2, // LARGE COMMUNITY
	}
	reach := append([]byte{0x80, 14, 30, 0, 2, 1, 16}, netip.MustParseAddr("fd00::12").AsSlice()...)
	reach = append(reach, 0, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 1) // MP_REACH_NLRI
	return [][]byte{
		update(nil, attributes, []byte{24, 198, 51, 100}),
		update(nil, append(bytes.Clone(attributes[:13]), reach...), nil),
		update(append([]byte{32}, vip.AsSlice()...), nil, nil),
	}
}

// spoil changes an UPDATE. Most are spoilt within: a session ends at a header
// that is wrong.
func spoil(rnd *rand.Rand, sound []byte) []byte {
	b := bytes.Clone(sound)
	for range 1 + rnd.IntN(4) {
		b[19+rnd.IntN(len(b)-19)] = byte(rnd.IntN(256))
	}
	switch rnd.IntN(40) {
	case 0: // the header lies about the length
		binary.BigEndian.PutUint16(b[16:], uint16(rnd.IntN(1<<16)))
	case 1:
		b[18] = byte(rnd.IntN(256)) // of another type
	case 2:
		b[rnd.IntN(16)] = 0 // the marker
	case 3, 4, 5, 6:
		b = b[:19+rnd.IntN(len(b)-19)] // cut off
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
	}
	return b
}

// hostileRouter begins sessions with whoever connects, and spoils each with up
// to so many UPDATEs.
func hostileRouter(l net.Listener, sessions, updates int) (sent int, err error) {
	rnd, sound := rand.New(rand.NewPCG(3, 4)), soundUpdates()
	for range sessions {
		conn, err := l.Accept()
		if err != nil {
			return sent, err
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		for _, m := range [][]byte{openOfRouter(), message(keepaliveMessage)} {
			if _, err := conn.Write(m); err != nil {
				return sent, err
			}
		}
		if err := awaitMessage(conn, keepaliveMessage); err != nil {
			return sent, err
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for _, m := range sound {
			_, _ = conn.Write(m)
		}
		for range updates {
			if _, err := conn.Write(spoil(rnd, sound[rnd.IntN(len(sound))])); err != nil {
				break // the director has ended the session
			}
			sent++
		}
		_ = conn.Close()
	}
	return sent, nil
}

// awaitMessage reads messages until one of a type comes.
func awaitMessage(conn net.Conn, kind uint8) error {
	for {
		var header [19]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return err
		}
		length := binary.BigEndian.Uint16(header[16:])
		if length < 19 {
			return errors.New("a message shorter than its header")
		}
		if _, err := io.CopyN(io.Discard, conn, int64(length)-19); err != nil {
			return err
		}
		if header[18] == kind {
			return nil
		}
	}
}

// A router whose UPDATEs are malformed does no harm: the speaker lives, learns
// nothing, and its session with another router, and what is announced there,
// stand all the time.
func TestMalformedUpdatesDoNoHarm(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, "")
	listener, err := l.Host("r1").Listen("tcp", "172.25.0.12:179")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	d := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.Peers = append(c.Peers, Peer{Address: netip.MustParseAddr("172.25.0.12"), ASN: hostileASN})
	})
	d.announce(Route{Addr: vip})
	l.eventually("announced", func() bool { return l.routes(vip) != "" && d.status().IsUp })
	since := d.status().Since
	table := func() string {
		out, err := l.Host("d1").Run(t.Context(), "ip", "route", "show", "table", "all")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := table()

	const sessions = 4
	sent, err := hostileRouter(listener, sessions, 2000)
	if err != nil {
		t.Fatalf("after %d UPDATEs: %v\n%s", sent, err, d.Output())
	}
	t.Logf("%d malformed UPDATEs in %d sessions", sent, sessions)
	if sent < sessions {
		t.Errorf("%d malformed UPDATEs were sent", sent)
	}
	select {
	case <-d.Done():
		t.Fatalf("the speaker has ended:\n%s", d.Output())
	default:
	}
	if after := table(); after != before {
		t.Errorf("routes of the director were\n%s\nand are\n%s", before, after)
	}
	if st := d.status(); !st.IsUp || !st.Since.Equal(since) {
		t.Errorf("the session with the other router stood since %s, now: %+v", since, st)
	}
	if r := l.routes(vip); !strings.Contains(r, "172.25.0.11") {
		t.Errorf("the other router sends to %q", r)
	}
}

// FuzzUpdate has the library read what a router sends as an UPDATE, as it does in a
// session: it takes each for granted whose error is not one of a message, and ends
// the process.
func FuzzUpdate(f *testing.F) {
	for _, m := range soundUpdates() {
		f.Add(m[19:])
	}
	families := map[wire.Family]wire.BGPAddPathMode{wire.RF_IPv4_UC: wire.BGP_ADD_PATH_NONE, wire.RF_IPv6_UC: wire.BGP_ADD_PATH_NONE}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 65535-19 {
			return
		}
		header := &wire.BGPHeader{Type: wire.BGP_MSG_UPDATE, Len: uint16(19 + len(body))}
		m, err := wire.ParseBGPBody(header, body, &wire.MarshallingOption{AddPath: families, ExtendedMessage: true})
		if m != nil && err == nil {
			_, err = wire.ValidateUpdateMsg(m.Body.(*wire.BGPUpdate), families, true, false, false)
		}
		if _, is := err.(*wire.MessageError); m != nil && err != nil && !is {
			t.Fatalf("%T: %v", err, err)
		}
	})
}
