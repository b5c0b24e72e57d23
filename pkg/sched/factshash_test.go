package sched

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// section is a part of a facts file: "== title", then lines.
type section struct {
	title string
	lines []string
}

func sectionsOf(t *testing.T, file string, want int) []section {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []section
	for _, text := range strings.Split(string(raw), "\n== ")[1:] {
		title, body, _ := strings.Cut(text, "\n")
		all = append(all, section{title, strings.Split(strings.TrimSpace(body), "\n")})
	}
	if len(all) != want {
		t.Errorf("%s: %d sections found, want %d", file, len(all), want)
	}
	return all
}

// TestFactsHash goes through 17-hash-more.txt: dh, mh and sh with all their
// flags, edits, thresholds, marks and IPv6, one connection per digit.
func TestFactsHash(t *testing.T) {
	for _, s := range sectionsOf(t, "testdata/17-hash-more.txt", 55) {
		t.Run(s.title, func(t *testing.T) {
			d := &director{t: t}
			conns := map[uint32]int{} // live connections; none ends within a section
			usable := func(id uint32) bool { return d.upper[id] == 0 || conns[id] < d.upper[id] }
			port, rows := uint16(1024), 0
			for _, line := range s.lines {
				if cmd, ok := strings.CutPrefix(line, "$ ipvsadm "); ok {
					d.run(" " + cmd)
					if rows > 0 {
						port += 1024
					}
					continue
				}
				label, want, _ := strings.Cut(strings.TrimSpace(line), " ")
				want = strings.TrimSpace(want)
				rows++
				for i := range want {
					addr, p := hashed(t, d, label, port, i)
					id := d.ring.PickHash(addr, p, usable)
					conns[id]++
					if got := digit(id); got != want[i:i+1] {
						t.Errorf("%s plus %d (%s:%d): got %s, want %s", label, i, addr, p, got, want[i:i+1])
					}
				}
			}
			if rows < 4 {
				t.Errorf("%d rows found", rows)
			}
		})
	}
}

// hashed is what the scheduler of d hashes of the i-th connection of a row:
// the destination for dh, the client for the others.
func hashed(t *testing.T, d *director, label string, port uint16, i int) (netip.Addr, uint16) {
	t.Helper()
	n, err := strconv.Atoi(label[1:])
	if err != nil {
		t.Fatal(err)
	}
	n += i
	client, dst, vip := "172.16.0.", "198.51.100.", "10.0.0.100"
	if d.reals[0].Addr.Is6() {
		client, dst, vip = "2001:db8:1::", "2001:db8:2::", "2001:db8::100"
	}
	at := func(net string, n int) netip.Addr {
		base := 10
		if strings.Contains(net, ":") {
			base = 16
		}
		return netip.MustParseAddr(net + strconv.FormatInt(int64(n), base))
	}
	switch {
	case label[0] == '>':
		return at(dst, n), port
	case d.scheduler == "dh":
		return netip.MustParseAddr(vip), 0
	case label[0] == ':':
		return at(client, 5), uint16(n)
	}
	return at(client, n), port
}
