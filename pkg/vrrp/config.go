// Package vrrp decides who owns a virtual address: VRRP version 2 (RFC 3768)
// and version 3 (RFC 5798), interoperable with keepalived.
//
// The codec, the state machine and the router are separate: [Machine] is
// pure and does no I/O, [Router] owns the socket, the clock and the thread.
// The package does not know what a virtual service is.
package vrrp

import (
	"net/netip"
	"time"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// Route is a route that moves with the VIPs.
type Route = vips.Route

// Rule is a rule of policy routing that moves with the VIPs.
type Rule = vips.Rule

// Instance is the configuration of one virtual router.
type Instance struct {
	Name           string
	Interface      string
	VRID           uint8          // virtual router identifier, 1-255
	Version        int            // 2 or 3
	Priority       uint8          // 1-254, 255 for the address owner; keepalived's default 100
	AdvertInterval time.Duration  // version 2: whole seconds; version 3: centiseconds, 10 ms to 40.95 s
	AuthPass       string         // version 2 simple password, at most 8 characters; "" = no authentication
	NoPreempt      bool           // do not take over from a lower-priority master
	PreemptDelay   time.Duration  // wait this long before preempting
	StartupDelay   time.Duration  // stay in backup at least this long after the start
	UnicastPeers   []netip.Addr   // send to these instead of to 224.0.0.18
	Source         netip.Addr     // what adverts come from; zero = the first address of the interface that is no VIP
	Track          []Track        // interfaces whose state counts
	TrackServices  []string       // names of services that must have a usable real
	TrackWeight    int            // subtracted from the priority while a tracked service has no usable real; 0 = fault
	TrackExec      []TrackExec    // programs whose exit status counts
	TrackFiles     []TrackFile    // files that hold a number which counts
	TrackProcesses []TrackProcess // programs that must be running
	TrackBFD       []TrackBFD     // BFD sessions that must be up
	SyncGroup      string         // instances of one group fail over together
	Addresses      []netip.Prefix // the VIPs, with the prefix length they get on the interface

	Unadvertised []netip.Addr          // of the VIPs those that no advert names (keepalived's virtual_ipaddress_excluded)
	Devices      map[netip.Addr]string // the interface of VIPs that are not to go on Interface, or are to go there whatever its networks are

	Routing vips.Routing // routes and rules that are there while this host has the VIPs
}

// TrackExec is a program that says whether this host is fit: exit status 0. It
// runs as an unprivileged user (keepalived's vrrp_script).
type TrackExec struct {
	Argv     []string
	Interval time.Duration // default 1 s
	Timeout  time.Duration // default Interval
	Fall     int           // failures in a row until it counts as failed; default 1
	Rise     int           // passes in a row until it counts as passed again; default 1
	InitFail bool          // it counts as failed until it has passed
	// Weight is added to the priority while the program passes if it is above
	// 0, and while it fails if it is below; 0 = go to fault while it fails.
	Weight int
	// IsReversed has Weight taken off instead; with 0, go to fault while the
	// program passes.
	IsReversed bool
}

// TrackFile is a file that holds a whole number. A file that is not there, or
// empty, holds 0.
type TrackFile struct {
	Path string
	// Weight times the number is added to the priority; 0 = any number but 0
	// is a fault.
	Weight     int
	IsReversed bool // the number is taken off; with weight 0, 0 alone is a fault
}

// TrackProcess is a program that must be running.
type TrackProcess struct {
	Name   string // the name of the command, or the path that it was started by
	Quorum int    // how many must run; default 1

	Weight     int // as with [TrackExec]
	IsReversed bool
}

// TrackBFD is a BFD session of this host that must be up. One that nothing has
// been heard of is down, as with keepalived.
type TrackBFD struct {
	Name       string
	Weight     int // as with [TrackExec]
	IsReversed bool
}

// Track makes the state of an interface count.
type Track struct {
	Interface string
	Weight    int // subtracted from the priority while the interface is down; 0 = go to fault
}

// Role is the state of a virtual router (RFC 5798 section 6.4), plus Fault.
type Role uint8

// The roles. Fault is keepalived's: a tracked thing is down, nothing is sent
// or owned until it is back.
const (
	Init Role = iota
	Backup
	Master
	Fault
)

// String gives keepalived's word: "INIT", "BACKUP", "MASTER", "FAULT".
func (r Role) String() string { return [...]string{"INIT", "BACKUP", "MASTER", "FAULT"}[r] }

// Peer is the last accepted advertisement of another router.
type Peer struct {
	Addr     netip.Addr
	Priority uint8
	Seen     time.Time
}

// Status is what `lvx status` shows of one instance.
type Status struct {
	Instance string
	Role     Role
	Since    time.Time
	Why      string // the last transition's reason, for people
	Priority uint8  // the effective one
	Peers    []Peer
	Dropped  map[string]uint64 // rejected advertisements by reason
	Warning  string            // e.g. "another host claims virtual router 51 with different addresses"
}

// Event is a transition of one instance.
type Event struct {
	Instance string
	Old, New Role
	Why      string
	At       time.Time
}
