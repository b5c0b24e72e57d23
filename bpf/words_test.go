package bpf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func number[T ~uint8 | ~uint16 | ~uint32](v T) uint64 { return uint64(v) }

func bit(is bool) uint64 {
	if is {
		return 1
	}
	return 0
}

// swapped undoes the network byte order of a port, so that bits stay bits.
func swapped(p uint16) uint64 { return uint64(PortWord(p)) }

// faces are the Go functions for the members of C's packed structs. Members
// that Go never reads are named with nil.
var faces = map[string]map[string]func(uint64) uint64{
	"flow_value": {
		"seen":       func(w uint64) uint64 { return number(FlowValue(w).Seen()) },
		"port":       func(w uint64) uint64 { return swapped(FlowValue(w).Port()) },
		"real":       func(w uint64) uint64 { return number(FlowValue(w).Real()) },
		"generation": func(w uint64) uint64 { return number(FlowValue(w).Generation()) },
		"nonce":      func(w uint64) uint64 { return number(FlowValue(w).Nonce()) },
		"state":      func(w uint64) uint64 { return number(FlowValue(w).Code()) },
	},
	"flow_key": {
		"client":      func(w uint64) uint64 { return number(IPv4Word(FlowKey(w).Client())) },
		"client_port": func(w uint64) uint64 { return swapped(FlowKey(w).ClientPort()) },
		"vip":         func(w uint64) uint64 { return number(FlowKey(w).VIP()) },
	},
	"template_value": {
		"expires":    func(w uint64) uint64 { return number(TemplateValue(w).Expires()) },
		"real":       func(w uint64) uint64 { return number(TemplateValue(w).Real()) },
		"generation": func(w uint64) uint64 { return number(TemplateValue(w).Generation()) },
		"nonce":      func(w uint64) uint64 { return number(TemplateValue(w).Nonce()) },
		"state":      func(w uint64) uint64 { return number(TemplateValue(w).State()) },
		"assured":    func(w uint64) uint64 { return bit(TemplateValue(w).IsAssured()) },
		"renewed":    func(w uint64) uint64 { return bit(TemplateValue(w).IsRenewed()) },
		"proven":     func(w uint64) uint64 { return bit(TemplateValue(w).IsProven()) },
		"spare":      nil,
	},
	"row_value": {
		"real":       func(w uint64) uint64 { return number(RowValue(w).Real()) },
		"settled":    func(w uint64) uint64 { return number(RowValue(w).Settled()) },
		"generation": func(w uint64) uint64 { return number(RowValue(w).Generation()) },
		"since":      func(w uint64) uint64 { return number(RowValue(w).Since()) },
		"state":      func(w uint64) uint64 { return number(RowValue(w).State()) },
		"spare":      nil,
	},
	"template_key": {
		"client":  func(w uint64) uint64 { return number(IPv4Word(TemplateKey(w).Client())) },
		"service": func(w uint64) uint64 { return number(TemplateKey(w).Service()) },
	},
}

// Go's shifts are C's: the bits of each member, and no others, are what its
// function gives.
func TestWordsAreCsBitFields(t *testing.T) {
	spec, err := LoadSpec()
	if err != nil {
		t.Fatal(err)
	}
	for name, face := range faces {
		var s *btf.Struct
		if err := spec.Types.TypeByName(name, &s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var members []string
		for _, m := range s.Members {
			members = append(members, m.Name)
			get, known := face[m.Name]
			if !known {
				t.Errorf("%s.%s has no function in Go", name, m.Name)
			}
			if get == nil {
				continue
			}
			width := uint32(m.BitfieldSize)
			if width == 0 {
				size, err := btf.Sizeof(m.Type)
				if err != nil {
					t.Fatal(err)
				}
				width = uint32(size) * 8
			}
			full := uint64(1)<<width - 1
			mask := full << m.Offset
			if got := get(mask); got != full {
				t.Errorf("%s.%s: all of its bits read as %#x, want %#x", name, m.Name, got, full)
			}
			if got := get(^mask); got != 0 {
				t.Errorf("%s.%s: the bits of the others read as %#x, want 0", name, m.Name, got)
			}
		}
		for m := range face {
			if !slices.Contains(members, m) {
				t.Errorf("%s.%s exists in Go only", name, m)
			}
		}
	}
}

func TestWordsAreMadeAsTheyAreRead(t *testing.T) {
	client := netip.MustParseAddr("192.0.2.7")
	k := FlowKeyOf(client, 40000, 0xabcd)
	if k.Client() != client || k.ClientPort() != 40000 || k.VIP() != 0xabcd {
		t.Errorf("flow key: %v %d %#x", k.Client(), k.ClientPort(), k.VIP())
	}
	tk := TemplateKeyOf(IPv4Word(client), 0xdeadbeef)
	if tk.Client() != client || tk.Service() != 0xdeadbeef {
		t.Errorf("template key: %v %#x", tk.Client(), tk.Service())
	}
	v := ^FlowValue(0)
	if e := v.Ended(); e.Nonce() != 0 || e.IsLive() || e.State() != StateEmpty {
		t.Errorf("ended flow: nonce %d, state %d", e.Nonce(), e.State())
	}
	tv := ^TemplateValue(0)
	if e := tv.Ended(); e.Nonce() != 0 || e.State() != 0 || e.IsAssured() || e.Expires() != 0 {
		t.Errorf("ended template: %#x", e)
	}
	tv = TemplateValue(100).Renewed(1<<24 + 60)
	if tv.Expires() != 60 || !tv.IsRenewed() || tv.Left(0) != 60 || tv.Left(61) != -1 {
		t.Errorf("renewed template: %#x, %d left", tv, tv.Left(0))
	}
	for _, a := range []string{"192.0.2.7", "2001:db8::7", "::"} {
		if got := AddressOf(netip.MustParseAddr(a)).Addr(); got.String() != a {
			t.Errorf("address %s comes back as %s", a, got)
		}
	}
}

func TestVerdictsHaveTexts(t *testing.T) {
	seen := map[string]bool{}
	for v := range Verdicts {
		if v.String() == "" || v.Meaning() == "" || seen[v.String()] {
			t.Errorf("verdict %d: name %q, meaning %q", v, v, v.Meaning())
		}
		seen[v.String()] = true
	}
	if Verdicts.Meaning() == "" || !strings.HasPrefix(Verdicts.String(), "verdict_") {
		t.Errorf("unknown verdict: %q, %q", Verdicts, Verdicts.Meaning())
	}
}

// The hash of two sets never names one set twice, whatever the number of sets.
func TestTwoSetsDiffer(t *testing.T) {
	for _, n := range []uint32{2, 256, 1000, 1048576} {
		for _, h := range []uint64{0, 1, ^uint64(0), 1<<63 | 1<<31, 7<<40 | 9} {
			s := TwoSets(h, n)
			if s[0] == s[1] || s[0] >= n || s[1] >= n {
				t.Errorf("hash %#x of %d sets: %v", h, n, s)
			}
		}
	}
}

// Proven is what the nibble says it is, and nothing that is no state of its own
// counts as live.
func TestCodesOfStates(t *testing.T) {
	proven := map[FlowState]FlowState{
		StateProvenEstablished: StateEstablished, StateProvenFinWait: StateFinWait, StateProvenUDP: StateUDP,
	}
	for code := range States {
		v := FlowValue(code) << 60
		state, is := proven[code]
		if !is {
			state = code
		}
		if v.Code() != code || v.IsProven() != is || v.State() != state {
			t.Errorf("code %d: code %d, proven %v, state %d; want proven %v, state %d", code, v.Code(), v.IsProven(), v.State(), is, state)
		}
		if v.IsLive() != (code != StateEmpty && code != StateBusy) {
			t.Errorf("code %d: live %v", code, v.IsLive())
		}
	}
}
