package xdp

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// attachedProgram is the identity of the program that the interface runs.
func (h *harness) attachedProgram() (id ebpf.ProgramID, tag string) {
	h.t.Helper()
	l, err := link.LoadPinnedLink(h.opts.PinDir+"/link_lvx0", nil)
	must(h.t, err)
	defer l.Close()
	info, err := l.Info()
	must(h.t, err)
	p, err := ebpf.NewProgramFromID(info.Program)
	must(h.t, err)
	defer p.Close()
	pi, err := p.Info()
	must(h.t, err)
	return info.Program, pi.Tag
}

// runTraced runs a frame through the recording program.
func (h *harness) runTraced(in []byte) ([]byte, uint32) {
	h.t.Helper()
	ctx := make([]byte, 24)
	binary.NativeEndian.PutUint32(ctx[4:], uint32(len(in)))
	binary.NativeEndian.PutUint32(ctx[12:], uint32(h.dp.Attachments[0].Index))
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: ctx}
	var action uint32
	var err error
	inNamespace(h.home, func() { action, err = h.trace.tracer.Program("lvx0").Run(opts) })
	must(h.t, err)
	return opts.DataOut, action
}

// startTrace begins a trace that ends with the test.
func (h *harness) startTrace(f lb.TraceFilter, keep int) lb.Trace {
	h.t.Helper()
	t, err := h.Trace(f, keep)
	must(h.t, err)
	h.trace = t.(*trace)
	h.t.Cleanup(func() { _ = t.Close() })
	return t
}

// soon is a context for packets that have been recorded already.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Second, errors.New("no packet was recorded"))
	t.Cleanup(cancel)
	return ctx
}

func TestTraceShowsWhatIsDecided(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	watch := h.startTrace(lb.TraceFilter{}, 2048)
	for _, p := range []lb.Packet{syn(lb.TCP), {Proto: lb.UDP, Src: client, Dst: netip.AddrPortFrom(realN(71), 53)}} {
		f, err := buildFrame(p, h.dp.Interfaces[0].MAC)
		must(t, err)
		out, _ := h.runTraced(f)
		got, err := watch.Next(soon(t))
		must(t, err)
		if got.Source != p.Src || got.Destination != p.Dst || got.Protocol != p.Proto.String() || got.Interface != "lvx0" {
			t.Errorf("packet %+v is shown as %s %s > %s by %s", p, got.Protocol, got.Source, got.Destination, got.Interface)
		}
		if string(got.FrameIn) != string(f) || got.LengthIn != len(f) {
			t.Errorf("frame %x is shown as %x", f, got.FrameIn)
		}
		if age := time.Since(got.Time); age < 0 || age > time.Minute {
			t.Errorf("the packet came %s ago", age)
		}
		switch got.Verdict {
		case "redirected":
			if string(got.FrameOut) != string(out) || got.Service != "rr" || got.Real != realN(1).String() {
				t.Errorf("sent %x, shown %x, %+v", out, got.FrameOut, got.Explanation)
			}
		case "not_ours":
			if got.LengthOut != 0 {
				t.Errorf("a frame that was not sent is shown: %x", got.FrameOut)
			}
		default:
			t.Errorf("packet %+v is shown as %s", p, got.Verdict)
		}
	}
	if c, err := h.Connections(0); err != nil || len(c) != 1 {
		t.Errorf("a traced SYN opened %d connections, %v", len(c), err)
	}
}

func TestTraceFilter(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	wanted := syn(lb.TCP)
	for words, want := range map[string]bool{
		"":                                   true,
		"host 172.16.0.5":                    true,
		"host 10.0.0.100 net 172.16.0.0/16":  true,
		"host 172.16.0.6":                    false,
		"net 172.17.0.0/16":                  false,
		"port 80":                            true,
		"port 40000 and port 80":             true,
		"port 81":                            false,
		"tcp":                                true,
		"udp":                                false,
		"verdict redirected":                 true,
		"verdict denied,no_real":             false,
		"tcp port 80 verdict redirected,tcp": false, // no such verdict
	} {
		f, err := lb.ParseTraceFilter(strings.Fields(words))
		must(t, err)
		watch, err := h.Trace(f, 0)
		if strings.Contains(words, ",tcp") {
			if err == nil {
				t.Errorf("%q: a verdict that does not exist is taken", words)
			}
			continue
		}
		must(t, err)
		h.trace = watch.(*trace)
		f1, err := buildFrame(wanted, h.dp.Interfaces[0].MAC)
		must(t, err)
		h.runTraced(f1)
		rec, err := h.trace.tracer.Read(time.Now())
		must(t, err)
		if (rec != nil) != want {
			t.Errorf("%q wants the packet: %v, want %v", words, rec != nil, want)
		}
		must(t, watch.Close())
	}
}

// While nobody watches, the program in force is the one that serves
// otherwise: the very same.
func TestTraceLeavesNothing(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	id, tag := h.attachedProgram()
	watch := h.startTrace(lb.TraceFilter{}, 0)
	if _, during := h.attachedProgram(); during == tag {
		t.Error("the program that records is the one that serves otherwise")
	}
	if _, err := h.Trace(lb.TraceFilter{}, 0); !errors.Is(err, loader.ErrTraced) {
		t.Errorf("a second trace: %v", err)
	}
	must(t, watch.Close())
	must(t, watch.Close())
	if after, afterTag := h.attachedProgram(); after != id || afterTag != tag {
		t.Errorf("program %d (%s) after the trace, %d (%s) before", after, afterTag, id, tag)
	}
	if _, err := watch.Next(soon(t)); err == nil {
		t.Error("a trace that has ended goes on")
	}
}

// What nobody reads is lost, and counted; the packets are served.
func TestTraceCountsWhatIsLost(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(explainedWorld())
	watch := h.startTrace(lb.TraceFilter{}, 2048)
	f, err := buildFrame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Size: 1400}, h.dp.Interfaces[0].MAC)
	must(t, err)
	for range 2000 {
		if _, action := h.runTraced(f); action != 4 {
			t.Fatalf("a traced packet met action %d, want XDP_REDIRECT", action)
		}
	}
	shown := 0
	for {
		rec, err := h.trace.tracer.Read(time.Now())
		must(t, err)
		if rec == nil {
			break
		}
		shown++
	}
	if lost := watch.Lost(); shown == 0 || lost == 0 || uint64(shown)+lost != 2000 {
		t.Errorf("%d packets shown, %d lost of 2000", shown, lost)
	}
}
