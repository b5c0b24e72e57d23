package netfilter

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Reader looks for rules that would drop packets of served VIPs. The zero
// value is ready. It is used by one goroutine at a time.
type Reader struct {
	known  bool // what follows is an answer
	gen    uint32
	asked  []lb.Listener
	on     []string
	answer []string

	marksKnown bool // what follows is an answer to Marks
	marksGen   uint32
	marks      []lb.MarkRules
}

// maxRules is how many rules one answer names.
const maxRules = 10

// Dropped describes the rules that would drop packets which clients send to
// the listeners by these interfaces, a line for each. It reads the rules only
// if they, or what is asked, have changed since the last time.
func (r *Reader) Dropped(served []lb.Listener, interfaces []string) ([]string, error) {
	old, err := legacyWarnings(served)
	if err != nil {
		return nil, err
	}
	gen, err := readGeneration()
	if err != nil {
		if isAbsent(err) {
			return old, nil
		}
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	if !r.known || gen != r.gen || !slices.Equal(served, r.asked) || !slices.Equal(interfaces, r.on) {
		rules, err := readRules(hooksToHost...)
		if err != nil {
			return nil, fmt.Errorf("nf_tables: %w", err)
		}
		r.known, r.gen, r.asked, r.on = true, gen, slices.Clone(served), slices.Clone(interfaces)
		r.answer = rules.warnings(served, interfaces)
	}
	return slices.Concat(r.answer, old), nil
}

// isAbsent reports whether err means that the kernel has no nf_tables.
func isAbsent(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// Marked describes the rules that set a firewall mark on packets which clients
// send to the listeners by these interfaces, a line for each.
func (r *Reader) Marked(served []lb.Listener, interfaces []string) ([]string, error) {
	rules, err := readRules(hooksToHost...)
	if err != nil {
		if isAbsent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	var lines []string
	for _, h := range rules.ask(served, interfaces, (*table).findMarks) {
		lines = append(lines, fmt.Sprintf("netfilter would mark %s to %s (%s), but XDP is before it", h.what(), shorten(h.listeners), h.where))
	}
	return lines, nil
}

// hit is a rule, and the listeners that it is about.
type hit struct {
	where     string
	all       bool // all packets to them
	listeners []string
}

func (h hit) what() string {
	if h.all {
		return "packets"
	}
	return "some packets"
}

// ask asks every base chain about every listener and names each rule once.
func (rs ruleset) ask(served []lb.Listener, interfaces []string, find func(*table, packet, *chain) []finding) []*hit {
	var hits []*hit
	by := map[string]*hit{}
	for _, t := range rs.tables {
		for _, base := range t.base {
			for _, p := range listPackets(served, interfaces) {
				if !t.hasFamilyOf(p) {
					continue
				}
				for _, f := range find(t, p, base) {
					h := by[f.where]
					if h == nil {
						h = &hit{where: f.where, all: true}
						by[f.where] = h
						hits = append(hits, h)
					}
					h.all = h.all && f.all
					if name := p.listener.String(); !slices.Contains(h.listeners, name) {
						h.listeners = append(h.listeners, name)
					}
				}
			}
		}
	}
	return hits
}

// warnings describes the rules that would drop.
func (rs ruleset) warnings(served []lb.Listener, interfaces []string) []string {
	var lines []string
	hits := rs.ask(served, interfaces, (*table).findDrops)
	for i, h := range hits {
		if i == maxRules {
			return append(lines, fmt.Sprintf("netfilter: %d more rules would drop packets to VIPs (nft -a list ruleset)", len(hits)-maxRules))
		}
		lines = append(lines, fmt.Sprintf("netfilter would drop %s to %s (%s), but XDP is before it (use deny: or allow:)",
			h.what(), shorten(h.listeners), h.where))
	}
	return lines
}

func listPackets(served []lb.Listener, interfaces []string) []packet {
	var all []packet
	for _, name := range interfaces {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			continue // the interface does not exist; nothing comes by it
		}
		for _, l := range served {
			all = append(all, packetFor(l, name, uint32(ifi.Index)))
		}
	}
	return all
}

// shorten keeps a list on one line.
func shorten(names []string) string {
	if n := len(names); n > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:2], ", "), n-2)
	}
	return strings.Join(names, ", ")
}
