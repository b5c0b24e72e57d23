package connsync

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// The protocols that a record can carry, as in the IP header.
const (
	ProtocolNone = 0 // the template of a service that is found by its mark
	ProtocolTCP  = 6
	ProtocolUDP  = 17
	ProtocolSCTP = 132
)

// Flags are the flags of a connection (IP_VS_CONN_F_* in
// include/uapi/linux/ip_vs.h).
type Flags uint32

// Flags that lvx reads or writes. The lowest three bits hold the forwarding
// method.
const (
	ForwardMask   Flags = 0x0007
	ForwardMasq   Flags = 0x0000
	ForwardLocal  Flags = 0x0001
	ForwardTunnel Flags = 0x0002
	ForwardRoute  Flags = 0x0003 // direct routing

	FlagNoOutput     Flags = 0x0080 // replies do not pass the director
	FlagInactive     Flags = 0x0100 // counted as inactive: not established, or news of an end
	FlagSequence     Flags = 0x0600 // sequence numbers are moved (ftp): version 0 appends them
	FlagNoClientPort Flags = 0x0800
	FlagTemplate     Flags = 0x1000
)

// wireFlags are the flags that a receiver takes from the wire
// (IP_VS_CONN_F_BACKUP_MASK): whether an entry is hashed, came by
// synchronisation or is scheduled packet by packet is the receiver's matter.
const wireFlags Flags = 0x1f87

// State is the state of a connection as the kernel numbers it (enum
// ip_vs_tcp_states and its like in include/net/ip_vs.h).
type State uint16

// The states of a TCP connection. Those of UDP are 0 alone; those of a
// template are [StateNone] and [StateAssured], whatever its protocol.
const (
	StateNone        State = 0
	StateEstablished State = 1
	StateSynSent     State = 2
	StateSynRecv     State = 3
	StateFinWait     State = 4
	StateTimeWait    State = 5
	StateClose       State = 6
	StateCloseWait   State = 7
	StateLastAck     State = 8
	StateListen      State = 9
	StateSynAck      State = 10

	StateAssured State = 1
)

// stateCount is how many states a protocol has. A record with another protocol,
// or with a state beyond, is skipped.
func stateCount(protocol uint8) State {
	switch protocol {
	case ProtocolTCP:
		return 11
	case ProtocolUDP:
		return 1
	case ProtocolSCTP:
		return 14
	}
	return 0
}

// MaxTimeout is the longest timeout that version 1 can carry: whole seconds in
// 32 bits.
const MaxTimeout = (1<<32 - 1) * time.Second

// Option is an optional part of a version 1 record (IPVS_OPT_*).
type Option struct {
	Type uint8  // see the Option constants; with [OptionMayIgnore] a receiver that does not know it goes on
	Data []byte // 1 to 255 bytes
}

// The types of options, and the bit that lets a receiver ignore an option that
// it does not know.
const (
	OptionSequence  = 1 // sequence numbers of both directions, 24 bytes
	OptionPEData    = 2 // what a persistence engine keyed on
	OptionPEName    = 3 // the persistence engine, at most 16 bytes
	OptionMayIgnore = 0x40
)

// Record is one connection or template.
type Record struct {
	Protocol uint8
	Flags    Flags
	State    State
	Client   netip.AddrPort // of a template: the masked address, port 0
	Virtual  netip.AddrPort // of the template of a mark service: the mark as an address, port 0
	Real     netip.AddrPort
	Mark     uint32        // of the service; version 0 carries that of templates alone
	Timeout  time.Duration // the whole timeout, in seconds; 0 stands for the receiver's own: version 0 carries none
	Options  []Option      // version 1 alone
}

// IsTemplate reports whether r is a persistence template.
func (r *Record) IsTemplate() bool { return r.Flags&FlagTemplate != 0 }

// readMark sets the mark of a template of a mark service, where it is written as the
// virtual address alone.
func (r *Record) readMark() {
	if r.IsTemplate() && r.Protocol == ProtocolNone {
		r.Mark = binary.BigEndian.Uint32(r.Virtual.Addr().AsSlice())
	}
}

// isKnown reports whether r's protocol and state have a meaning. A template's
// state is not looked at, as in the kernel.
func (r *Record) isKnown() bool { return r.IsTemplate() || r.State < stateCount(r.Protocol) }
