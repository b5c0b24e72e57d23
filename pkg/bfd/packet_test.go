package bfd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wire is a packet of a session that is up, field by field of RFC 5880 section
// 4.1.
const wire = "20" + "e0" + "03" + "18" + "0000000a" + "0000000b" + "00002710" + "000186a0" + "00000000"

var onWire = Packet{
	State: Up, Poll: true, Multiplier: 3, MyDiscriminator: 10, YourDiscriminator: 11,
	DesiredMinTx: 10 * time.Millisecond, RequiredMinRx: 100 * time.Millisecond,
}

func TestPacketOnWire(t *testing.T) {
	got, err := Parse(unhex(t, wire))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(onWire, got); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	if b := onWire.Append(nil); hex.EncodeToString(b) != wire {
		t.Errorf("appended %x, want %s", b, wire)
	}
}

func TestParseDiscards(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   error
	}{
		{"nothing", func([]byte) []byte { return nil }, ErrShort},
		{"23 bytes", func(b []byte) []byte { return b[:23] }, ErrShort},
		{"version 0", func(b []byte) []byte { b[0] = 0; return b }, ErrVersion},
		{"version 2", func(b []byte) []byte { b[0] = 0x40; return b }, ErrVersion},
		{"length below a header", func(b []byte) []byte { b[3] = 23; return b }, ErrLength},
		{"length beyond the datagram", func(b []byte) []byte { b[3] = 25; return b }, ErrLength},
		{"multiplier 0", func(b []byte) []byte { b[2] = 0; return b }, ErrMultiplier},
		{"multipoint", func(b []byte) []byte { b[1] |= flagMultipoint; return b }, ErrMultipoint},
		{"no discriminator", func(b []byte) []byte { clear(b[4:8]); return b }, ErrDiscriminator},
		{"up without the other discriminator", func(b []byte) []byte { clear(b[8:12]); return b }, ErrState},
		{"init without the other discriminator", func(b []byte) []byte { clear(b[8:12]); b[1] = 0x80; return b }, ErrState},
		{"down without the other discriminator", func(b []byte) []byte { clear(b[8:12]); b[1] = 0x40; return b }, nil},
		{"admin down without the other discriminator", func(b []byte) []byte { clear(b[8:12]); b[1] = 0; return b }, nil},
		{"authenticated", func(b []byte) []byte { b[1] |= flagAuthentication; return b }, ErrAuthenticated},
		{"poll and final", func(b []byte) []byte { b[1] |= flagFinal; return b }, ErrPollAndFinal},
		{"more than its length", func(b []byte) []byte { return append(b, 1, 2, 3) }, nil},
	} {
		if _, err := Parse(c.change(unhex(t, wire))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, wire))
	f.Add(unhex(f, "274003180000000a00000000000f4240000f424000000000"))
	f.Add(unhex(f, "20c403340000000a0000000b000f4240000f424000000000"+"0204010000000001"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			var r Reason
			if !errors.As(err, &r) {
				t.Fatalf("error %v is no Reason", err)
			}
			return
		}
		again := p.Append(nil)
		if want := bytes.Clone(b[:packetLen]); !bytes.Equal(again[4:], want[4:]) || again[0] != want[0] || again[1] != want[1] || again[2] != want[2] {
			t.Fatalf("%x came back as %x", want, again)
		}
		if q, err := Parse(again); err != nil || q != p {
			t.Fatalf("%+v came back as %+v, %v", p, q, err)
		}
		_, _ = p.State.String(), p.Diagnostic.String()
	})
}

func TestWords(t *testing.T) {
	for d, want := range map[Diagnostic]string{
		NoDiagnostic: "no diagnostic", NeighborSignaledDown: "neighbour signaled session down",
		AdministrativelyDown: "administratively down", 8: "reverse concatenated path down", 9: "unassigned diagnostic",
	} {
		if d.String() != want {
			t.Errorf("diagnostic %d: %q, want %q", uint8(d), d, want)
		}
	}
}
