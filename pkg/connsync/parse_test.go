package connsync

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// good is one IPv4 record of version 1, without the datagram's header.
const good = "00060024 00000083 0001 03e9 0050 0050 00000000 00000384 ac100001 0a000064 0a000005"

// What a kernel does with each was read in ip_vs_process_message and
// ip_vs_proc_sync_conn: an error loses the rest of the datagram, what is only
// unknown loses one record.
func TestParseJudgesAsTheKernel(t *testing.T) {
	tests := []struct {
		name    string
		hex     string
		records int
		skipped int
		err     string // "" for none
	}{
		{"no header", "0007", 0, 0, "datagram of 2 bytes"},
		{"wrong size", "0007002d01010000" + good, 0, 0, "says it has 45"},
		{"no record", "0007000800010000", 0, 0, ""},
		{"one record less than counted", "0007002c02010000" + good, 1, 0, "record 1 at byte 44: 0 bytes left"},
		{"cut record", "0007002801010000" + good[:len(good)-8], 0, 0, "32 bytes left"},
		{"unknown type", "0007005001010000" + "02" + good[2:] + strings.Repeat("00", 36), 0, 0, "type 2"},
		{"record of another version", "0007002c01010000 00061024" + good[8:], 0, 0, "record version 1"},
		{"length below the least", "0007002c01010000 00060020" + good[8:], 0, 0, "length 32"},
		{"length beyond the datagram", "0007002c01010000 00060028" + good[8:], 0, 0, "length 40"},
		{"unknown protocol between two", "0007007403010000" + good + "002f" + good[4:] + good, 2, 1, ""},
		{"unknown state between two", "0007007403010000" + good + strings.Replace(good, "0001 03e9", "000b 03e9", 1) + good, 2, 1, ""},
		{"option that must be known", "0007005402010000 00060028" + good[8:] + "09020000" + good, 1, 1, ""},
		{"option that may be ignored", "0007005402010000 00060028" + good[8:] + "49020000" + good, 2, 0, ""},
		{"empty option", "0007003001010000 00060028" + good[8:] + "42000000", 0, 0, "option that does not fit"},
		{"option beyond its record", "0007003001010000 00060028" + good[8:] + "42030000", 0, 0, "option that does not fit"},
		{"short sequence numbers", "0007003001010000 00060028" + good[8:] + "01020000", 0, 0, "sequence numbers of 2 bytes"},
		{"padding between records", "0007005402010000 00060027" + good[8:] + "42010000" + good, 2, 0, ""},
		{"byte 6 set: read as version 0", "0007002c01010100" + good, 0, 0, ""},
		{"version 0 cut", "01070018 0006 03f3 01bb 01bb ac10000b 0a000064 0a000004", 0, 0, "20 bytes left"},
		{"version 0 with sequence numbers", "01070034 0006 03f3 01bb 01bb ac10000b 0a000064 0a000004 0283 0001" + strings.Repeat("00", 24), 1, 0, ""},
		{"version 0 without its sequence numbers", "0107001c 0006 03f3 01bb 01bb ac10000b 0a000064 0a000004 0283 0001", 0, 0, "24 bytes left (48)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, header, err := Parse(nil, unhex(t, test.hex))
			if len(got) != test.records || header.Skipped != test.skipped {
				t.Errorf("%d records, %d skipped (%d, %d)", len(got), header.Skipped, test.records, test.skipped)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v (%q)", err, test.err)
			}
		})
	}
}

// Flags that are the receiver's own matter do not come from the wire.
func TestParseTakesNoReceiversFlags(t *testing.T) {
	b := unhex(t, "0007002c01010000 00060024 ffffffff"+good[17:])
	got, _, err := Parse(nil, b)
	if err != nil || len(got) != 1 || got[0].Flags != wireFlags {
		t.Errorf("%+v, %v (flags %#x)", got, err, wireFlags)
	}
}

// drawRecord draws a record that version can carry.
func drawRecord(t *rapid.T, version uint8) Record {
	size := 4
	if version == 1 && rapid.Bool().Draw(t, "v6") {
		size = 16
	}
	addr := func(label string) netip.AddrPort {
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, label))
		return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, label+" port"))
	}
	r := Record{
		Protocol: rapid.SampledFrom([]uint8{ProtocolTCP, ProtocolUDP, ProtocolSCTP}).Draw(t, "protocol"),
		Flags:    Flags(rapid.Uint32().Draw(t, "flags")) & wireFlags,
		Client:   addr("client"), Virtual: addr("virtual"), Real: addr("real"),
	}
	r.State = State(rapid.IntRange(0, int(stateCount(r.Protocol))-1).Draw(t, "state"))
	if version == 0 {
		r.Flags &^= FlagSequence
		return r
	}
	r.Mark = rapid.Uint32().Draw(t, "mark")
	r.Timeout = time.Duration(rapid.Uint32().Draw(t, "timeout")) * time.Second
	if rapid.Bool().Draw(t, "has option") {
		r.Options = []Option{{Type: OptionPEData, Data: rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(t, "option")}}
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := uint8(rapid.IntRange(0, 1).Draw(t, "version"))
		p, err := NewPacker(version, 9, rapid.IntRange(200, 1472).Draw(t, "longest"))
		if err != nil {
			t.Fatal(err)
		}
		var want, got []Record
		read := func(b []byte) {
			if b == nil {
				return
			}
			var h Header
			if got, h, err = Parse(got, b); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			if len(b) > p.maxLen || h.Version != version || h.SyncID != 9 {
				t.Fatalf("%d bytes, %+v", len(b), h)
			}
		}
		for range rapid.IntRange(1, 80).Draw(t, "records") {
			r := drawRecord(t, version)
			full, err := p.Add(r)
			if err != nil {
				t.Fatal(err)
			}
			read(full)
			want = append(want, r)
		}
		read(p.Flush())
		if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
			t.Fatalf("records (-want +got):\n%s", diff)
		}
	})
}

// A datagram of the default length holds 40 records of IPv4, 20 of IPv6 and 61
// of version 0, as the kernel's.
func TestRecordsPerDatagram(t *testing.T) {
	v4 := captured[0].want[0]
	v6 := captured[9].want[0]
	for _, test := range []struct {
		version uint8
		record  Record
		want    int
	}{{1, v4, 40}, {1, v6, 20}, {0, v4, 61}} {
		p, err := NewPacker(test.version, 1, DefaultMaxLen)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			full, err := p.Add(test.record)
			if err != nil {
				t.Fatal(err)
			}
			if full != nil {
				break
			}
			n++
		}
		if n != test.want {
			t.Errorf("version %d, %s: %d records in a datagram (%d)", test.version, test.record.Client, n, test.want)
		}
	}
}

func TestPackerRefuses(t *testing.T) {
	good := captured[0].want[0]
	change := func(f func(*Record)) Record {
		r := good
		f(&r)
		return r
	}
	for _, test := range []struct {
		name    string
		version uint8
		record  Record
		err     string
	}{
		{"two families", 1, change(func(r *Record) { r.Real = at("[2001:db8::1]:80") }), "one family"},
		{"no address", 1, Record{}, "one family"},
		{"timeout beyond 32 bits", 1, change(func(r *Record) { r.Timeout = MaxTimeout + time.Second }), "timeout"},
		{"empty option", 1, change(func(r *Record) { r.Options = []Option{{Type: 2}} }), "option 2 of 0 bytes"},
		{"longer than a datagram", 1, change(func(r *Record) { r.Options = []Option{{Type: 2, Data: make([]byte, 255)}} }), "datagrams of 128"},
		{"IPv6 in version 0", 0, captured[9].want[0], "IPv6 record"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := NewPacker(test.version, 1, MinMaxLen)
			if err != nil {
				t.Fatal(err)
			}
			full, err := p.Add(test.record)
			if err == nil || !strings.Contains(err.Error(), test.err) || full != nil || p.Flush() != nil {
				t.Errorf("%x, %v (%q)", full, err, test.err)
			}
		})
	}
	if _, err := NewPacker(2, 1, DefaultMaxLen); err == nil {
		t.Error("version 2 is accepted")
	}
	if _, err := NewPacker(1, 1, MaxMaxLen+1); err == nil {
		t.Error("a datagram longer than UDP carries is accepted")
	}
}

// Whatever is read can be written again, and reads the same.
func FuzzParse(f *testing.F) {
	for _, c := range captured {
		f.Add(unhex(f, c.hex))
	}
	f.Add(unhex(f, "0007005402010000 00060027"+good[8:]+"42010000"+good)) // padding between records
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, header, _ := Parse(nil, b)
		for _, r := range records {
			again, _, err := Parse(nil, pack(t, header, []Record{r}))
			if err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
			if diff := cmp.Diff([]Record{r}, again, compareAddrs); diff != "" {
				t.Fatalf("read again (-first +second):\n%s", diff)
			}
		}
	})
}
