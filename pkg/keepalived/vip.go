package keepalived

import (
	"net/netip"
	"slices"
	"strings"
)

// vip is an address of a vrrp_instance.
type vip struct {
	netip.Prefix
	dev       string // where it goes instead of the instance's interface
	isHidden  bool   // not in the adverts
	statement *Statement
}

// text is the address as the output has it.
func (v vip) text() string {
	if v.dev == "" && !v.isHidden {
		return scalar(v.Prefix.String())
	}
	words := "address: " + scalar(v.Prefix.String())
	if v.dev != "" {
		words += ", interface: " + scalar(v.dev)
	}
	if v.isHidden {
		words += ", advertise: false"
	}
	return "{" + words + "}"
}

// orderAddresses puts those that are advertised first: they decide the family.
func (r *router) orderAddresses() {
	slices.SortStableFunc(r.addresses, func(a, b vip) int {
		switch {
		case a.isHidden == b.isHidden:
			return 0
		case a.isHidden:
			return 1
		}
		return -1
	})
}

// addressed reads the VIPs.
func (m *mapper) addressed(r *router, c *Statement) bool {
	switch c.Word {
	case "virtual_ipaddress":
		c.mark(Mapped, "")
		for _, v := range c.Block {
			m.vip(r, v, false)
		}
	case "virtual_ipaddress_excluded":
		c.mark(Mapped, "")
		for _, v := range c.Block {
			m.vip(r, v, true)
		}
	default:
		return false
	}
	return true
}

// vip reads an address with its options.
func (m *mapper) vip(r *router, v *Statement, isHidden bool) {
	p, ok := parseVIP(v.Word)
	if host, length, hasLength := strings.Cut(v.Word, "/"); !ok && hasLength {
		if p, ok = parseVIP(host); ok {
			v.mark(Mapped, "keepalived takes no length %s, but the whole address", quote(length))
		}
	}
	if !ok {
		v.mark(Harmless, "keepalived ignores the address %s", quote(v.Word))
		return
	}
	var ignored []string
	dev := ""
	for i := 0; i < len(v.Args); i++ {
		switch word := v.Args[i]; word {
		case "dev":
			i++
			if dev = v.arg(i); !isInterface(dev) {
				v.mark(Lost, "%s is not the name of an interface", quote(dev))
				return
			}
		case "label", "peer":
			ignored = append(ignored, word)
			i++
		case "scope", "brd", "broadcast", "preferred_lft":
			i++
		}
	}
	switch where, isFree := m.take("vip ", p.Addr().String(), v); {
	case !isFree:
		v.mark(Lost, "an address of line %d already: lvx has it once", where.line)
		return
	case p.Addr().IsLoopback(), p.Addr().IsMulticast(), p.Addr().IsUnspecified(), p.Bits() == 0:
		v.mark(Lost, "no address that clients can reach")
		return
	}
	if len(ignored) > 0 {
		v.mark(Changed, "without %s", strings.Join(ignored, " and "))
	}
	v.mark(Mapped, "")
	r.addresses = append(r.addresses, vip{p, dev, isHidden, v})
}

// isInterface reports whether an interface can have a name.
func isInterface(name string) bool {
	isOdd := func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' }
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsFunc(name, isOdd)
}

// parseVIP reads "192.0.2.1/24"; without a length it is that of the whole
// address.
func parseVIP(s string) (netip.Prefix, bool) {
	if a, ok := parseAddress(s); ok {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}
