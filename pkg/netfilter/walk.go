package netfilter

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// finding is a rule, or a policy, that would drop packets of a listener.
type finding struct {
	where string // "table ip filter, chain INPUT, handle 3"
	all   bool   // all packets, not only some
}

// How a chain ended for the packets of a listener.
type ending uint8

const (
	through  ending = iota // some packets at least go on behind it
	stopped                // all were accepted or dropped
	returned               // all went back, of a base chain: to its policy
)

// nesting is how deep chains may jump; the kernel's limit is 16
// (NFT_JUMP_STACK_SIZE).
const nesting = 16

// walk follows the packets of a listener through one base chain.
type walk struct {
	packet
	table *table
	found []finding // what drops
	marks []finding // what marks
	hides []finding // what gives another source address
	some  bool      // some packets were accepted
}

// findMarks lists what sets a firewall mark on packets of a listener in one
// base chain.
func (t *table) findMarks(p packet, base *chain) []finding {
	w := &walk{packet: p, table: t}
	w.followChain(base, yes, 0, 0)
	return w.marks
}

// findDrops lists what drops packets of a listener in one base chain.
func (t *table) findDrops(p packet, base *chain) []finding {
	w := &walk{packet: p, table: t}
	end := w.followChain(base, yes, 0, 0)
	if end != stopped && base.Policy != nil && *base.Policy == nftables.ChainPolicyDrop {
		w.addFinding(fmt.Sprintf("chain %s, policy drop", base.Name), !w.some && len(w.found) == 0)
	}
	return w.found
}

func (w *walk) addFinding(where string, all bool) {
	w.found = append(w.found, finding{w.place(where), all})
}

// place is where a rule is, with its table.
func (w *walk) place(where string) string {
	return fmt.Sprintf("table %s %s, %s", familyName(w.table.family), w.table.name, where)
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}

// followChain goes through a chain that packets reached by conditions about
// something; match says whether all of them did.
func (w *walk) followChain(c *chain, match matches, reached about, depth int) ending {
	if c == nil || depth > nesting {
		return through
	}
	for _, r := range c.rules {
		for _, b := range applyRule(w.packet, r, w.table.sets) {
			b.match, b.about = min(b.match, match), b.about|reached
			if b.match == no {
				continue
			}
			if end, done := w.takeVerdict(c, r, b, depth); done {
				return end
			}
		}
	}
	return through
}

// takeVerdict does what a rule says; done means that no packet goes on to the next
// rule.
func (w *walk) takeVerdict(c *chain, r *nftables.Rule, b branch, depth int) (end ending, done bool) {
	all := b.match == yes && b.about&other == 0
	switch b.what {
	case expr.VerdictDrop:
		if b.isAbout(destination | port | source) {
			w.addFinding(fmt.Sprintf("chain %s, handle %d", c.Name, r.Handle), all)
		}
		return stopped, all
	case setsMark:
		if b.isAbout(destination | port | source) {
			w.marks = append(w.marks, finding{w.place(fmt.Sprintf("chain %s, handle %d", c.Name, r.Handle)), all})
		}
	case hidesSource:
		if b.match == yes && b.about&source == 0 && b.isAbout(destination|port) {
			w.hides = append(w.hides, finding{w.place(fmt.Sprintf("chain %s, handle %d", c.Name, r.Handle)), all})
		}
		return stopped, all
	case expr.VerdictAccept:
		done = b.match == yes && b.isAbout(destination|port)
		w.some = w.some || !done && b.isAbout(destination|port|source)
		return stopped, done
	case expr.VerdictReturn:
		return returned, b.match == yes && b.isAbout(destination|port)
	case expr.VerdictJump:
		if w.followChain(w.table.chains[b.chain], b.match, b.about, depth+1) == stopped {
			return stopped, true
		}
	case expr.VerdictGoto:
		if w.followChain(w.table.chains[b.chain], b.match, b.about, depth+1) == stopped {
			return stopped, true
		}
		return returned, all
	}
	return through, false
}

// isAbout reports whether a branch is about the packets of a listener, rather
// than about connection states and whatever else is ignored.
func (b branch) isAbout(what about) bool {
	return b.about&what != 0 || b.about&(other|source) == 0
}
