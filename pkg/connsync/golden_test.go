package connsync

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareAddrs = cmpopts.EquateComparable(netip.AddrPort{})

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Flags that a master sends for direct routing.
const (
	active   = ForwardRoute | FlagNoOutput
	inactive = active | FlagInactive
	template = inactive | FlagTemplate
)

// captured is what a Linux 6.1 master put on the wire; the VIP is 10.0.0.100.
var captured = []struct {
	name   string
	hex    string
	header Header
	want   []Record
}{
	{
		"TCP, its third packet",
		"0007002c01010000 00060024 00000083 0001 03e9 0050 0050 00000000 00000384 ac100001 0a000064 0a000005",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: active, State: StateEstablished, Timeout: 900 * time.Second,
			Client: at("172.16.0.1:1001"), Virtual: at("10.0.0.100:80"), Real: at("10.0.0.5:80"),
		}},
	},
	{
		"TCP after a FIN",
		"0007002c01010000 00060024 00000183 0004 03e9 0050 0050 00000000 00000078 ac100001 0a000064 0a000005",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: inactive, State: StateFinWait, Timeout: 120 * time.Second,
			Client: at("172.16.0.1:1001"), Virtual: at("10.0.0.100:80"), Real: at("10.0.0.5:80"),
		}},
	},
	{
		"TCP: SYN, ACK, RST",
		"0007002c01010000 00060024 00000183 0006 03ea 0050 0050 00000000 0000000a ac100002 0a000064 0a000004",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: inactive, State: StateClose, Timeout: 10 * time.Second,
			Client: at("172.16.0.2:1002"), Virtual: at("10.0.0.100:80"), Real: at("10.0.0.4:80"),
		}},
	},
	{
		"UDP, its third packet",
		"0007002c01010000 00110024 00000183 0000 03ec 0035 0035 00000000 0000012c ac100004 0a000064 0a000004",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolUDP, Flags: inactive, Timeout: 300 * time.Second,
			Client: at("172.16.0.4:1004"), Virtual: at("10.0.0.100:53"), Real: at("10.0.0.4:53"),
		}},
	},
	{
		"template of a persistent port",
		"0007002c01010000 00060024 00001183 0000 0000 01bb 01bb 00000000 0000012c ac100005 0a000064 0a000004",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: template, Timeout: 300 * time.Second,
			Client: at("172.16.0.5:0"), Virtual: at("10.0.0.100:443"), Real: at("10.0.0.4:443"),
		}},
	},
	{
		"template of a mark: its address is the mark",
		"0007002c01010000 00000024 00001183 0000 0000 0000 0000 0000000a 00000078 ac100006 0000000a 0a000005",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolNone, Flags: template, Mark: 10, Timeout: 120 * time.Second,
			Client: at("172.16.0.6:0"), Virtual: at("0.0.0.10:0"), Real: at("10.0.0.5:0"),
		}},
	},
	{
		"connection of a mark",
		"0007002c01010000 00060024 00000083 0001 03ee 2328 2328 0000000a 00000384 ac100006 0a000064 0a000005",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: active, State: StateEstablished, Mark: 10, Timeout: 900 * time.Second,
			Client: at("172.16.0.6:1006"), Virtual: at("10.0.0.100:9000"), Real: at("10.0.0.5:9000"),
		}},
	},
	{
		"template of a network of clients",
		"0007002c01010000 00060024 00001183 0000 0000 1f40 1f40 00000000 00000064 ac100000 0a000064 0a000004",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: template, Timeout: 100 * time.Second,
			Client: at("172.16.0.0:0"), Virtual: at("10.0.0.100:8000"), Real: at("10.0.0.4:8000"),
		}},
	},
	{
		"template of every port",
		"0007002c01010000 00060024 00001183 0000 0000 0000 0000 00000000 00000032 ac100008 0a000064 0a000005",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: template, Timeout: 50 * time.Second,
			Client: at("172.16.0.8:0"), Virtual: at("10.0.0.100:0"), Real: at("10.0.0.5:0"),
		}},
	},
	{
		"IPv6 template",
		"0007005001010000 0106 0048 00001183 0000 0000 0050 0050 00000000 0000003c" +
			"20010db8000000000000000000000007 20010db8000000000000000000000100 20010db8000000000000000000000004",
		Header{Version: 1, SyncID: 7, Count: 1},
		[]Record{{
			Protocol: ProtocolTCP, Flags: template, Timeout: 60 * time.Second,
			Client: at("[2001:db8::7]:0"), Virtual: at("[2001:db8::100]:80"), Real: at("[2001:db8::4]:80"),
		}},
	},
	{
		"version 0: a connection and its template",
		"02070034 0006 03f3 01bb 01bb ac10000b 0a000064 0a000004 0083 0001" +
			"0006 0000 01bb 01bb ac10000b 0a000064 0a000004 1183 0001",
		Header{Version: 0, SyncID: 7, Count: 2},
		[]Record{
			{
				Protocol: ProtocolTCP, Flags: active, State: StateEstablished,
				Client: at("172.16.0.11:1011"), Virtual: at("10.0.0.100:443"), Real: at("10.0.0.4:443"),
			},
			{
				Protocol: ProtocolTCP, Flags: template, State: StateAssured,
				Client: at("172.16.0.11:0"), Virtual: at("10.0.0.100:443"), Real: at("10.0.0.4:443"),
			},
		},
	},
}

func TestCapturedDatagrams(t *testing.T) {
	for _, c := range captured {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.hex)
			got, header, err := Parse(nil, b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, compareAddrs); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			if header != c.header {
				t.Errorf("header %+v (%+v)", header, c.header)
			}
			if again := pack(t, header, got); hex.EncodeToString(again) != hex.EncodeToString(b) {
				t.Errorf("packed again\n%x\nwant\n%x", again, b)
			}
		})
	}
}

// pack makes one datagram of records.
func pack(t testing.TB, h Header, records []Record) []byte {
	t.Helper()
	p, err := NewPacker(h.Version, h.SyncID, MaxMaxLen)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		full, err := p.Add(r)
		if err != nil {
			t.Fatal(err)
		}
		if full != nil {
			t.Fatalf("records do not fit %d bytes", MaxMaxLen)
		}
	}
	return p.Flush()
}
