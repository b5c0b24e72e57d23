package config

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// Sync says with whom connections are shared, so that they outlive this
// director. The zero value: with nobody.
type Sync struct {
	Interface string       // of the segment of the other directors; default the first
	Peers     []netip.Addr // directors that run lvx
	KeyFile   string       // of the sessions with them
	Port      uint16       // TCP with peers, UDP with kernel IPVS; default 8848

	SyncID    uint8 // directors that run kernel IPVS share them under this number; 0: there are none
	Multicast netip.Addr
	TTL       uint8
	MaxLen    int
	Version   int // of the datagrams that are sent
}

// IsEnabled reports whether connections are shared with anybody.
func (s Sync) IsEnabled() bool { return len(s.Peers) > 0 || s.SyncID != 0 }

// readSync reads `sync:`. Its interface is by default the first one.
func readSync(interfaces []string) read[Sync] {
	return func(c *cursor) Sync {
		o := c.object()
		first := ""
		if len(interfaces) > 0 {
			first = interfaces[0]
		}
		s := Sync{
			Interface: get(o, "interface", first, interfaceName),
			Peers:     get(o, "peers", nil, addresses("peer")),
			KeyFile:   get(o, "key_file", "", path),
			Port:      get(o, "port", connsync.DefaultPort, number[uint16](1, 65535)),
			SyncID:    get(o, "syncid", 0, number[uint8](1, 255)),
			Multicast: get(o, "multicast", connsync.DefaultGroup, multicast),
			TTL:       get(o, "ttl", connsync.DefaultTTL, number[uint8](1, 255)),
			MaxLen:    get(o, "maxlen", connsync.DefaultMaxLen, number(connsync.MinMaxLen, connsync.MaxMaxLen)),
			Version:   get(o, "version", 1, number(0, 1)),
		}
		if !o.done() {
			return s
		}
		switch {
		case !s.IsEnabled():
			o.errorf("nobody to share connections with (want peers: [ADDRESS], directors that run lvx; or syncid: 1 to 255, for kernel IPVS)")
		case len(s.Peers) > 0 && s.KeyFile == "":
			o.at("peers").errorf("peers without key_file (want the path of a file with a key: openssl rand -hex 32)")
		case len(s.Peers) == 0 && o.has("key_file"):
			o.at("key_file").errorf("a key without peers (want both; kernel IPVS knows no keys)")
		}
		for _, key := range []string{"multicast", "ttl", "maxlen", "version"} {
			if s.SyncID == 0 && o.has(key) {
				o.at(key).errorf("%s without syncid (want both: it is for kernel IPVS)", key)
			}
		}
		return s
	}
}

// multicast reads an IPv4 multicast address.
func multicast(c *cursor) netip.Addr {
	s := filled(c, "an IPv4 multicast address such as 224.0.0.81")
	a, err := netip.ParseAddr(s)
	if s != "" && (err != nil || !a.Is4() || !a.IsMulticast()) {
		c.errorf("%s is not an IPv4 multicast address (want 224.0.0.81, for example)", quoted(s))
	}
	return a
}
