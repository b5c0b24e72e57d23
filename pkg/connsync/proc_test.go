package connsync

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadProc(t *testing.T) {
	const list = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP AC100001 03E9 0A000064 0050 0A000005 0050 ESTABLISHED     897
TCP AC100002 03EA 0A000064 0050 0A000004 0050 TIME_WAIT        12
UDP AC100004 03EC 0A000064 0035 0A000004 0035 UDP             300
IP  AC100006 0000 0000000A 0000 0A000005 0000 ASSURED         120
TCP AC100005 0000 0A000064 01BB 0A000004 01BB NONE             50
TCP 2001:0db8:0000:0000:0000:0000:0000:0007 03E9 2001:0db8:0000:0000:0000:0000:0000:0100 0050 2001:0db8:0000:0000:0000:0000:0000:0004 0050 FIN_WAIT 119
SCTP AC100004 03EC 0A000064 0035 0A000004 0035 COOKIE_WAIT    3
TCP AC100009 03EC 0A000064 0050 0A000004 0050 NEW_ONE         3
`
	got, skipped, err := ReadProc(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	want := []Listed{
		{Record{Protocol: 6, State: StateEstablished, Client: at("172.16.0.1:1001"), Virtual: at("10.0.0.100:80"), Real: at("10.0.0.5:80")}, 897 * time.Second},
		{Record{Protocol: 6, State: StateTimeWait, Client: at("172.16.0.2:1002"), Virtual: at("10.0.0.100:80"), Real: at("10.0.0.4:80")}, 12 * time.Second},
		{Record{Protocol: 17, Client: at("172.16.0.4:1004"), Virtual: at("10.0.0.100:53"), Real: at("10.0.0.4:53")}, 300 * time.Second},
		{Record{Flags: FlagTemplate, State: StateAssured, Client: at("172.16.0.6:0"), Virtual: at("0.0.0.10:0"), Real: at("10.0.0.5:0"), Mark: 10}, 120 * time.Second},
		{Record{Protocol: 6, Flags: FlagTemplate, Client: at("172.16.0.5:0"), Virtual: at("10.0.0.100:443"), Real: at("10.0.0.4:443")}, 50 * time.Second},
		{Record{Protocol: 6, State: StateFinWait, Client: at("[2001:db8::7]:1001"), Virtual: at("[2001:db8::100]:80"), Real: at("[2001:db8::4]:80")}, 119 * time.Second},
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if skipped != 2 {
		t.Errorf("%d lines skipped (2)", skipped)
	}
}

func TestReadProcNamesTheLine(t *testing.T) {
	head := "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
	for line, want := range map[string]string{
		"TCP AC100001 03E9": "line 2: 3 columns",
		"TCP nonsense 03E9 0A000064 0050 0A000005 0050 ESTABLISHED 897":    `line 2: address "nonsense"`,
		"TCP AC100001 hello 0A000064 0050 0A000005 0050 ESTABLISHED 897":   `line 2: port "hello"`,
		"TCP AC100001 03E9 0A000064 0050 0A000005 0050 ESTABLISHED soon":   `line 2: time left "soon"`,
		"TCP AC100001 03E9 0A000064 0050 0A000005 10050 ESTABLISHED 897":   `line 2: port "10050"`,
		"TCP AC100001 03E9 fe80::1%eth0 0050 0A000005 0050 ESTABLISHED 80": `line 2: address "fe80::1%eth0"`,
	} {
		if _, _, err := ReadProc(strings.NewReader(head + line)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v (%s)", line, err, want)
		}
	}
}

func FuzzReadProc(f *testing.F) {
	f.Add("TCP AC100001 03E9 0A000064 0050 0A000005 0050 ESTABLISHED     897\n")
	f.Add("IP  AC100006 0000 0000000A 0000 0A000005 0000 ASSURED         120\nTCP")
	f.Fuzz(func(t *testing.T, text string) {
		listed, _, _ := ReadProc(strings.NewReader(text))
		for _, l := range listed {
			if !l.isKnown() || !l.Client.IsValid() || !l.Real.IsValid() || l.Left < 0 {
				t.Errorf("%+v", l)
			}
		}
	})
}

// The template of a mark service has the mark where the format has no field for it.
func TestMarkOfVersion0(t *testing.T) {
	got, _, err := Parse(nil, unhex(t, "0107001c 0000 0000 0000 0000 ac100006 0000000a 0a000005 1183 0000"))
	want := []Record{{Flags: template, Client: at("172.16.0.6:0"), Virtual: at("0.0.0.10:0"), Real: at("10.0.0.5:0"), Mark: 10}}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" || err != nil {
		t.Errorf("records (-want +got):\n%s%v", diff, err)
	}
}
