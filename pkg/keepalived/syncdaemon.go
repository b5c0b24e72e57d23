package keepalived

import (
	"net/netip"
	"strconv"
)

// readSync makes lvx's sync of lvs_sync_daemon: the kernel's wire, under the
// identifier that the other director's IPVS has. It comes after the VRRP
// instances, one of which gives the identifier.
func (m *mapper) readSync() {
	c := m.globals.syncDaemon
	if c == nil {
		return
	}
	if m.o.Backend == "ipvs" {
		c.mark(Lost, "lvx shares connections that XDP forwards: run ipvsadm --start-daemon beside backend: ipvs")
		return
	}
	r := m.routerNamed(c.arg(1))
	if !isInterface(c.arg(0)) || r == nil {
		c.mark(Harmless, "keepalived ignores it: it wants an interface and a vrrp_instance")
		return
	}
	id := strconv.FormatUint(r.vrid, 10)
	keys := []pair{{"interface", scalar(c.arg(0))}}
	for i := 2; i < len(c.Args); i++ {
		word, value := c.Args[i], c.arg(i+1)
		n, err := strconv.Atoi(value)
		switch {
		case i == 2 && isNumber(word): // the identifier alone, as old versions have it
			id = word
			continue
		case word == "id" && err == nil && n >= 1 && n <= 255:
			id = value
		case word == "ttl" && err == nil && n >= 1 && n <= 255, word == "port" && err == nil && n >= 1 && n <= 65535:
			keys = append(keys, pair{word, value})
		case word == "maxlen" && err == nil && n >= 128 && n <= 65507:
			keys = append(keys, pair{word, value})
		case word == "group" && isGroup(value):
			keys = append(keys, pair{"multicast", scalar(value)})
		default:
			c.mark(Changed, "without %s", quote(word))
		}
		i++
	}
	m.globals.sync = append([]pair{{"syncid", id}}, keys...)
	m.globals.syncItem = &item{from: c}
	c.mark(Mapped, "lvx speaks the wire of kernel IPVS; between directors that run lvx, `peers:` is better")
}

func isNumber(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= 255
}

// isGroup reports whether s is a multicast group of IPv4.
func isGroup(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4() && a.IsMulticast()
}
