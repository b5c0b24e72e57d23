package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// routed is a route or a rule that moves with the VIPs, as the output has it.
type routed struct {
	item *item
	text string
}

// writeRouted writes the routes or the rules of an instance.
func writeRouted(d *document, r *router, key string, all []routed) {
	all = slices.DeleteFunc(slices.Clone(all), func(x routed) bool { return x.item.isLeftOut() })
	if len(all) == 0 {
		return
	}
	d.put(4, r.item, "%s:", key)
	for _, x := range all {
		d.put(6, x.item, "- %s", x.text)
	}
}

// readRouting reads the routes and rules that move with the VIPs.
func (r *router) readRouting(c *Statement) bool {
	var read func(*Statement) (string, error)
	var to *[]routed
	switch c.Word {
	case "virtual_routes":
		read, to = readRoute, &r.routes
	case "virtual_rules":
		read, to = readRule, &r.rules
	default:
		return false
	}
	c.mark(Mapped, "")
	for _, s := range c.Block {
		text, err := read(s)
		if err != nil {
			s.mark(Lost, "%s", err)
			continue
		}
		s.mark(Mapped, "")
		*to = append(*to, routed{&item{from: s, parent: r.item}, "{" + text + "}"})
	}
	return true
}

// Words of routes and rules by what they are in the output.
var (
	routeWords = map[string]string{
		"to": "to", "via": "via", "gw": "via", "dev": "interface", "oif": "interface", "src": "source", "table": "table", "metric": "metric",
	}
	ruleWords = map[string]string{
		"from": "from", "to": "to", "iif": "interface", "dev": "interface", "fwmark": "mark", "table": "table", "lookup": "table",
		"preference": "priority", "pref": "priority", "order": "priority", "prio": "priority", "priority": "priority",
	}
)

// readRoute reads "src 192.0.2.1 10.0.0.0/8 via 192.0.2.254 dev eth0".
func readRoute(s *Statement) (string, error) {
	keys, err := readWords(s, routeWords, "to")
	if err != nil {
		return "", err
	}
	if keys["via"] == "" && keys["interface"] == "" {
		return "", fmt.Errorf("a route without a way")
	}
	if keys["to"] == "" {
		return "", fmt.Errorf("a route to nowhere")
	}
	return joinKeys(keys, "to", "via", "interface", "source", "table", "metric"), nil
}

// readRule reads "from 192.0.2.0/24 table 100 priority 1000".
func readRule(s *Statement) (string, error) {
	keys, err := readWords(s, ruleWords, "")
	if err != nil {
		return "", err
	}
	if keys["table"] == "" || len(keys) == 1 {
		return "", fmt.Errorf("lvx's rules look up a table, for some packets")
	}
	return joinKeys(keys, "from", "to", "interface", "mark", "table", "priority"), nil
}

// readWords reads pairs of words. The word for a value that stands alone is
// alone.
func readWords(s *Statement, words map[string]string, alone string) (map[string]string, error) {
	keys := map[string]string{}
	all := append([]string{s.Word}, s.Args...)
	for i := 0; i < len(all); i++ {
		key, isKnown := words[all[i]]
		value := all[i]
		switch {
		case isKnown && i+1 < len(all):
			i++
			value = all[i]
		case alone != "" && keys[alone] == "" && !isKnown:
			key = alone
		default:
			return nil, fmt.Errorf("lvx has no %s in a route or rule", quote(all[i]))
		}
		text, ok := routeValue(key, value)
		switch {
		case !ok && !isKnown:
			return nil, fmt.Errorf("lvx has no %s in a route or rule", quote(value))
		case !ok:
			return nil, fmt.Errorf("lvx takes no %s %s", all[i-1], quote(value))
		}
		if text != "" {
			keys[key] = text
		}
	}
	return keys, nil
}

// routeValue is a value as the output has it; "" is the default.
func routeValue(key, value string) (text string, ok bool) {
	switch key {
	case "to", "from":
		if value == "default" || value == "all" || value == "any" {
			if key == "to" && value == "default" {
				return value, true
			}
			return "", key == "from"
		}
		p, isPrefix := parseVIP(value)
		return p.Masked().String(), isPrefix
	case "via", "source":
		a, err := netip.ParseAddr(value)
		return scalar(value), err == nil && a.Zone() == ""
	case "interface":
		return scalar(value), isInterface(value)
	case "table":
		if value == "main" {
			return "", true
		}
	}
	bits := 31
	if key == "mark" {
		bits = 32
	}
	n, err := strconv.ParseUint(value, 0, bits)
	if n == 0 {
		return "", err == nil && key == "metric"
	}
	return strconv.FormatUint(n, 10), err == nil
}

func joinKeys(keys map[string]string, order ...string) string {
	var words []string
	for _, key := range order {
		if keys[key] != "" {
			text := keys[key]
			if strings.Contains(text, ":") && text[0] != '"' {
				text = strconv.Quote(text)
			}
			words = append(words, key+": "+text)
		}
	}
	return strings.Join(words, ", ")
}
