package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// masquerading says which rules of a saved nat table give TCP packets that
// leave by an interface another source address: those from an address, or to one, as
// [Reader.Masquerading] has it. What asks for more than addresses, interface
// and protocol is not meant, and chains of the user's own are not followed.
func (f legacyFirewall) masquerading(saved string, from, to netip.Addr, device string) (places []string) {
	number := 0
	for line := range strings.Lines(saved) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" || words[1] != "POSTROUTING" {
			continue
		}
		number++
		target, meetsAll := readLeavingRule(words[2:], from, to, device)
		switch {
		case !meetsAll:
		case target == "MASQUERADE" || target == "SNAT" || target == "NETMAP":
			return []string{fmt.Sprintf("%s, table nat, chain POSTROUTING, rule %d", f.name, number)}
		case target == "ACCEPT" || target == "RETURN":
			return nil
		}
	}
	return nil
}

// readLeavingRule reads the words of a rule behind its chain: its target, and whether
// it meets all of these packets.
func readLeavingRule(words []string, from, to netip.Addr, device string) (target string, meetsAll bool) {
	for len(words) > 0 {
		isNot := words[0] == "!"
		if isNot {
			words = words[1:]
		}
		if len(words) < 2 {
			return "", false
		}
		word, value, used, meets := words[0], words[1], 2, false
		switch word {
		case "-j":
			return value, !isNot
		case "-s":
			meets = hasAddress(value, from, isNot)
		case "-d":
			meets = hasAddress(value, to, isNot)
		case "-o":
			meets = isNot != (value == device)
			if name, isPrefix := strings.CutSuffix(value, "+"); isPrefix {
				meets = isNot != strings.HasPrefix(device, name)
			}
		case "-p":
			meets = isNot != slices.Contains([]string{"tcp", "all"}, value)
		case "-m":
			meets = value == "comment"
		case "--comment":
			meets, used = true, 1+quotedLen(words[1:])
		}
		if !meets {
			return "", false
		}
		words = words[min(used, len(words)):]
	}
	return "", false
}

// hasAddress reports whether an address, which may be unknown, is of a network, or
// is not.
func hasAddress(network string, a netip.Addr, isNot bool) bool {
	p, err := netip.ParsePrefix(network)
	return err == nil && a.IsValid() && isNot != p.Contains(a)
}
