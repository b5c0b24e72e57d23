package xdp

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// sequencesOf splits a line such as "1 conns: 3 | after del rs1: 2 3" or
// "weights (1, 2) -> 2 1 2" into who got the connections of each part.
func sequencesOf(line string) []string {
	var all []string
	for _, part := range strings.Split(line, "|") {
		words := strings.Fields(part)
		i := len(words)
		for i > 0 && len(words[i-1]) == 1 && strings.Contains("123-", words[i-1]) {
			i--
		}
		if i == len(words) || i > 0 && !strings.HasSuffix(words[i-1], ":") && words[i-1] != "->" {
			return nil
		}
		all = append(all, strings.Join(words[i:], " "))
	}
	return all
}

// digits opens n connections and writes who got them as files 01 to 03 do.
func (f *facts) digits(n int) string {
	f.t.Helper()
	return strings.NewReplacer("rs", "", "icmp 3/3", "-").Replace(f.syns(n))
}

// block is the commands of one configuration, from its -A on, and the lines
// of sequences below them: n sequences happen before, between and after the
// last n-1 commands.
type block struct {
	line     int
	commands []string
	lines    []string
}

func blocksOf(t *testing.T, file string) []block {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	var all []block
	for n, line := range strings.Split(string(raw), "\n") {
		cmd, ok := strings.CutPrefix(line, "$ ipvsadm ")
		switch {
		case ok && strings.Contains(cmd, "-ln"):
		case ok && strings.Contains(cmd, "-A "):
			all = append(all, block{line: n + 1, commands: []string{cmd}})
		case ok && len(all) > 0 && len(all[len(all)-1].lines) > 0: // the block goes on
			all = append(all, block{line: n + 1, commands: []string{cmd}})
		case ok:
			b := &all[len(all)-1]
			b.commands = append(b.commands, cmd)
		case strings.HasPrefix(line, "--") || strings.HasPrefix(line, "#"):
		case len(sequencesOf(line)) > 0:
			b := &all[len(all)-1]
			b.lines = append(b.lines, line)
		}
	}
	return all
}

// replaySequences compares every sequence of a file.
func (h *harness) replaySequences(t *testing.T, file string, want int) {
	f := h.replay(t)
	checked := 0
	for _, b := range blocksOf(t, file) {
		text := strings.Join(b.commands, "\n")
		if strings.Contains(text, " -x ") {
			continue // the connections that put rs1 above it are of the configurations before; 08b section 6 begins with none
		}
		if strings.Contains(text, "-A ") {
			f = h.replay(t)
		}
		for _, line := range b.lines {
			seqs := sequencesOf(line)
			for i, seq := range seqs {
				for len(b.commands) > len(seqs)-1-i {
					before := f.state.Clone()
					f.ipvsadm(b.commands[0])
					b.commands = b.commands[1:]
					if reflect.DeepEqual(before, f.state) && strings.Contains(text, "wrr") {
						seq = goOn(seqs[0], "3 2 1 1 3 1", seq)
					}
				}
				f.expect(fmt.Sprintf("%s:%d: %s, sequence %d", file, b.line, strings.TrimSpace(line), i+1),
					f.digits(len(strings.Fields(seq))), seq)
				checked++
			}
		}
	}
	if checked != want {
		t.Errorf("%s: %d sequences compared, want %d", file, checked, want)
	}
}

// goOn is where lvx differs on purpose: the kernel's wrr begins its list anew
// at an edit that changes nothing ("ipvsadm -e" with the same weight); a state
// that is applied again moves nothing, so the cycle goes on.
func goOn(before, cycle, seq string) string {
	c := strings.Fields(cycle)
	var want []string
	for i := range strings.Fields(seq) {
		want = append(want, c[(len(strings.Fields(before))+i)%len(c)])
	}
	return strings.Join(want, " ")
}

// ipvs-facts/01, all of it but the upper threshold, which is TestFacts08bThresholds.
func TestFacts01RoundRobin(t *testing.T) {
	newStill(t, 4096, 1024).replaySequences(t, "../../sched/testdata/01-rr.txt", 37)
}

// ipvs-facts/02.
func TestFacts02WeightedRoundRobin(t *testing.T) {
	newStill(t, 4096, 1024).replaySequences(t, "../../sched/testdata/02-wrr.txt", 84)
}

// ipvs-facts/03: a SYN from each of 172.16.0.0 to .255.
func TestFacts03SourceHashing(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, s := range sectionsOf(t, "../../sched/testdata/03-sh.txt", 14) {
		t.Run(s.title, func(t *testing.T) {
			f := h.replay(t)
			port := "1024"
			if _, p, ok := strings.Cut(s.title, "sport "); ok {
				port = p
			}
			want, got := "", ""
			for _, line := range s.lines {
				if cmd, ok := strings.CutPrefix(line, "$ ipvsadm "); ok && !strings.HasPrefix(cmd, "-ln") {
					f.ipvsadm(cmd)
				}
				if strings.HasPrefix(line, "  .") {
					want += strings.Fields(line)[1]
				}
			}
			for c := range 256 {
				who := f.send(lb.TCP, fmt.Sprintf("172.16.0.%d:%s", c, port), "10.0.0.100:80", "S")
				got += strings.NewReplacer("rs", "", "icmp 3/3", "-").Replace(who)
			}
			if len(want) != 256 {
				t.Fatalf("%d clients found, want 256", len(want))
			}
			f.expect("172.16.0.0 to .255", got, want)
		})
	}
}

// The flow of a section of 17: the label says what varies from digit to
// digit.
func hashed17(t *testing.T, label string, port, i int) (src, dst string) {
	t.Helper()
	n, err := strconv.Atoi(label[1:])
	must(t, err)
	n += i
	switch label[0] {
	case '.':
		return fmt.Sprintf("172.16.0.%d:%d", n, port), "10.0.0.100:80"
	case ':':
		return fmt.Sprintf("172.16.0.5:%d", n), "10.0.0.100:80"
	}
	return fmt.Sprintf("172.16.0.5:%d", port), fmt.Sprintf("198.51.100.%d:80", n)
}

// ipvs-facts/17: dh, mh, sh with their flags, edits and marks.
func TestFacts17Hashing(t *testing.T) {
	h := newStill(t, 4096, 1024)
	everywhere := []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}}
	for i := range 256 {
		everywhere = append(everywhere, lb.Listener{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), Proto: lb.TCP, First: 80, Last: 80})
	}
	for _, s := range sectionsOf(t, "../../sched/testdata/17-hash-more.txt", 55) {
		if strings.Contains(s.title, "IPv6") {
			continue
		}
		t.Run(s.title, func(t *testing.T) {
			f := h.replay(t)
			f.marks["1"] = everywhere
			port, rows := 1024, 0
			for _, line := range s.lines {
				if cmd, ok := strings.CutPrefix(line, "$ ipvsadm "); ok {
					f.ipvsadm(cmd)
					if rows > 0 {
						port += 1024
					}
					continue
				}
				words := strings.Fields(line)
				if len(words) != 2 {
					continue
				}
				got := ""
				for i := range words[1] {
					src, dst := hashed17(t, words[0], port, i)
					got += strings.NewReplacer("rs", "", "icmp 3/3", "-").Replace(f.send(lb.TCP, src, dst, "S"))
				}
				rows++
				f.expect(words[0], got, words[1])
			}
			if rows < 4 {
				t.Errorf("%d rows found", rows)
			}
		})
	}
}

// ipvs-facts/18: lc, wlc, sed and nq over the life of connections.
func TestFacts18LeastConnection(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for _, s := range sectionsOf(t, "../../sched/testdata/18-leastconn.txt", 72) {
		t.Run(s.title, func(t *testing.T) {
			l := &lives{facts: h.replay(t), proto: map[string]lb.Protocol{}}
			l.state.Timeouts.TCP = lifetime
			closing := slices.IndexFunc(s.lines, func(line string) bool { return strings.HasPrefix(line, "$ ipvsadm -ln") })
			for _, line := range s.lines[:closing] {
				if cmd, ok := strings.CutPrefix(line, "$ ipvsadm "); ok {
					l.ipvsadm(cmd)
					continue
				}
				for _, event := range strings.Fields(line) {
					l.event(event)
				}
			}
			l.compare(s.lines[closing+4:])
		})
	}
}

// lifetime is longer than any section of 18: there, established connections
// stay.
const lifetime = 3600 * 1e9

// lives plays the events of file 18; its head says what they mean.
type lives struct {
	*facts
	proto map[string]lb.Protocol // of each connection
}

func (l *lives) event(e string) {
	l.t.Helper()
	id, who, opens := strings.Cut(e[1:], ">")
	n, _ := strconv.Atoi(id)
	src := fmt.Sprintf("172.16.0.5:%d", 10000+n) // of connection n
	switch {
	case opens:
		l.proto[id] = map[byte]lb.Protocol{'S': lb.TCP, 'U': lb.UDP}[e[0]]
		got := strings.NewReplacer("rs", "", "icmp 3/3", "-").Replace(l.send(l.proto[id], src, "10.0.0.100:80", "S"))
		l.expect(e, got, who)
	case e[0] == 'T':
		l.wait(int(number(l.t, id)))
	case strings.ContainsRune("w+-", rune(e[0])):
		l.edit(e)
	default:
		flags := map[byte]string{'A': "A", 'F': "FA", 'R': "R"}[e[0]]
		l.send(lb.TCP, src, "10.0.0.100:80", flags)
	}
}

func (l *lives) edit(e string) {
	l.t.Helper()
	id, weight, ok := strings.Cut(e[1:], "=")
	if ok {
		weight = " -w " + weight
	}
	verb := map[byte]string{'w': "-e", '+': "-a", '-': "-d"}[e[0]]
	for _, s := range l.state.Services {
		l.ipvsadm(fmt.Sprintf("%s %s -r 10.0.0.1%s%s", verb, s.Name, id, weight))
	}
}

// compare checks the closing table.
func (l *lives) compare(lines []string) {
	l.t.Helper()
	want := map[string]string{}
	service := ""
	for _, line := range lines {
		w := strings.Fields(line)
		switch {
		case len(w) == 0:
		case w[0] == "->":
			want[service] = strings.TrimSpace(want[service] + fmt.Sprintf(" %c %s/%s", w[1][len("10.0.0.1")], w[4], w[5]))
		default:
			service = map[string]string{"TCP": "-t ", "UDP": "-u "}[w[0]] + w[1]
		}
	}
	if len(want) != len(l.state.Services) {
		l.t.Fatalf("closing table of %d services, want %d", len(want), len(l.state.Services))
	}
	for service, w := range want {
		l.expect(service, sorted(l.table(service)), w)
	}
}

// sorted puts a table in the order of the reals' numbers, as ipvsadm does.
func sorted(table string) string {
	words := strings.Fields(table)
	var rows []string
	for i := 0; i+1 < len(words); i += 2 {
		rows = append(rows, words[i]+" "+words[i+1])
	}
	slices.Sort(rows)
	return strings.Join(rows, " ")
}
