// Package pcapng writes captures that tcpdump and Wireshark read
// (draft-ietf-opsawg-pcapng).
//
// It writes Ethernet frames with their interface, direction, time and a
// comment, and how many an interface has dropped: nothing else of the format. It reads no captures and opens no
// files.
package pcapng

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Types of blocks, and options of them.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	byteOrder    = 0x1a2b3c4d
	linkEthernet = 1

	optionEnd        = 0
	optionComment    = 1
	optionName       = 2 // of an interface
	optionResolution = 9 // of an interface's times
	optionFlags      = 2 // of a packet
	optionProgram    = 4 // of a section
	optionDropped    = 5 // of an interface's statistics

	nanoseconds = 9 // as 10^-9
)

// Direction is which way a frame went.
type Direction uint32

// The directions.
const (
	In  Direction = 1
	Out Direction = 2
)

// Packet is a frame, or its start.
type Packet struct {
	Time      time.Time
	Interface string
	Direction Direction
	Data      []byte // what was kept
	Length    int    // of the frame on the wire
	Comment   string
}

// Writer writes one section of a capture.
type Writer struct {
	w          io.Writer
	interfaces map[string]uint32
	snap       uint32
}

// NewWriter begins a capture in which at most snap bytes of each frame are
// kept. program is who made the capture.
func NewWriter(w io.Writer, program string, snap int) (*Writer, error) {
	p := &Writer{w: w, interfaces: map[string]uint32{}, snap: uint32(snap)}
	body := binary.LittleEndian.AppendUint32(nil, byteOrder)
	body = append(body, 1, 0, 0, 0)                           // version 1.0
	body = binary.LittleEndian.AppendUint64(body, ^uint64(0)) // length not known
	body = appendOption(body, optionProgram, []byte(program))
	return p, p.block(blockSection, endOptions(body))
}

// Write adds a packet. An interface is described when a packet names it
// first.
func (p *Writer) Write(packet Packet) error {
	id, err := p.interfaceID(packet.Interface)
	if err != nil {
		return err
	}
	stamp := uint64(packet.Time.UnixNano())
	body := binary.LittleEndian.AppendUint32(nil, id)
	body = binary.LittleEndian.AppendUint32(body, uint32(stamp>>32))
	body = binary.LittleEndian.AppendUint32(body, uint32(stamp))
	body = binary.LittleEndian.AppendUint32(body, uint32(len(packet.Data)))
	body = binary.LittleEndian.AppendUint32(body, uint32(max(packet.Length, len(packet.Data))))
	body = appendPadded(body, packet.Data)
	body = appendOption(body, optionFlags, binary.LittleEndian.AppendUint32(nil, uint32(packet.Direction)))
	if packet.Comment != "" {
		body = appendOption(body, optionComment, []byte(packet.Comment))
	}
	return p.block(blockPacket, endOptions(body))
}

// WriteDropped says how many frames the driver of an interface had dropped by a
// time, since the capture began.
func (p *Writer) WriteDropped(at time.Time, name string, frames uint64) error {
	id, err := p.interfaceID(name)
	if err != nil {
		return err
	}
	stamp := uint64(at.UnixNano())
	body := binary.LittleEndian.AppendUint32(nil, id)
	body = binary.LittleEndian.AppendUint32(body, uint32(stamp>>32))
	body = binary.LittleEndian.AppendUint32(body, uint32(stamp))
	body = appendOption(body, optionDropped, binary.LittleEndian.AppendUint64(nil, frames))
	return p.block(blockStatistics, endOptions(body))
}

// interfaceID is the number of an interface, which is described first if need
// be.
func (p *Writer) interfaceID(name string) (uint32, error) {
	id, ok := p.interfaces[name]
	if ok {
		return id, nil
	}
	id = uint32(len(p.interfaces))
	if err := p.describe(name); err != nil {
		return 0, err
	}
	p.interfaces[name] = id
	return id, nil
}

func (p *Writer) describe(name string) error {
	body := []byte{linkEthernet, 0, 0, 0}
	body = binary.LittleEndian.AppendUint32(body, p.snap)
	body = appendOption(body, optionName, []byte(name))
	body = appendOption(body, optionResolution, []byte{nanoseconds})
	return p.block(blockInterface, endOptions(body))
}

// block writes one block, whose length stands at both of its ends.
func (p *Writer) block(kind uint32, body []byte) error {
	size := uint32(len(body) + 12)
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, size)
	b = append(b, body...)
	b = binary.LittleEndian.AppendUint32(b, size)
	if _, err := p.w.Write(b); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}

// longest is how long an option may be.
const longest = 1<<16 - 1

func appendOption(b []byte, code uint16, value []byte) []byte {
	value = value[:min(len(value), longest)]
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return appendPadded(b, value)
}

func endOptions(b []byte) []byte { return append(b, optionEnd, 0, 0, 0) }

// appendPadded fills up to a multiple of four bytes.
func appendPadded(b, value []byte) []byte {
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}
