package xdp

import (
	"cmp"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
)

// wireState is the state of a flow as peers are told of it.
type wireState struct {
	state  connsync.State
	isTold bool
}

// wireStates are the states of flows that peers are told of. A half-open
// connection is not told of, as in the kernel (ip_vs_sync_conn_needed).
var wireStates = [bpf.States]wireState{
	bpf.StateEstablished: {connsync.StateEstablished, true},
	bpf.StateFinWait:     {connsync.StateFinWait, true},
	bpf.StateTimeWait:    {connsync.StateTimeWait, true},
	bpf.StateClose:       {connsync.StateClose, true},
	bpf.StateUDP:         {connsync.StateNone, true},
	bpf.StateSynSent:     {connsync.StateSynSent, true},
	bpf.StateCloseWait:   {connsync.StateCloseWait, true},
	bpf.StateLastAck:     {connsync.StateLastAck, true},
}

// localStates are the states of TCP connections that peers tell of. Those that
// only a director that sees both directions has count as closing; others are
// not taken.
var localStates = [1 << 4]bpf.FlowState{
	connsync.StateEstablished: bpf.StateEstablished,
	connsync.StateFinWait:     bpf.StateFinWait,
	connsync.StateTimeWait:    bpf.StateTimeWait,
	connsync.StateClose:       bpf.StateClose,
	connsync.StateCloseWait:   bpf.StateFinWait,
	connsync.StateLastAck:     bpf.StateFinWait,
}

// twoWayStates are those of localStates that are another one for a connection by
// NAT, of which this director sees both directions.
var twoWayStates = map[connsync.State]bpf.FlowState{
	connsync.StateSynSent:   bpf.StateSynSent,
	connsync.StateCloseWait: bpf.StateCloseWait,
	connsync.StateLastAck:   bpf.StateLastAck,
}

// portOf is the port of a real that packets to a VIP's port go to.
func (b *Backend) portOf(slot uint32, port uint16) uint16 {
	if raw := &b.dp.Reals[slot]; raw.Method() == bpf.ForwardNat {
		return cmp.Or(bpf.PortWord(raw.Port), port)
	}
	return port
}

// directRouting are the flags of an entry that direct routing forwards.
const directRouting = connsync.ForwardRoute | connsync.FlagNoOutput

// stateTimeout is how long a flow lives in a state without a packet.
func (b *Backend) stateTimeout(s bpf.FlowState) time.Duration {
	t := b.state.Timeouts.WithDefaults()
	switch s {
	case bpf.StateSynRecv:
		return synRecvTimeout
	case bpf.StateEstablished:
		return t.TCP
	case bpf.StateFinWait:
		return t.TCPFin
	case bpf.StateTimeWait:
		return timeWaitTimeout
	case bpf.StateClose:
		return closeTimeout
	case bpf.StateSynSent:
		return synSentTimeout
	case bpf.StateCloseWait:
		return closeWaitTimeout
	case bpf.StateLastAck:
		return lastAckTimeout
	}
	return t.UDP
}

// isToldOf reports whether peers are told of a flow. They are not of one that is
// half-open or of a single datagram: its client may be made up.
func isToldOf(v bpf.FlowValue) bool {
	switch v.State() {
	case bpf.StateSynRecv:
		return false
	case bpf.StateUDP:
		return v.IsProven()
	}
	return true
}
