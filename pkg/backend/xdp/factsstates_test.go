package xdp

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

const threeReals = `$ ipvsadm -A -t 10.0.0.100:80 -s rr
$ ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g
$ ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g
$ ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.13 -g`

const threeUDP = `$ ipvsadm -A -u 10.0.0.100:53 -s rr
$ ipvsadm -a -u 10.0.0.100:53 -r 10.0.0.11 -g
$ ipvsadm -a -u 10.0.0.100:53 -r 10.0.0.12 -g
$ ipvsadm -a -u 10.0.0.100:53 -r 10.0.0.13 -g`

// states names the packets that lead a connection to a state.
var states = map[string]string{
	"SYN_RECV": "S", "ESTABLISHED": "S A", "FIN_WAIT": "S A FA", "TIME_WAIT": "S FA", "CLOSE": "S A R",
}

var (
	cellRow  = regexp.MustCompile(`^(\w+) via \[(.*)\] \((.*)\)$`)
	cellLine = regexp.MustCompile(`^ +(\w+): (\d\d:\d\d \w+) to (\w+)$`)
	reuse    = regexp.MustCompile(`^ +mode 1 (\w+): (rs\d) then SYN -> (rs\d) (\d\d:\d\d \w+) entries=1$`)
	step     = regexp.MustCompile(`^ +(\w+) +-> (rs\d) (\d\d:\d\d \w+)$`)
)

// ipvs-facts/06 "one-way transitions": every flag in every state, and "FIN
// then ACK", which the kernel saw next: its rotation goes on.
func TestFacts06OneWayTable(t *testing.T) {
	h := newStill(t, 4096, 1024)
	f := h.replay(t)
	f.ipvsadm(threeReals)
	sections := sectionsOf(t, "testdata/06-tcp-states.txt", 9)
	var via, first string
	cells := 0
	for _, line := range sections[0].lines {
		if m := cellRow.FindStringSubmatch(line); m != nil {
			via = strings.NewReplacer("'", "", ",", "").Replace(m[2])
			if states[m[1]] != via {
				t.Fatalf("%s is reached by %s", m[1], via)
			}
		}
		m := cellLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		cells++
		first = f.conn("172.16.0.5", "10.0.0.100:80", via)
		got := f.tcp(int(f.port), m[1])
		want := strings.ReplaceAll(m[3], "same", first)
		f.expect(fmt.Sprintf("%s, then %s: real", via, m[1]), got, want)
		f.expect(fmt.Sprintf("%s, then %s: state", via, m[1]), f.expires(int(f.port)), m[2])
	}
	if cells != 45 {
		t.Errorf("%d cells found, want 45", cells)
	}
	f.port++
	steps := 0
	for _, line := range sections[1].lines {
		if m := step.FindStringSubmatch(line); m != nil {
			steps++
			f.expect("FIN then ACK: "+m[1], f.tcp(int(f.port), m[1])+" "+f.expires(int(f.port)), m[2]+" "+m[3])
		}
	}
	if steps != 11 {
		t.Errorf("%d steps found, want 11", steps)
	}
}

// ipvs-facts/06 "each packet re-arms the timer".
func TestFacts06Timers(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(threeReals)
	at := func(what, want string) {
		t.Helper()
		got := f.expires(1)
		if g, w := seconds(got), seconds(want); !near(g, w) || got[5:] != want[5:] {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	f.tcp(1, "S")
	for _, left := range []string{"00:39", "00:19", "00:00"} {
		f.wait(20)
		if left == "00:00" && f.expires(1) == "gone" {
			break // the recorder looked after 59.5 s
		}
		at("SYN and 20 s more", left+" SYN_RECV")
	}
	f.wait(2)
	f.expect("SYN, +62 s", f.expires(1), "gone")
	f.tcp(1, "S")
	f.wait(50)
	at("SYN, +50 s", "00:09 SYN_RECV")
	f.tcp(1, "S")
	at("retransmitted SYN", "00:59 SYN_RECV")
	f.tcp(1, "A")
	at("ACK", "14:59 ESTABLISHED")
	f.wait(890)
	at("+890 s", "00:09 ESTABLISHED")
	f.tcp(1, "A")
	at("ACK", "14:59 ESTABLISHED")
	// Here lvx differs on purpose: the kernel's timer wheel was late, and its
	// connection was still there after 905 s.
	f.wait(905)
	f.expect("+905 s", f.expires(1), "gone")
	f.expect("ACK after expiry", f.tcp(1, "A"), "rst")
}

// ipvs-facts/06 "SYN on an existing 4-tuple": lvx does what conn_reuse_mode 1,
// the default, does.
func TestFacts06ConnReuse(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(threeReals)
	found := 0
	for _, line := range sectionsOf(t, "testdata/06-tcp-states.txt", 9)[3].lines {
		m := reuse.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		found++
		first := f.conn("172.16.0.5", "10.0.0.100:80", states[m[1]])
		then := f.tcp(int(f.port), "S")
		f.expect(m[1], fmt.Sprint(first, " ", then, " ", f.expires(int(f.port))), fmt.Sprint(m[2], " ", m[3], " ", m[4]))
	}
	if found != 5 {
		t.Errorf("%d states found, want 5", found)
	}
	if n := len(f.listing()); n != 5 {
		t.Errorf("%d connections, want one of each", n)
	}
}

// ipvs-facts/06 "ipvsadm --set".
func TestFacts06SetTimeouts(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(threeReals)
	f.ipvsadm(threeUDP)
	f.ipvsadm("ipvsadm --set 50 20 30")
	for state, want := range map[string]string{
		"SYN_RECV": "00:59", "ESTABLISHED": "00:49", "FIN_WAIT": "00:19", "TIME_WAIT": "01:59", "CLOSE": "00:09",
	} {
		f.conn("172.16.0.5", "10.0.0.100:80", states[state])
		f.expect(state, f.expires(int(f.port)), want+" "+state)
	}
	f.ipvsadm("ipvsadm --set 0 0 99")
	f.conn("172.16.0.5", "10.0.0.100:80", "S A")
	f.expect("--set 0 0 99", f.expires(int(f.port)), "00:49 ESTABLISHED")
	f.send(lb.UDP, "172.16.0.5:5", "10.0.0.100:53", "")
	if got := f.expires(5); !near(seconds(got), 99) {
		t.Errorf("UDP: %s, want 01:38", got)
	}
}

// ipvs-facts/06 "Active/Inactive counting".
func TestFacts06ActiveInactive(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g")
	for _, c := range [][2]string{
		{"SYN_RECV", "1 1/0"}, {"ESTABLISHED", "1 2/0"}, {"FIN_WAIT", "1 2/1"}, {"TIME_WAIT", "1 2/2"}, {"CLOSE", "1 2/3"},
	} {
		f.conn("172.16.0.5", "10.0.0.100:80", states[c[0]])
		f.expect("after one in "+c[0], f.table("-t 10.0.0.100:80"), c[1])
	}
	f.wait(70)
	f.expect("70 s later", f.table("-t 10.0.0.100:80"), "1 1/2")
	f.wait(60)
	f.expect("130 s later", f.table("-t 10.0.0.100:80"), "1 1/0")
}

// ipvs-facts/06 "UDP".
func TestFacts06UDP(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(threeUDP)
	packet := func() string { return f.send(lb.UDP, "172.16.0.5:5", "10.0.0.100:53", "") }
	for range 4 {
		f.expect("same 4-tuple", packet(), "rs3")
	}
	f.expect("state", f.expires(5), "04:59 UDP")
	f.wait(290)
	if got := f.expires(5); !near(seconds(got), 9) {
		t.Errorf("+290 s: %s, want 00:09 UDP", got)
	}
	f.expect("packet", packet()+" "+f.expires(5), "rs3 04:59 UDP")
	f.wait(302)
	f.expect("after its time", f.expires(5), "gone")
	f.expect("packet", packet(), "rs2") // the kernel's was late and still there after 301 s
	f.expect("table", f.table("-u 10.0.0.100:53"), "1 0/0 2 0/1 3 0/0")
}

// ipvs-facts/06 "UDP one-packet (-o)".
func TestFacts06OnePacket(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm(strings.Replace(threeUDP, "rr", "rr -o", 1))
	row := func(src string, n int) string {
		var got []string
		for range n {
			got = append(got, f.send(lb.UDP, src, "10.0.0.100:53", ""))
		}
		return strings.Join(got, " ")
	}
	f.expect("same 4-tuple x9", row("172.16.0.5:5", 9), "rs3 rs2 rs1 rs3 rs2 rs1 rs3 rs2 rs1")
	f.lists("no connection entries", "")
	f.expect("table", f.table("-u 10.0.0.100:53"), "1 0/0 2 0/0 3 0/0")
	st, err := f.Stats()
	must(t, err)
	for _, r := range st.Services[0].Reals {
		if r.Conns != 3 || r.InPkts != 3 || r.InBytes != 3*28 {
			t.Errorf("%s counted %+v, want 3 connections of a packet of 28 bytes", r.Addr, r.Counters)
		}
	}
	f.ipvsadm("ipvsadm -E -u 10.0.0.100:53 -s sh -o")
	got := strings.Fields(row("172.16.0.5:5", 4))
	for _, who := range got {
		f.expect("-o with sh", who, got[0])
	}
	f.ipvsadm("ipvsadm -E -u 10.0.0.100:53 -s rr -o -p 60")
	f.expect("-o with -p 60", row("172.16.0.5:5", 6), "rs3 rs3 rs3 rs3 rs3 rs3")
	f.lists("its template", "UDP 00:59  NONE        172.16.0.5:0       10.0.0.100:53      10.0.0.13:53")
}

// ipvs-facts/06 "stats freshness": the kernel's counters are two seconds old,
// lvx's are read when they are asked for.
func TestFacts06CountersAreFresh(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -u 10.0.0.100:54 -s rr; ipvsadm -a -u 10.0.0.100:54 -r 10.0.0.11 -g")
	for n := range uint64(10) {
		f.send(lb.UDP, "172.16.0.5:5", "10.0.0.100:54", "")
		st, err := f.Stats()
		must(t, err)
		if c := st.Services[0].Reals[0].Counters; c.Conns != 1 || c.InPkts != n+1 || c.InBytes != 28*(n+1) {
			t.Errorf("after %d packets: %+v", n+1, c)
		}
	}
}
