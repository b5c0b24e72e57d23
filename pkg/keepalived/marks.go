package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Marks reads what iptables-save writes and finds which destinations get a
// firewall mark in the mangle table's PREROUTING chain. The result has
// listeners as lvx.yaml has them. A rule with a condition that no listener can
// express is not taken; the notes say so.
func Marks(text string) (marks map[uint32][]string, notes []string) {
	marks = map[uint32][]string{}
	table := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		words, ok := splitCommand(line, true)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			continue
		case !ok || len(words) < 2 || words[0] != "-A" && words[0] != "iptables" && words[0] != "ip6tables":
			continue
		}
		if words[0] != "-A" { // a line of a script
			table = "filter"
			if t := slices.Index(words, "-t"); t >= 0 && t+1 < len(words) {
				table = words[t+1]
				words = slices.Delete(slices.Clone(words), t, t+2)
			}
			words = words[1:]
		}
		if table != "mangle" || len(words) < 2 || words[0] != "-A" || words[1] != "PREROUTING" {
			continue
		}
		rule, err := parseMarkRule(words[2:])
		switch {
		case err != nil:
			notes = append(notes, fmt.Sprintf("line %d: %v", i+1, err))
		case rule.mark != 0:
			for _, l := range rule.listeners() {
				if !slices.Contains(marks[rule.mark], l) {
					marks[rule.mark] = append(marks[rule.mark], l)
				}
			}
		}
	}
	return marks, notes
}

// markRule is a rule that sets a mark.
type markRule struct {
	mark   uint32
	addr   netip.Addr
	proto  string
	ports  []string // "80", "8000:8100"; none: every port
	isMark bool     // -j MARK
}

// parseMarkRule reads the words of a rule behind its chain. A rule that sets no
// mark is the zero markRule.
func parseMarkRule(words []string) (markRule, error) {
	var r markRule
	var odd error
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "-d", "--dst", "--destination":
			p, ok := parseVIP(value)
			if !ok || !p.IsSingleIP() {
				odd = fmt.Errorf("destination %s is not one address", quote(value))
			}
			r.addr = p.Addr()
		case "-p", "--proto", "--protocol":
			r.proto = value
		case "--dport", "--destination-port", "--dports", "--destination-ports":
			r.ports = append(r.ports, strings.Split(value, ",")...)
		case "-j", "--jump":
			r.isMark = value == "MARK"
		case "--set-mark", "--set-xmark":
			digits, _, _ := strings.Cut(value, "/")
			n, err := strconv.ParseUint(digits, 0, 32)
			if err != nil {
				odd = fmt.Errorf("mark %s is not a number", quote(value))
			}
			r.mark = uint32(n)
		case "-m", "--match":
			if !slices.Contains([]string{"tcp", "udp", "multiport", "comment"}, value) {
				odd = fmt.Errorf("a match of %s, which no listener can express", quote(value))
			}
		case "--comment":
		default:
			if odd != nil {
				continue
			}
			odd = fmt.Errorf("condition %s, which no listener can express", quote(words[i]))
			continue
		}
		i++
	}
	switch {
	case !r.isMark || r.mark == 0:
		return markRule{}, nil
	case odd != nil:
		return markRule{}, fmt.Errorf("mark %d: %w", r.mark, odd)
	case !r.addr.IsValid():
		return markRule{}, fmt.Errorf("mark %d: no destination address", r.mark)
	case r.proto != "tcp" && r.proto != "udp" && r.proto != "":
		return markRule{}, fmt.Errorf("mark %d: protocol %s (lvx serves tcp and udp)", r.mark, quote(r.proto))
	}
	return r, nil
}

// listeners are what the rule matches, as lvx.yaml has it.
func (r markRule) listeners() []string {
	host := strings.TrimSuffix(lb.Listener{Addr: r.addr, First: 1, Last: 1}.String(), ":1/0")
	if r.proto == "" {
		return []string{r.addr.String()}
	}
	if len(r.ports) == 0 {
		return []string{host + ":*/" + r.proto}
	}
	var all []string
	for _, p := range r.ports {
		low, high, isRange := strings.Cut(p, ":")
		first, errLow := strconv.ParseUint(low, 10, 16)
		last, errHigh := strconv.ParseUint(high, 10, 16)
		switch {
		case !isRange && errLow == nil && first > 0:
			all = append(all, fmt.Sprintf("%s:%d/%s", host, first, r.proto))
		case isRange && errLow == nil && errHigh == nil && 0 < first && first <= last:
			all = append(all, fmt.Sprintf("%s:%d-%d/%s", host, first, last, r.proto))
		}
	}
	return all
}
