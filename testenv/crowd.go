package testenv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Crowd is any number of clients that are frames and nothing else: sent by one
// host, seen at real servers, never answered there.
type Crowd struct {
	From  *Host
	NIC   string           // of From
	To    net.HardwareAddr // the director, or the router on the way to it
	Reals []*Host          // seen on their eth0
}

// CrowdFlow is one connection of a [Crowd].
type CrowdFlow struct {
	UDP             bool
	Client, Virtual netip.AddrPort // of one family
}

// crowdBurst is how many frames are under way at a time: what a queue holds.
const crowdBurst = 500

// crowdPatience is how long frames of a burst are waited for before those that
// were not seen are sent again.
const crowdPatience = 200 * time.Millisecond

// Silence lets the reals answer nobody of a network: they do not know the way.
func (c *Crowd) Silence(ctx context.Context, clients netip.Prefix) error {
	for _, r := range c.Reals {
		if _, err := r.Run(ctx, "ip", "route", "replace", "blackhole", clients.String()); err != nil {
			return err
		}
	}
	return nil
}

// Send sends a packet of each flow until a real has seen it, again where a queue
// was full, and returns which real that was. Flags are those of the segments of
// TCP ("S", "PA", "FA", "R"). Flows that no real has seen when ctx ends are an
// error; their real is "".
func (c *Crowd) Send(ctx context.Context, flows []CrowdFlow, flags string) (reals []string, err error) {
	reals = make([]string, len(flows))
	missing := len(flows)
	for missing > 0 && ctx.Err() == nil {
		var frames [][]byte
		at := map[CrowdFlow]int{}
		for i, f := range flows {
			if reals[i] != "" {
				continue
			}
			frame, err := c.frame(f, flags)
			if err != nil {
				return reals, err
			}
			frames = append(frames, frame)
			at[f] = i
		}
		for burst := range slices.Chunk(frames, crowdBurst) {
			seen, err := c.sendBurst(ctx, burst)
			if err != nil {
				return reals, err
			}
			for f, real := range seen {
				if i, isOurs := at[f]; isOurs && reals[i] == "" {
					reals[i] = real
					missing--
				}
			}
		}
	}
	if missing > 0 {
		return reals, fmt.Errorf("%d of %d flows reach no real", missing, len(flows))
	}
	return reals, nil
}

// sendBurst sends frames and returns which flows the reals see.
func (c *Crowd) sendBurst(ctx context.Context, frames [][]byte) (map[CrowdFlow]string, error) {
	captures := map[*Host]*Capture{}
	for _, r := range c.Reals {
		capture, err := r.Capture("eth0")
		if err != nil {
			return nil, err
		}
		defer capture.Close()
		captures[r] = capture
	}
	// What a full queue has refused is not seen, and sent again.
	if err := c.From.Send(c.NIC, frames...); err != nil && !errors.Is(err, unix.ENOBUFS) {
		return nil, err
	}
	seen := map[CrowdFlow]string{}
	for deadline := time.Now().Add(crowdPatience); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		clear(seen)
		for r, capture := range captures {
			got, err := capture.Frames()
			if err != nil {
				return nil, err
			}
			own := r.MAC("eth0")
			for _, frame := range got {
				if f, ok := crowdFlowOf(frame.Data); ok && !frame.Out && bytes.Equal(frame.Data[:6], own) {
					seen[f] = r.Name
				}
			}
		}
		if len(seen) >= len(frames) {
			break
		}
	}
	return maps.Clone(seen), nil
}

// frame is a packet of a flow. A datagram has four bytes, whatever flags says.
func (c *Crowd) frame(f CrowdFlow, flags string) ([]byte, error) {
	protocol := layers.IPProtocolTCP
	if f.UDP {
		protocol = layers.IPProtocolUDP
	}
	all := c.networkLayers(f, protocol)
	ip := all[1].(gopacket.NetworkLayer)
	if f.UDP {
		udp := &layers.UDP{SrcPort: layers.UDPPort(f.Client.Port()), DstPort: layers.UDPPort(f.Virtual.Port())}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			return nil, err
		}
		all = append(all, udp, gopacket.Payload("lvx!"))
	} else {
		has := func(flag string) bool { return strings.Contains(flags, flag) }
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(f.Client.Port()), DstPort: layers.TCPPort(f.Virtual.Port()), Window: 1024,
			SYN: has("S"), ACK: has("A"), PSH: has("P"), FIN: has("F"), RST: has("R"),
		}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			return nil, err
		}
		all = append(all, tcp)
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...)
	return buf.Bytes(), err
}

// networkLayers are Ethernet's header and that of IP.
func (c *Crowd) networkLayers(f CrowdFlow, protocol layers.IPProtocol) []gopacket.SerializableLayer {
	ethernet := &layers.Ethernet{SrcMAC: c.From.MAC(c.NIC), DstMAC: c.To, EthernetType: layers.EthernetTypeIPv4}
	from, to := f.Client.Addr().AsSlice(), f.Virtual.Addr().AsSlice()
	if f.Client.Addr().Is6() {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		return []gopacket.SerializableLayer{ethernet, &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from, DstIP: to}}
	}
	return []gopacket.SerializableLayer{ethernet, &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: from, DstIP: to}}
}

// crowdFlowOf is the flow that a frame belongs to.
func crowdFlowOf(frame []byte) (f CrowdFlow, ok bool) {
	const ethernet = 14
	if len(frame) < ethernet+1 {
		return f, false
	}
	kind, ip := binary.BigEndian.Uint16(frame[12:]), frame[ethernet:]
	header, protocol, address, size := 20, 9, 12, 4
	switch {
	case kind == uint16(layers.EthernetTypeIPv6) && ip[0]>>4 == 6:
		header, protocol, address, size = 40, 6, 8, 16
	case kind != uint16(layers.EthernetTypeIPv4) || ip[0] != 0x45:
		return f, false
	}
	if len(ip) < header+4 {
		return f, false
	}
	client, _ := netip.AddrFromSlice(ip[address : address+size])
	virtual, _ := netip.AddrFromSlice(ip[address+size : address+2*size])
	return CrowdFlow{
		UDP:     ip[protocol] == byte(layers.IPProtocolUDP),
		Client:  netip.AddrPortFrom(client, binary.BigEndian.Uint16(ip[header:])),
		Virtual: netip.AddrPortFrom(virtual, binary.BigEndian.Uint16(ip[header+2:])),
	}, true
}
