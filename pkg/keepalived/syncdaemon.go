package keepalived

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
)

// minMaxLen is the least that lvx's sync takes as maxlen.
const minMaxLen = 128

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
	at := 1 // of the instance
	if c.arg(1) == "inst" {
		at = 2
	}
	r := m.routerNamed(c.arg(at))
	switch {
	case !isInterface(c.arg(0)):
		c.mark(Harmless, "keepalived ignores it: it wants an interface")
		return
	case r == nil:
		c.mark(Lost, "without a vrrp_instance keepalived sends and listens as syncid 0, which takes every syncid's: lvx wants one of its own (sync: {syncid: N})")
		return
	}
	id := strconv.FormatUint(r.vrid, 10)
	keys := []pair{{"interface", scalar(c.arg(0))}}
	for i := at + 1; i < len(c.Args); i++ {
		word, value := c.Args[i], c.arg(i+1)
		n, err := strconv.Atoi(value)
		switch {
		case i == at+1 && isNumber(word): // the identifier alone, as old versions have it
			id = word
			continue
		case word == "id" && err == nil && n >= 1 && n <= 255:
			id = value
		case word == "ttl" && err == nil && n >= 1 && n <= 255, word == "port" && err == nil && n >= 1 && n <= 65535:
			keys = append(keys, pair{word, value})
		case word == "maxlen" && err == nil && n >= minMaxLen && n <= 65507:
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

// readStartedDaemon makes lvx's sync of ipvsadm --start-daemon. Master and backup
// are one for lvx: VRRP decides, or it is both.
func (m *mapper) readStartedDaemon(s *Statement, d ipvsadm.Daemon) {
	keys := []pair{{"syncid", strconv.Itoa(d.ID)}, {"interface", scalar(d.Interface)}}
	for _, number := range []struct {
		key   string
		value int
	}{{"maxlen", d.MaxLen}, {"port", d.Port}, {"ttl", d.TTL}} {
		if number.value != 0 {
			keys = append(keys, pair{number.key, strconv.Itoa(number.value)})
		}
	}
	if d.Group.IsValid() {
		keys = append(keys, pair{"multicast", scalar(d.Group.String())})
	}
	switch {
	case m.o.Backend == "ipvs":
		s.mark(Lost, "lvx shares connections that XDP forwards: run ipvsadm --start-daemon beside backend: ipvs")
	case d.Interface == "":
		s.mark(Harmless, "the kernel refuses it too: No such device")
	case d.ID == 0:
		s.mark(Lost, "syncid 0 takes every syncid's: lvx wants one of its own (sync: {syncid: N})")
	case d.Group.Is6():
		s.mark(Lost, "lvx shares connections in groups of IPv4")
	case d.MaxLen != 0 && d.MaxLen < minMaxLen:
		s.mark(Lost, "datagrams of at most %d bytes: lvx wants %d", d.MaxLen, minMaxLen)
	case m.globals.sync != nil && !slices.Equal(m.globals.sync, keys):
		s.mark(Lost, "lvx sends and listens by the same settings: those of the other daemon are taken")
	case m.globals.sync != nil:
		s.mark(Mapped, "")
	default:
		m.globals.sync, m.globals.syncItem = keys, &item{from: s}
		s.mark(Mapped, "lvx sends while it is master of VRRP and listens while it is backup, and without VRRP it does both")
	}
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
