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
	found []finding
	some  bool // some packets were accepted
}

// drops lists what drops packets of a listener in one base chain.
func (t *table) drops(p packet, base *chain) []finding {
	w := &walk{packet: p, table: t}
	end := w.follow(base, yes, 0, 0)
	if end != stopped && base.Policy != nil && *base.Policy == nftables.ChainPolicyDrop {
		w.report(fmt.Sprintf("chain %s, policy drop", base.Name), !w.some && len(w.found) == 0)
	}
	return w.found
}

func (w *walk) report(where string, all bool) {
	w.found = append(w.found, finding{fmt.Sprintf("table %s %s, %s", family(w.table.family), w.table.name, where), all})
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}

// follow goes through a chain that packets reached by conditions about
// something; match says whether all of them did.
func (w *walk) follow(c *chain, match tri, reached about, depth int) ending {
	if c == nil || depth > nesting {
		return through
	}
	for _, r := range c.rules {
		for _, b := range apply(w.packet, r, w.table.sets) {
			b.match, b.about = min(b.match, match), b.about|reached
			if b.match == no {
				continue
			}
			if end, done := w.take(c, r, b, depth); done {
				return end
			}
		}
	}
	return through
}

// take does what a rule says; done tells that no packet goes on to the next
// rule.
func (w *walk) take(c *chain, r *nftables.Rule, b branch, depth int) (end ending, done bool) {
	all := b.match == yes && b.about&other == 0
	switch b.what {
	case expr.VerdictDrop:
		if b.names(destination | port | source) {
			w.report(fmt.Sprintf("chain %s, handle %d", c.Name, r.Handle), all)
		}
		return stopped, all
	case expr.VerdictAccept:
		done = b.match == yes && b.names(destination|port)
		w.some = w.some || !done && b.names(destination|port|source)
		return stopped, done
	case expr.VerdictReturn:
		return returned, b.match == yes && b.names(destination|port)
	case expr.VerdictJump:
		if w.follow(w.table.chains[b.chain], b.match, b.about, depth+1) == stopped {
			return stopped, true
		}
	case expr.VerdictGoto:
		if w.follow(w.table.chains[b.chain], b.match, b.about, depth+1) == stopped {
			return stopped, true
		}
		return returned, all
	}
	return through, false
}

// names reports whether a branch is about the packets of a listener, rather
// than about connection states and whatever else is ignored.
func (b branch) names(what about) bool {
	return b.about&what != 0 || b.about&(other|source) == 0
}
