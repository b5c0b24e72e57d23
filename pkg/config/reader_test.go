package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// fileOf is a file of n services.
func fileOf(n int) string {
	var b strings.Builder
	b.WriteString("interface: eth0\n# the services\nservices:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: service-%d\n    listen: [\"192.0.2.%d:80/tcp\", \"192.0.2.%d:443/tcp\"]\n    scheduler: wrr\n", i, i+1, i+1)
		fmt.Fprintf(&b, "    check: {type: tcp}\n    reals:\n      - {address: 198.51.100.1, weight: 1}\n      - {address: 198.51.100.2, weight: 1}\n\n")
	}
	b.WriteString("vrrp:\n  - {name: VI_1, virtual_router_id: 51, addresses: 192.0.2.1}\n")
	return b.String()
}

// reread reads one text after another with one Reader, and compares the second
// reading with that of a reader that knows nothing.
func reread(t testing.TB, before, after string) (short bool) {
	t.Helper()
	r := &Reader{}
	cfg, err := Parse("lvx.yaml", []byte(before))
	if err != nil {
		t.Fatal(err)
	}
	r.path, r.text, r.cfg, r.flat = "lvx.yaml", []byte(before), cfg, flat([]byte(before))
	got := r.again("lvx.yaml", []byte(after))
	if got == nil {
		return false
	}
	want, err := Parse("lvx.yaml", []byte(after))
	if err != nil {
		t.Fatalf("a mistake was overlooked: %v\n%s", err, after)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Fatalf("(-want +got)\n%s\n%s", diff, after)
	}
	return true
}

func TestReaderReadsOneServiceAgain(t *testing.T) {
	text := fileOf(9)
	in := func(service int, old, new string) string {
		at := strings.Index(text, fmt.Sprintf("name: service-%d\n", service))
		return text[:at] + strings.Replace(text[at:], old, new, 1)
	}
	for name, after := range map[string]string{
		"weight":       in(3, "weight: 1", "weight: 2"),
		"first":        in(0, "weight: 1", "weight: 2"),
		"longer":       in(4, "weight: 1", "weight: 1000"),
		"a real more":  in(5, "    reals:\n", "    reals:\n      - {address: 198.51.100.3}\n"),
		"a real less":  in(5, "      - {address: 198.51.100.2, weight: 1}\n", ""),
		"a comment":    in(6, "    scheduler", "      # odd\n    scheduler"),
		"a key more":   in(2, "    scheduler", "    quorum: 2\n    scheduler"),
		"the same":     in(7, "weight: 1}", "weight: 1 }"),
		"another kind": in(1, "scheduler: wrr", "scheduler: sh"),
	} {
		if !reread(t, text, after) {
			t.Errorf("%s: all was read again", name)
		}
	}
	for name, after := range map[string]string{
		"nothing":         text,
		"a VIP as a real": in(3, "address: 198.51.100.1,", "address: 192.0.2.7,"),
		"its own VIP":     in(3, "address: 198.51.100.1,", "address: 192.0.2.4,"),
		"two services":    strings.Replace(in(3, "weight: 1", "weight: 2"), "type: tcp", "type: http", 1),
		"name":            in(3, "service-3", "service-4"),
		"listener":        in(3, "192.0.2.4:80", "192.0.2.5:80"),
		"before services": strings.Replace(text, "eth0", "eth1", 1),
		"after services":  strings.Replace(text, "router_id: 51", "router_id: 52", 1),
		"last":            in(8, "weight: 1", "weight: 2"),
		"mistake":         in(3, "weight: 1", "weight: -1"),
		"indentation":     in(3, "    scheduler", "   scheduler"),
		"a service more":  in(3, "name: service-3\n", "name: x\n    listen: 192.0.2.77:80/tcp\n    reals: []\n  - name: service-3\n"),
		"an anchor":       in(3, "{address", "&x {address"),
		"quotes open":     in(3, "wrr", "\"wrr"),
		"brackets open":   in(3, "443/tcp\"]", "443/tcp\""),
	} {
		if reread(t, text, after) {
			t.Errorf("%s: only one service was read", name)
		}
	}
}

// What the rest of the file says about a service holds for one that is read alone.
func TestReaderKeepsToTheRestOfTheFile(t *testing.T) {
	for name, c := range map[string]struct{ rest, old, new string }{
		"a session that is not there": {"", "type: tcp", "type: bfd, bfd: web12"},
		"another session":             {"bfd: {name: web13, neighbour: 192.0.2.13}\n", "type: tcp", "type: bfd, bfd: web12"},
		"a family that sync leaves out": {
			"sync: {syncid: 51}\n", "198.51.100.2, weight: 1", "\"2001:db8::2\", forward: ipip",
		},
		"a tunnel that outer_source leaves out": {
			"outer_source: 203.0.113.1\n", "198.51.100.2, weight: 1", "198.51.100.2, forward: gue, tunnel: {checksum: csum}",
		},
		"a scheduler that binds to a director": {
			"bgp: {asn: 65010, peers: {address: 192.0.2.254, asn: 65000}}\nsloppy_tcp: true\n", "scheduler: mh", "scheduler: wrr",
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := c.rest + strings.ReplaceAll(fileOf(5), "wrr", "mh")
			at := strings.Index(text, "name: service-3\n")
			after := text[:at] + strings.Replace(text[at:], c.old, c.new, 1)
			if reread(t, text, after) || after == text {
				t.Error("only one service was read")
			}
		})
	}
	text := "bfd: {name: web12, neighbour: 192.0.2.12}\n" + fileOf(5)
	if !reread(t, text, strings.Replace(text, "type: tcp", "type: bfd, bfd: web12", 1)) {
		t.Error("a session that is there: all was read again")
	}
}

// Whatever is changed, a reader that remembers says what one that does not
// would.
func TestReaderProperties(t *testing.T) {
	text := fileOf(5)
	pieces := []string{"", " ", "\n", "-", "  - ", "#", "\"", "[", "}", ":", "2", "name", "    quorum: 2\n", "\t", "&a", "---\n", "\n  - name: z\n"}
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		removed := rapid.IntRange(0, min(12, len(text)-at)).Draw(t, "gone")
		piece := rapid.SampledFrom(pieces).Draw(t, "piece")
		if i := strings.Index(text[at:], "weight: 1"); i >= 0 && rapid.Bool().Draw(t, "a weight") {
			at, removed = at+i+len("weight: "), 1
			piece = rapid.SampledFrom([]string{"2", "0", "100", "2, port: 80", "-1", "2}\n      - {address: 198.51.100.9"}).Draw(t, "weight")
		}
		after := text[:at] + piece + text[at+removed:]
		r := &Reader{path: "f", text: []byte(text), flat: true}
		var err error
		if r.cfg, err = Parse("f", r.text); err != nil {
			t.Fatal(err)
		}
		got := r.again("f", []byte(after))
		if got == nil {
			return
		}
		taken++
		want, err := Parse("f", []byte(after))
		if err != nil {
			t.Fatalf("a mistake was overlooked: %v", err)
		}
		if a, b := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got); a != b {
			t.Fatalf("want %s\ngot  %s", a, b)
		}
	})
	if taken == 0 {
		t.Error("every change had the whole file read: nothing was tested")
	}
}

func TestPrefixAndSuffix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head, tail := rapid.IntRange(0, 2*block+3).Draw(t, "head"), rapid.IntRange(0, 2*block+3).Draw(t, "tail")
		a := append(append(bytes.Repeat([]byte("x"), head), "123"...), bytes.Repeat([]byte("y"), tail)...)
		b := append(append(bytes.Repeat([]byte("x"), head), "45"...), bytes.Repeat([]byte("y"), tail)...)
		if n := prefix(a, b); n != head {
			t.Fatalf("prefix %d, want %d", n, head)
		}
		if n := suffix(a, b); n != tail {
			t.Fatalf("suffix %d, want %d", n, tail)
		}
	})
	if n := prefix([]byte("ab"), []byte("abc")) + suffix([]byte("bc"), []byte("abc")); n != 4 {
		t.Errorf("of texts that contain one another: %d, want 4", n)
	}
}

func TestReaderLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lvx.yaml")
	var r Reader
	for i, text := range []string{fileOf(5), strings.Replace(fileOf(5), "weight: 1", "weight: 7", 1), "nonsense", fileOf(6)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := r.Load(file)
		want, wanted := Parse(file, []byte(text))
		if fmt.Sprintf("%+v %v", got, err) != fmt.Sprintf("%+v %v", want, wanted) {
			t.Errorf("reading %d: %+v %v, want %+v %v", i, got, err, want, wanted)
		}
	}
}

// What is given out is not written to by the next reading.
func TestReaderKeepsWhatItGave(t *testing.T) {
	r := &Reader{path: "f", text: []byte(fileOf(5)), flat: true}
	r.cfg, _ = Parse("f", r.text)
	before := fmt.Sprintf("%+v", r.cfg)
	if r.again("f", bytes.Replace(r.text, []byte("weight: 1"), []byte("weight: 5"), 1)) == nil {
		t.Fatal("the whole file was read")
	}
	if after := fmt.Sprintf("%+v", r.cfg); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
}

func BenchmarkReader(b *testing.B) {
	text := []byte(fileOf(200))
	texts := [][]byte{text, bytes.Replace(text, []byte("weight: 1"), []byte("weight: 5"), 1)}
	r := &Reader{path: "f", text: text, flat: true}
	r.cfg, _ = Parse("f", text)
	for i := 0; b.Loop(); i++ {
		if next := texts[(i+1)%2]; r.again("f", next) == nil {
			b.Fatal("the whole file was read")
		}
	}
}
