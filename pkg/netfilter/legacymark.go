package netfilter

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// saveTime bounds a run of iptables-legacy-save, or of its sibling of IPv6.
const saveTime = 2 * time.Second

// legacyMarks reads the mangle tables of iptables-legacy.
func legacyMarks() ([]lb.MarkRules, error) {
	four, err := iptablesLegacy.marks()
	if err != nil {
		return nil, err
	}
	six, err := ip6tablesLegacy.marks()
	return joinMarks(four, six), err
}

func (f legacyFirewall) marks() ([]lb.MarkRules, error) {
	if hasMangle, err := f.hasTable("mangle"); err != nil || !hasMangle {
		return nil, err
	}
	if used, err := f.tableHasRules("mangle"); err != nil || !used {
		return nil, err
	}
	saved, err := f.savedTable("mangle")
	if err != nil {
		return nil, err
	}
	return f.parseMarks(saved), nil
}

// savedTable is a table in the format of iptables-save. Without
// such a table nothing is run, and it is empty.
func (f legacyFirewall) savedTable(name string) (string, error) {
	if isThere, err := f.hasTable(name); err != nil || !isThere {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), saveTime)
	defer cancel()
	save := exec.CommandContext(ctx, f.name+"-save", "-t", name)
	save.WaitDelay = saveTime // a child of its own may keep the pipe open
	out, err := save.Output()
	if err != nil {
		return "", fmt.Errorf("table %s of %s: %s-save: %w", name, f.name, f.name, err)
	}
	return string(out), nil
}

// parseMarks reads the MARK rules of the PREROUTING chain of a table that
// iptables-save wrote.
func (f legacyFirewall) parseMarks(text string) []lb.MarkRules {
	var m markBook
	number := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" || words[1] != "PREROUTING" {
			continue
		}
		number++
		origin := fmt.Sprintf("%s, table mangle, chain PREROUTING, rule %d", f.name, number)
		c, mark := readSavedRule(words[2:])
		switch {
		case mark == 0:
		case c.why() != "":
			m.entry(mark).Condition = origin + ": " + c.why()
		default:
			for _, l := range c.listeners() {
				m.listen(mark, l, origin)
			}
		}
	}
	return m.sorted()
}

// readSavedRule reads the words of a rule behind its chain; mark is 0 if the
// rule sets none.
func readSavedRule(words []string) (c match, mark uint32) {
	for len(words) > 0 {
		word, value := words[0], ""
		if len(words) > 1 {
			value = words[1]
		}
		used := 2
		switch word {
		case "-d":
			p, err := netip.ParsePrefix(value)
			if err != nil || !p.IsSingleIP() {
				c.asked("a network of destinations")
			} else {
				narrow(&c.addrs, []netip.Addr{p.Addr()})
			}
		case "-p":
			proto, ok := map[string]lb.Protocol{"tcp": lb.TCP, "udp": lb.UDP}[value]
			if !ok {
				c.asked("protocol " + value)
			}
			narrow(&c.protos, []lb.Protocol{proto})
		case "-m":
			if !slices.Contains([]string{"tcp", "udp", "multiport", "comment"}, value) {
				c.asked("match " + value)
			}
		case "--dport", "--dports":
			c.readPorts(value)
		case "--comment":
			used = 1 + quotedLen(words[1:])
		case "-j":
			if value != "MARK" {
				return match{}, 0
			}
		case "--set-xmark":
			mark = c.readMark(value)
		default:
			c.asked("condition " + word)
			used = 1
		}
		words = words[min(used, len(words)):]
	}
	return c, mark
}

// quotedLen is how many words a comment has.
func quotedLen(words []string) int {
	if len(words) == 0 || !strings.HasPrefix(words[0], `"`) {
		return 1
	}
	for i, w := range words {
		if strings.HasSuffix(w, `"`) && !strings.HasSuffix(w, `\"`) && (i > 0 || len(w) > 1) {
			return i + 1
		}
	}
	return len(words)
}

func (c *match) readPorts(text string) {
	var ports [][2]uint16
	for _, word := range strings.Split(text, ",") {
		low, high, isRange := strings.Cut(word, ":")
		if !isRange {
			high = low
		}
		first, err1 := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil {
			c.asked("ports " + word)
			return
		}
		ports = append(ports, [2]uint16{uint16(first), uint16(last)})
	}
	narrowPorts(&c.ports, ports)
}

// readMark reads "0xa/0xffffffff".
func (c *match) readMark(text string) uint32 {
	value, mask, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil {
		c.asked("mark " + text)
		return 0
	}
	if mask != "0xffffffff" {
		c.asked("a mark of which some bits are kept")
	}
	return uint32(n)
}
