// Package lbtest holds the one behaviour suite that every [lb.Backend]
// passes, and an in-memory backend that passes it too.
//
// [Run] drives a backend through a [Harness]: it applies states, sends
// packets and asks which real server got them. What it expects is what the
// kernel's IPVS was seen to do (see testdata); where lvx differs on purpose
// the case says so. [Fake] doubles as the test double for whoever needs a
// backend: it keeps time with the time package, so it works in a synctest
// bubble. The package measures nothing and needs no privileges of its own;
// a Harness may.
package lbtest

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Outcome is what became of one packet.
type Outcome struct {
	Real    netip.Addr // the real server that got it; the zero Addr = none
	Verdict string     // what the packet path calls it, only for messages
}

// Harness is a backend with a client in front of it and real servers behind
// it. Every case gets a fresh one, on which nothing was applied yet.
//
// The suite uses the VIPs 10.0.0.100 to 10.0.0.103, the real servers
// 10.0.0.11 to 10.0.0.13, the sorry server 10.0.0.14 and clients in
// 172.16.0.0/16: the harness makes all four servers reachable.
type Harness interface {
	lb.Backend

	// Send lets a client send one packet and tells what became of it. The
	// packet is processed completely when Send returns.
	Send(p lb.Packet) Outcome

	// Damage changes what the kernel holds behind the backend's back, as a
	// careless administrator would: at least one service of the applied
	// state no longer works as it should.
	Damage() error
}

// Run runs the whole suite, one subtest per behaviour. open is called once
// for each of them; the suite closes what it opened.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range suite {
		t.Run(c.name, func(t *testing.T) {
			h := open(t)
			t.Cleanup(func() { _ = h.Close(false) })
			c.run(&bench{T: t, h: h})
		})
	}
}

// suite is every behaviour, grouped by the file that holds it.
var suite = []struct {
	name string
	run  func(*bench)
}{
	{"rr/order", rrOrder},
	{"rr/ignores weights but 0", rrWeights},
	{"rr/moves on after an edit", rrEdit},
	{"rr/returning real keeps its place", rrReturn},
	{"wrr/sequences", wrrSequences},
	{"sh/buckets", shBuckets},
	{"udp/flow stays", udpFlow},
	{"quiesce/old flows stay", quiesce},
	{"remove/flow ends", removeReal},
	{"remove/service", removeService},
	{"add/service beside others", addService},
	{"group/scheduled as one", group},
	{"listener/every port", everyPort},
	{"listener/narrowest wins", narrowest},
	{"listener/others pass", othersPass},
	{"flow/no SYN, no flow", noFlow},
	{"flow/SYN on a closed one", closedFlow},

	{"persistence/client stays", persistClient},
	{"persistence/netmask", persistMask},
	{"persistence/quiesced real", persistQuiesced},
	{"persistence/group", persistGroup},
	{"persistence/let go", unbound},

	{"none/no usable real", noReal},
	{"none/sorry server", sorry},
	{"none/sorry server is a real too", sorryReal},
	{"acl/deny and allow", acl},
	{"role/standby", standby},
	{"role/lease", lease},
	{"role/switch", switching},

	{"apply/idempotent", idempotent},
	{"apply/state not touched", stateUntouched},
	{"apply/repairs damage", repair},
	{"stats/counters", counters},
	{"stats/active and inactive", activeInactive},
	{"observed/order and weights", observed},
	{"connections/listed", connections},
	{"explain/changes nothing", explain},
	{"close/nothing answers", closeAll},
}
