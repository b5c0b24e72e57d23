package vrrp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Reason says why an advertisement was rejected. A rejected advertisement
// is counted under its reason and changes nothing else: no timer, no state.
type Reason string

// The reasons, as [Status.Dropped] shows them.
const (
	BadTTL         Reason = "ttl"         // not 255: it came through a router
	BadDestination Reason = "destination" // multicast where unicast is configured or the other way round
	BadPeer        Reason = "peer"        // unicast from an address that is not a configured peer
	BadLength      Reason = "length"
	BadVersion     Reason = "version"
	BadType        Reason = "type"
	BadChecksum    Reason = "checksum"
	BadAuth        Reason = "auth_type"
	BadPassword    Reason = "password"
	BadInterval    Reason = "interval"  // version 2: not ours (RFC 3768 section 7.1)
	BadAddresses   Reason = "addresses" // another list of VIPs
	OwnAddress     Reason = "own_address"
)

// Error makes a Reason an error.
func (r Reason) Error() string { return "advertisement rejected: " + string(r) }

// foreignText reports whether r means that another cluster may be using our
// virtual router identifier, in words for people, or "".
func (r Reason) foreignText() string {
	switch r {
	case BadVersion:
		return "another VRRP version"
	case BadAuth:
		return "another authentication type"
	case BadPassword:
		return "another password"
	case BadInterval:
		return "another advertisement interval"
	case BadAddresses:
		return "different addresses"
	case OwnAddress:
		return "our own address"
	}
	return ""
}

// Accepts checks p, which came from src to dst, against the configuration
// of the virtual router (RFC 3768 and 5798, section 7.1). The error is a
// [Reason]. The list of addresses must be ours in any order, unless the
// sender is the address owner.
func (i Instance) Accepts(p Packet, src, dst netip.Addr) error {
	switch {
	case len(i.UnicastPeers) == 0 && !dst.IsMulticast():
		return BadDestination
	case len(i.UnicastPeers) > 0 && dst.IsMulticast():
		return BadDestination
	case len(i.UnicastPeers) > 0 && !slices.Contains(i.UnicastPeers, src.WithZone("")):
		return BadPeer
	case int(p.Version) != i.Version:
		return BadVersion
	case p.Version == 2 && p.Auth != i.authType():
		return BadAuth
	case p.Version == 2 && p.Auth == AuthSimple && p.Password != i.wirePassword():
		return BadPassword
	case p.Version == 2 && p.Interval != i.AdvertInterval:
		return BadInterval
	case p.Priority != OwnerPriority && !sameAddresses(p.Addrs, i.advertised()):
		return BadAddresses
	}
	return nil
}

func sameAddresses(a, b []netip.Addr) bool {
	if slices.Equal(a, b) {
		return true
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}

// Validate reports the first thing about i that no protocol or router can
// do, for callers that did not get it from a validated configuration.
func (i Instance) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("virtual router %s: "+format, append([]any{i.Name}, args...)...)
	}
	switch {
	case i.Name == "" || i.Interface == "":
		return bad("no name or no interface")
	case i.VRID == 0:
		return bad("virtual router identifier 0 (1 to 255)")
	case i.Priority == 0:
		return bad("priority 0 (1 to 255; 0 is how a master resigns)")
	case len(i.AuthPass) > authLen:
		return bad("password longer than %d characters", authLen)
	case i.Version == 3 && i.AuthPass != "":
		return bad("password in version 3 (RFC 5798 has no authentication)")
	case len(i.Addresses) == 0:
		return bad("no addresses")
	}
	dst := i.groupAddr()
	if i.Source.IsValid() && i.Source.Is4() != dst.Is4() {
		return bad("source %s of another family than %s", i.Source, i.Addresses[0])
	}
	for _, peer := range i.UnicastPeers {
		if peer.Is4() != dst.Is4() {
			return bad("unicast peer %s of another family than %s", peer, i.Addresses[0])
		}
	}
	if _, err := i.advertPacket(i.Priority).Append(nil, dst, dst); err != nil {
		return bad("%w", err)
	}
	return nil
}

// isIPv4 reports whether i speaks over IPv4: the first address decides.
func (i Instance) isIPv4() bool { return i.Addresses[0].Addr().Is4() }

func (i Instance) groupAddr() netip.Addr {
	if i.isIPv4() {
		return Group4
	}
	return Group6
}

// advertised lists the VIPs of the first one's family. Those of the other
// family, and the unadvertised ones, move with them but are in no
// advertisement, like keepalived's virtual_ipaddress_excluded.
func (i Instance) advertised() []netip.Addr {
	addrs := make([]netip.Addr, 0, len(i.Addresses))
	for _, p := range i.Addresses {
		if p.Addr().Is4() == i.isIPv4() && !slices.Contains(i.Unadvertised, p.Addr()) {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

func (i Instance) authType() AuthType {
	if i.AuthPass != "" {
		return AuthSimple
	}
	return AuthNone
}

func (i Instance) wirePassword() (p [authLen]byte) {
	copy(p[:], i.AuthPass)
	return p
}

// advertPacket is the advertisement of i with the given priority.
func (i Instance) advertPacket(priority uint8) Packet {
	return Packet{
		Version: uint8(i.Version), VRID: i.VRID, Priority: priority, Interval: i.AdvertInterval,
		Auth: i.authType(), Password: i.wirePassword(), Addrs: i.advertised(),
	}
}

// skewTime is the time by which lower priorities wait longer: of the master's
// interval in version 3 (RFC 5798 section 6.1), of a second in version 2
// (RFC 3768 section 6.1).
func (i Instance) skewTime(priority uint8, interval time.Duration) time.Duration {
	if i.Version == 2 {
		interval = time.Second
	}
	return time.Duration(256-int(priority)) * interval / 256
}

// busyTime is what a busy host may need to renew a lease, or to take over or give up
// VIPs, however short its adverts are.
const busyTime = 500 * time.Millisecond

// leaseTime is how long the data plane may serve without hearing from a master
// of the given priority: three adverts, its skew and half an advert, but
// never less than the longest time a backup may take to notice, so that
// there is no moment in which no host serves.
func (i Instance) leaseTime(priority uint8) time.Duration {
	adverts := 3 * i.AdvertInterval
	return max(adverts+i.skewTime(priority, i.AdvertInterval)+i.AdvertInterval/2,
		adverts+i.skewTime(0, i.AdvertInterval),
		busyTime)
}

// successionTime is how long a master that has resigned waits for a successor: for the
// skew of the slowest backup, and for its takeover.
func (i Instance) successionTime() time.Duration {
	return i.skewTime(0, i.AdvertInterval) + busyTime
}

// resignedLease is what a master of the given priority renews its lease to with its
// resignation: the wait for a successor, and what it takes to give up the VIPs or to
// leave them.
func (i Instance) resignedLease(priority uint8) time.Duration {
	return max(i.leaseTime(priority), i.successionTime()+busyTime)
}

// listenTime is how long a router that finds its VIPs on the interface listens for
// another master: an advert, and a tenth more, because a peer's may be late by a little.
func (i Instance) listenTime() time.Duration { return i.AdvertInterval * 11 / 10 }
