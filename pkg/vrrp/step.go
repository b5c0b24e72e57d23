package vrrp

import (
	"net/netip"
	"time"
)

// Input is what happens to a machine.
type Input interface{ input() }

// The inputs.
type (
	// Start brings a machine from Init into the game.
	Start struct {
		Self    netip.Addr
		Holding bool // the VIPs are already on the interface
		Resume  bool // and no peer can have missed us yet: go on as master at once
	}
	// Heard is an accepted advertisement.
	Heard struct {
		From     netip.Addr
		Priority uint8
		Interval time.Duration
	}
	// Tick is due at [Machine.Deadline].
	Tick struct{}
	// Ready says that what [Take] asked for is done.
	Ready struct{}
	// Failed says that it could not be done.
	Failed struct{ Err error }
	// Condition is the state of the host: with a Fault nothing may be owned,
	// Penalty is taken off the priority, Self is the primary address.
	// With a Wait a backup does not become master yet; with a Bear it does not
	// preempt.
	Condition struct {
		Fault   string
		IsLink  bool   // the fault is one of an interface
		Wait    string // why
		Bear    string // why
		Penalty int    // below 0: it is added
		Self    netip.Addr
	}
	// Rival says that another host was seen to use a VIP, in ARP or NDP.
	Rival struct{}
	// Configure changes the configuration under way.
	Configure struct{ Instance Instance }
	// Stop asks for an orderly end in Init. A master with LeaveIfAlone leaves
	// its VIPs where they are if no successor speaks.
	Stop struct{ LeaveIfAlone bool }
	// Replace ends a machine at once: another virtual router of this host goes
	// on with its VIPs.
	Replace struct{}
)

func (Start) input()     {}
func (Heard) input()     {}
func (Tick) input()      {}
func (Ready) input()     {}
func (Failed) input()    {}
func (Condition) input() {}
func (Rival) input()     {}
func (Configure) input() {}
func (Stop) input()      {}
func (Replace) input()   {}

// Action is what a machine wants done.
type Action interface{ action() }

// The actions.
type (
	// Advertise sends an advertisement. Priority 0 resigns.
	Advertise struct{ Priority uint8 }
	// Resign sends an advertisement of priority 0 of a master whose lease is over,
	// and does not renew the lease.
	Resign struct{}
	// Take makes the data path ready and puts the VIPs on the interface;
	// [Ready] or [Failed] answers it.
	Take struct{}
	// Drop takes the VIPs off and silences the data path. Linger allows a
	// moment for the winner's announcement to reach everybody first.
	Drop struct{ Linger bool }
	// Leave leaves the VIPs and the data path as they are, for a later run of
	// the daemon.
	Leave struct{}
	// Announce makes known on the segment where the VIPs are.
	Announce struct{}
	// Change is a transition, for people.
	Change struct {
		Old, New Role
		Why      string
	}
)

func (Advertise) action() {}
func (Resign) action()    {}
func (Take) action()      {}
func (Drop) action()      {}
func (Leave) action()     {}
func (Announce) action()  {}
func (Change) action()    {}
