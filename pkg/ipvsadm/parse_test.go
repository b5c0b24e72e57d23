package ipvsadm

import (
	"net/netip"
	"strings"
	"testing"
)

// ipvsadm 1.31 crashes when there is no flag between the commas.
func TestNoSchedulerFlag(t *testing.T) {
	_, fail := Parse("ipvsadm", strings.Fields("-A -t 10.0.0.100:80 -s sh -b ,"), fixedHost{})
	if fail == nil || fail.Text != "invalid scheduler flag `'" || fail.Status != 2 {
		t.Errorf("got %+v", fail)
	}
}

// Numbers as inet_aton(3) reads them.
func TestParseIPv4(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "10.1": "10.0.0.1", "10.1.2": "10.1.0.2", "24": "0.0.0.24", "0x7f000001": "127.0.0.1",
		"010.0.0.1": "8.0.0.1", "0": "0.0.0.0", "10.0.0.1 rest": "10.0.0.1", "4294967295": "255.255.255.255",
		"": "", "10.0.0.256": "", "256.0.0.1": "", "10.65536.1": "", "10.0.65536": "", "1.2.3.4.5": "", "0x": "", "08": "", "-1": "", "1.": "",
		"4294967296": "", "1.2.3.4x": "",
	} {
		got, ok := parseIPv4(text)
		if ok != (want != "") || ok && got != netip.MustParseAddr(want) {
			t.Errorf("%q: %v %v, want %q", text, got, ok, want)
		}
	}
}

// A host that is named is looked up, for services, servers and masks.
func TestHostNames(t *testing.T) {
	h := namedHost{}
	c, fail := Parse("ipvsadm", strings.Fields("-a -t vip.example:80 -r rs1.example -m"), h)
	if fail != nil {
		t.Fatal(fail)
	}
	if c.Key.Addr.String() != "192.0.2.1" || c.Server.Addr.String() != "192.0.2.1" || c.Server.Port != 80 {
		t.Errorf("got %+v", c)
	}
}

type namedHost struct{ fixedHost }

func (namedHost) Addr(name string) (netip.Addr, bool) {
	return netip.MustParseAddr("192.0.2.1"), strings.HasSuffix(name, ".example")
}
