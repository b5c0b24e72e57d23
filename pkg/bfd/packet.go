package bfd

import (
	"encoding/binary"
	"time"
)

// State is the state of a session (RFC 5880 section 4.1).
type State uint8

// The states, with their numbers on the wire.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String is the state in words.
func (s State) String() string { return [...]string{"admin down", "down", "init", "up"}[s&3] }

// Diagnostic says why a session left the state up (RFC 5880 section 4.1).
type Diagnostic uint8

// The diagnostics that a [Speaker] sends.
const (
	NoDiagnostic         Diagnostic = 0
	DetectionTimeExpired Diagnostic = 1
	NeighborSignaledDown Diagnostic = 3
	AdministrativelyDown Diagnostic = 7
)

const (
	lastAssigned   = 8
	diagnosticMask = 31
)

var diagnostics = [lastAssigned + 1]string{
	"no diagnostic", "detection time expired", "echo function failed", "neighbour signaled session down",
	"forwarding plane reset", "path down", "concatenated path down", "administratively down",
	"reverse concatenated path down",
}

// String is the diagnostic in words.
func (d Diagnostic) String() string {
	if d > lastAssigned {
		return "unassigned diagnostic"
	}
	return diagnostics[d]
}

// Packet is a BFD control packet without authentication (RFC 5880 section 4.1).
type Packet struct {
	Diagnostic        Diagnostic
	State             State
	Poll, Final       bool
	Independent       bool // the control plane's fate is not the forwarding plane's
	Demand            bool
	Multiplier        uint8
	MyDiscriminator   uint32
	YourDiscriminator uint32
	DesiredMinTx      time.Duration
	RequiredMinRx     time.Duration
	RequiredMinEchoRx time.Duration
}

const (
	version   = 1
	packetLen = 24

	flagPoll           = 0x20
	flagFinal          = 0x10
	flagIndependent    = 0x08
	flagAuthentication = 0x04
	flagDemand         = 0x02
	flagMultipoint     = 0x01
)

// Reason says why a packet is discarded.
type Reason string

// Error implements error.
func (r Reason) Error() string { return string(r) }

// The reasons for which [Parse] discards a packet (RFC 5880 section 6.8.6).
const (
	ErrShort         Reason = "shorter than a control packet"
	ErrVersion       Reason = "not version 1"
	ErrLength        Reason = "its length field is wrong"
	ErrMultiplier    Reason = "detection multiplier 0"
	ErrMultipoint    Reason = "multipoint bit set"
	ErrDiscriminator Reason = "discriminator 0"
	ErrState         Reason = "up or init without the other side's discriminator"
	ErrAuthenticated Reason = "authenticated"
	ErrPollAndFinal  Reason = "poll and final in one packet"
)

// Parse reads a control packet; its error is a [Reason]. What follows the
// length that the packet states is ignored.
func Parse(b []byte) (Packet, error) {
	if len(b) < packetLen {
		return Packet{}, ErrShort
	}
	flags, length := b[1], int(b[3])
	p := Packet{
		Diagnostic:        Diagnostic(b[0] & diagnosticMask),
		State:             State(flags >> 6),
		Poll:              flags&flagPoll != 0,
		Final:             flags&flagFinal != 0,
		Independent:       flags&flagIndependent != 0,
		Demand:            flags&flagDemand != 0,
		Multiplier:        b[2],
		MyDiscriminator:   binary.BigEndian.Uint32(b[4:]),
		YourDiscriminator: binary.BigEndian.Uint32(b[8:]),
		DesiredMinTx:      microseconds(b[12:]),
		RequiredMinRx:     microseconds(b[16:]),
		RequiredMinEchoRx: microseconds(b[20:]),
	}
	switch {
	case b[0]>>5 != version:
		return Packet{}, ErrVersion
	case length < packetLen || length > len(b):
		return Packet{}, ErrLength
	case p.Multiplier == 0:
		return Packet{}, ErrMultiplier
	case flags&flagMultipoint != 0:
		return Packet{}, ErrMultipoint
	case p.MyDiscriminator == 0:
		return Packet{}, ErrDiscriminator
	case p.YourDiscriminator == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, ErrState
	case flags&flagAuthentication != 0:
		return Packet{}, ErrAuthenticated
	case p.Poll && p.Final:
		return Packet{}, ErrPollAndFinal
	}
	return p, nil
}

func microseconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}

// Append appends the packet as it is sent.
func (p *Packet) Append(b []byte) []byte {
	flags := uint8(p.State) << 6
	for flag, isSet := range map[uint8]bool{
		flagPoll: p.Poll, flagFinal: p.Final, flagIndependent: p.Independent, flagDemand: p.Demand,
	} {
		if isSet {
			flags |= flag
		}
	}
	b = append(b, version<<5|uint8(p.Diagnostic&diagnosticMask), flags, p.Multiplier, packetLen)
	b = binary.BigEndian.AppendUint32(b, p.MyDiscriminator)
	b = binary.BigEndian.AppendUint32(b, p.YourDiscriminator)
	for _, d := range []time.Duration{p.DesiredMinTx, p.RequiredMinRx, p.RequiredMinEchoRx} {
		b = binary.BigEndian.AppendUint32(b, uint32(min(d/time.Microsecond, 1<<32-1)))
	}
	return b
}
