package netfilter

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ruleset is the part of nf_tables that packets meet on some hooks.
type ruleset struct {
	tables []*table
}

type table struct {
	name   string
	family nftables.TableFamily
	base   []*chain // in the order of their hooks and priorities
	chains map[string]*chain
	sets   map[string][]element
}

type chain struct {
	*nftables.Chain
	rules []*nftables.Rule
}

// hasFamilyOf reports whether the table's chains see a packet.
func (t *table) hasFamilyOf(p packet) bool {
	own := nftables.TableFamilyIPv4
	if p.listener.Addr.Is6() {
		own = nftables.TableFamilyIPv6
	}
	return t.family == own || t.family == nftables.TableFamilyINet
}

// readGeneration changes with every change of nf_tables in this network
// namespace.
func readGeneration() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errors.New("no generation in the answer")
}

// isDormant reports whether a table's chains are not hooked in
// (NFT_TABLE_F_DORMANT). The library reads the flags, which are in network
// byte order, in the host's.
func isDormant(t *nftables.Table) bool {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Flags))&1 != 0
}

// hooksToHost are the hooks that packets to this host meet.
var hooksToHost = []nftables.ChainHook{*nftables.ChainHookPrerouting, *nftables.ChainHookInput}

// readRules reads the tables that have a chain on one of these hooks.
func readRules(hooks ...nftables.ChainHook) (ruleset, error) {
	c, err := nftables.New()
	if err != nil {
		return ruleset{}, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return ruleset{}, fmt.Errorf("tables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return ruleset{}, fmt.Errorf("chains: %w", err)
	}
	var rs ruleset
	for _, t := range tables {
		if isDormant(t) {
			continue
		}
		if own := ofTable(t, chains, hooks); len(own.base) > 0 {
			if err := own.readChains(c, t); err != nil {
				return ruleset{}, fmt.Errorf("table %s: %w", t.Name, err)
			}
			rs.tables = append(rs.tables, own)
		}
	}
	return rs, nil
}

func ofTable(t *nftables.Table, chains []*nftables.Chain, hooks []nftables.ChainHook) *table {
	own := &table{name: t.Name, family: t.Family, chains: map[string]*chain{}, sets: map[string][]element{}}
	switch t.Family {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
	default:
		return own
	}
	for _, c := range chains {
		if c.Table.Name != t.Name || c.Table.Family != t.Family {
			continue
		}
		mine := &chain{Chain: c}
		own.chains[c.Name] = mine
		if c.Hooknum != nil && slices.Contains(hooks, *c.Hooknum) {
			own.base = append(own.base, mine)
		}
	}
	slices.SortStableFunc(own.base, func(a, b *chain) int {
		return cmp.Or(cmp.Compare(*a.Hooknum, *b.Hooknum), cmp.Compare(*a.Priority, *b.Priority))
	})
	return own
}

// readChains reads the rules and the sets that they ask.
func (t *table) readChains(c *nftables.Conn, of *nftables.Table) error {
	for _, ch := range t.chains {
		rules, err := c.GetRules(of, ch.Chain)
		if err != nil {
			return fmt.Errorf("chain %s: %w", ch.Name, err)
		}
		ch.rules = rules
		for _, r := range rules {
			for _, x := range r.Exprs {
				if l, ok := x.(*expr.Lookup); ok && t.sets[l.SetName] == nil {
					t.readSet(c, of, l.SetName)
				}
			}
		}
	}
	return nil
}

// readSet reads a set. One of a kind that the library does not know stays out;
// its conditions are ignored.
func (t *table) readSet(c *nftables.Conn, of *nftables.Table, name string) {
	set, err := c.GetSetByName(of, name)
	if err != nil {
		return
	}
	raw, err := c.GetSetElements(set)
	if err != nil {
		return
	}
	t.sets[name] = toRanges(raw, set.Interval && !set.Concatenation)
}

// toRanges makes ranges of the kernel's elements. In an interval set a range
// is two of them: its first key, and the first key behind it.
func toRanges(raw []nftables.SetElement, intervals bool) []element {
	slices.SortStableFunc(raw, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return cmp.Compare(toInt(b.IntervalEnd), toInt(a.IntervalEnd)) // an end before the next start
	})
	all := []element{}
	for i, r := range raw {
		if r.IntervalEnd || len(r.Key) == 0 {
			continue
		}
		el := element{from: r.Key, to: r.Key}
		switch {
		case len(r.KeyEnd) == len(r.Key):
			el.to = r.KeyEnd
		case intervals && i+1 < len(raw):
			el.to = keyBefore(raw[i+1].Key)
		case intervals: // up to the last key that there is
			el.to = bytes.Repeat([]byte{0xff}, len(r.Key))
		}
		el.what, el.chain = elementVerdict(r)
		all = append(all, el)
	}
	return all
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// keyBefore is the key below key.
func keyBefore(key []byte) []byte {
	b := bytes.Clone(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
}

// elementVerdict reads what a verdict map has for an element: nested attributes
// with a code and, for jumps, a chain (linux/netfilter/nf_tables.h,
// NFTA_VERDICT_*).
func elementVerdict(el nftables.SetElement) (expr.VerdictKind, string) {
	if v := el.VerdictData; v != nil {
		return v.Kind, v.Chain
	}
	what, to := expr.VerdictContinue, ""
	for b := el.Val; len(b) >= unix.NLA_HDRLEN; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.NLA_HDRLEN || n > len(b) {
			break // not a verdict but a value
		}
		switch text := b[unix.NLA_HDRLEN:n]; {
		case binary.NativeEndian.Uint16(b[2:]) == unix.NFTA_VERDICT_CODE && len(text) == 4:
			what = expr.VerdictKind(int32(binary.BigEndian.Uint32(text)))
		case binary.NativeEndian.Uint16(b[2:]) == unix.NFTA_VERDICT_CHAIN:
			to = string(bytes.TrimRight(text, "\x00"))
		}
		b = b[min(n+(-n&3), len(b)):]
	}
	return what, to
}
