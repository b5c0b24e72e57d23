package xdp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// tracePoll is how long a wait for a packet goes on before the wish to end it
// is looked at.
const tracePoll = 100 * time.Millisecond

// trace is a watch over the packets of all interfaces.
type trace struct {
	b       *Backend
	tracer  *loader.Tracer
	sinceUp time.Time // when CLOCK_MONOTONIC was 0
}

// Trace implements [lb.Tracer].
func (b *Backend) Trace(f lb.TraceFilter, keep int) (lb.Trace, error) {
	filter, err := recordingFilter(f)
	if err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, fmt.Errorf("clock: %w", err)
	}
	sinceUp := time.Now().Add(-time.Duration(now.Nano()))
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.dp.StartTrace(filter, uint32(max(keep, 0)))
	if err != nil {
		return nil, err
	}
	return &trace{b: b, tracer: t, sinceUp: sinceUp}, nil
}

// recordingFilter is a filter as the packet path reads it.
func recordingFilter(f lb.TraceFilter) (r bpf.RecordingFilter, err error) {
	if len(f.Nets) > len(r.Net) || len(f.Ports) > len(r.Port) {
		return r, fmt.Errorf("filter: %d addresses and %d ports (at most %d and %d)", len(f.Nets), len(f.Ports), len(r.Net), len(r.Port))
	}
	for i, p := range f.Nets {
		r.Net[i], r.Mask[i] = bpf.AddressOf(p.Masked().Addr()), maskOf(p)
	}
	for i, p := range f.Ports {
		r.Port[i] = bpf.PortWord(p)
	}
	r.Protocol, r.Version = uint16(f.Protocol), uint16(f.Version)
	for _, name := range f.Verdicts {
		v, ok := verdictOf(name)
		if !ok {
			return r, fmt.Errorf("filter: verdict %q is not known (there are %s)", name, verdictNames())
		}
		r.Verdicts |= 1 << v
	}
	return r, nil
}

func verdictOf(name string) (bpf.Verdict, bool) {
	for v := range bpf.Verdicts {
		if v.String() == name {
			return v, true
		}
	}
	return 0, false
}

func verdictNames() string {
	var names []string
	for v := range bpf.Verdicts {
		names = append(names, v.String())
	}
	return strings.Join(names, ", ")
}

// maskOf is the netmask of a prefix; of IPv4 it covers ::ffff:0:0/96.
func maskOf(p netip.Prefix) bpf.Address {
	var b [16]byte
	for i := range p.Bits() + 128 - p.Addr().BitLen() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return bpf.AddressOf(netip.AddrFrom16(b))
}

// Next implements [lb.Trace].
func (t *trace) Next(ctx context.Context) (lb.TracedPacket, error) {
	for {
		rec, err := t.tracer.Read(time.Now().Add(tracePoll))
		if err != nil {
			return lb.TracedPacket{}, err
		}
		if rec != nil {
			return t.packet(rec), nil
		}
		if ctx.Err() != nil {
			return lb.TracedPacket{}, context.Cause(ctx)
		}
	}
}

func (t *trace) packet(rec *bpf.Recording) lb.TracedPacket {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	narrator := t.b.newNarrator(rec)
	p := lb.TracedPacket{
		Time:        t.sinceUp.Add(time.Duration(rec.Nanoseconds)),
		Interface:   t.b.interfaceName(rec.Ifindex),
		Source:      narrator.client(),
		Destination: narrator.destination(),
		Explanation: narrator.explanation(),
		LengthIn:    int(rec.LengthIn),
		LengthOut:   int(rec.LengthOut),
		FrameIn:     rec.Frames[:rec.KeptIn],
		FrameOut:    rec.Frames[rec.KeptIn : rec.KeptIn+rec.KeptOut],
	}
	if rec.Version == 0 { // no IP packet that was understood
		p.Source, p.Destination = netip.AddrPort{}, netip.AddrPort{}
	} else {
		p.Protocol = lb.Protocol(rec.Protocol).String()
	}
	return p
}

func (b *Backend) interfaceName(way uint32) string {
	if name := b.deviceName(way); name != "" {
		return name
	}
	index := b.dp.DeviceOf(way)
	if iface, err := net.InterfaceByIndex(index); err == nil {
		return iface.Name
	}
	return fmt.Sprintf("interface %d, which is gone", index)
}

// Lost implements [lb.Trace].
func (t *trace) Lost() uint64 { return t.tracer.Lost() }

// Close implements [lb.Trace].
func (t *trace) Close() error {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	return t.tracer.Stop()
}
