package sched

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The files 01-rr.txt, 02-wrr.txt and 03-sh.txt in testdata are what the
// kernel's IPVS did, connection by connection. These tests run the ipvsadm
// commands of each block through Build and expect the same reals.

// director replays ipvsadm commands on one service. The last digit of a
// real's address is its number in the files, and here its ID.
type director struct {
	t         *testing.T
	scheduler string
	flags     Flags
	port      uint16 // of the reals: 80, or 0 for a service by mark
	reals     []Real
	upper     map[uint32]int // upper thresholds of reals
	ring      *Ring
	picks     uint64
}

var (
	addrOf   = regexp.MustCompile(`-r \[?(10\.0\.0\.1\d|2001:db8::1\d)`)
	weightOf = regexp.MustCompile(`-w (\d+)`)
	schedOf  = regexp.MustCompile(`-s (\w+)`)
	upperOf  = regexp.MustCompile(`-x (\d+)`)
	flagsOf  = regexp.MustCompile(`-b ([\w,-]+)`)
)

func (d *director) build() {
	d.t.Helper()
	r, err := Build(d.scheduler, d.flags, d.reals, d.ring, d.picks)
	if err != nil {
		d.t.Fatal(err)
	}
	d.ring, d.picks = r, 0
}

// run carries out one command without its leading "$ ".
func (d *director) run(cmd string) {
	d.t.Helper()
	switch {
	case strings.Contains(cmd, " -A "):
		*d = director{t: d.t, scheduler: schedOf.FindStringSubmatch(cmd)[1], port: 80, upper: map[uint32]int{}}
		if strings.Contains(cmd, " -f ") {
			d.port = 0
		}
		d.setFlags(cmd)
	case strings.Contains(cmd, " -E "):
		d.scheduler = schedOf.FindStringSubmatch(cmd)[1]
		d.setFlags(cmd)
	default:
		d.edit(cmd)
	}
	d.build()
}

func (d *director) setFlags(cmd string) {
	d.flags = 0
	if m := flagsOf.FindStringSubmatch(cmd); m != nil {
		for _, f := range strings.Split(m[1], ",") {
			d.flags |= map[string]Flags{"sh-port": SHPort, "sh-fallback": SHFallback, "mh-port": MHPort, "mh-fallback": MHFallback}[f]
		}
	}
}

func (d *director) edit(cmd string) {
	d.t.Helper()
	m := addrOf.FindStringSubmatch(cmd)
	if m == nil {
		d.t.Fatalf("command not understood: %s", cmd)
	}
	addr := netip.MustParseAddr(m[1])
	id, weight := uint32(m[1][len(m[1])-1]-'0'), uint64(1)
	if m := weightOf.FindStringSubmatch(cmd); m != nil {
		weight, _ = strconv.ParseUint(m[1], 10, 16)
	}
	i := slices.IndexFunc(d.reals, func(r Real) bool { return r.ID == id })
	switch {
	case strings.Contains(cmd, " -a "):
		d.reals = append(d.reals, Real{ID: id, Weight: uint16(weight), Addr: addr, Port: d.port})
		if m := upperOf.FindStringSubmatch(cmd); m != nil {
			d.upper[id], _ = strconv.Atoi(m[1])
		}
	case strings.Contains(cmd, " -e "):
		if d.reals[i].Weight == uint16(weight) {
			d.touch(i)
		}
		d.reals[i].Weight = uint16(weight)
	case strings.Contains(cmd, " -d "):
		d.reals = slices.Delete(d.reals, i, i+1)
	}
}

// touch makes Build see an edit that leaves the weight alone: the kernel
// counts "ipvsadm -e" with the same weight as one, Build compares.
func (d *director) touch(i int) { d.reals[i].Port++ }

// conns opens n connections and writes down who got them, as the files do. A
// real with an upper threshold stands above it from the start in these files.
func (d *director) conns(n int) string {
	var got []string
	for range n {
		id := None
		for range max(1, len(d.ring.Slots)) { // step over overloaded reals, as the packet path does
			id = d.ring.Pick(d.picks)
			if d.picks++; d.upper[id] == 0 {
				break
			}
		}
		if d.upper[id] > 0 {
			id = None
		}
		got = append(got, digit(id))
	}
	return strings.Join(got, " ")
}

// digit is how the files write who got a connection.
func digit(id uint32) string {
	if id == None {
		return "-"
	}
	return fmt.Sprint(id)
}

// sequence finds the reals that a part of a line names: "after del rs1: 2 3 2"
// or "weights (1, 2) -> 2 1 2".
var sequence = regexp.MustCompile(`^(?:.*(?:: |-> ))?((?:[123-] )*[123-])$`)

// sequencesOf splits a line into its sequences, nil if it is not such a line.
func sequencesOf(line string) []string {
	var all []string
	for _, part := range strings.Split(line, "|") {
		m := sequence.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil {
			return nil
		}
		all = append(all, m[1])
	}
	return all
}

// replaySequences runs a facts file: a line of k sequences shows what happened
// before, between and after the last k-1 commands above it.
func replaySequences(t *testing.T, file string, want int) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &director{t: t}
	var pending []string
	checked := 0
	for n, line := range strings.Split(string(raw), "\n") {
		if cmd, ok := strings.CutPrefix(line, "$ ipvsadm "); ok {
			if !strings.HasPrefix(cmd, "-ln") {
				pending = append(pending, " "+cmd)
			}
			continue
		}
		if strings.HasPrefix(line, "--") || strings.HasPrefix(line, "#") {
			continue
		}
		seqs := sequencesOf(line)
		for i, seq := range seqs {
			for len(pending) > len(seqs)-1-i {
				d.run(pending[0])
				pending = pending[1:]
			}
			if got := d.conns(len(strings.Fields(seq))); got != seq {
				t.Errorf("%s:%d: sequence %d: got %s, want %s (%s)", file, n+1, i+1, got, seq, strings.TrimSpace(line))
			}
			checked++
		}
	}
	if checked != want {
		t.Errorf("%s: %d sequences found, want %d", file, checked, want)
	}
}

func TestFactsRR(t *testing.T)  { replaySequences(t, "testdata/01-rr.txt", 38) }
func TestFactsWRR(t *testing.T) { replaySequences(t, "testdata/02-wrr.txt", 84) }

// TestFactsSH compares the real of every client 172.16.0.0 to .255.
func TestFactsSH(t *testing.T) {
	raw, err := os.ReadFile("testdata/03-sh.txt")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(raw), "\n== ")[1:]
	if len(blocks) != 14 {
		t.Errorf("%d configurations found, want 14", len(blocks))
	}
	for _, block := range blocks {
		lines := strings.Split(block, "\n")
		title, port := lines[0], uint64(1024)
		if _, p, ok := strings.Cut(title, "sport "); ok {
			port, _ = strconv.ParseUint(p, 10, 16)
		}
		t.Run(title, func(t *testing.T) {
			d := &director{t: t}
			want := ""
			for _, line := range lines {
				if cmd, ok := strings.CutPrefix(line, "$ ipvsadm "); ok && !strings.HasPrefix(cmd, "-ln") {
					d.run(" " + cmd)
				}
				if strings.HasPrefix(line, "  .") {
					want += strings.Fields(line)[1]
				}
			}
			if len(want) != 256 {
				t.Fatalf("%d clients found, want 256", len(want))
			}
			for c := range 256 {
				got := digit(d.ring.PickHash(netip.AddrFrom4([4]byte{172, 16, 0, byte(c)}), uint16(port), nil))
				if got != want[c:c+1] {
					t.Errorf("172.16.0.%d: got %s, want %s", c, got, want[c:c+1])
				}
			}
		})
	}
}
