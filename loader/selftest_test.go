package loader

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/lvx-lb/lvx/loader/echo"
)

// addNeighbor makes the other end of lvx0 a host of its own, which answers echoes
// and takes the frames that XDP sends only with an XDP program.
func addNeighbor(t *testing.T, hasProgram bool) netip.Addr {
	t.Helper()
	own, err := netns.Get()
	must(t, err)
	defer own.Close()
	near, err := netlink.LinkByName("lvx0")
	must(t, err)
	address := func(l netlink.Link, text string) {
		a, err := netlink.ParseAddr(text)
		must(t, err)
		must(t, netlink.AddrAdd(l, a))
	}
	address(near, "192.0.2.1/24")
	far, err := netlink.LinkByName("lvx0p")
	must(t, err)
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	must(t, netns.Set(own))
	must(t, netlink.LinkSetNsFd(far, int(ns)))
	must(t, netns.Set(ns))
	far, err = netlink.LinkByName("lvx0p")
	must(t, err)
	address(far, "192.0.2.2/24")
	must(t, netlink.LinkSetUp(far))
	if hasProgram {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: passAll, License: "GPL"})
		must(t, err)
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: far.Attrs().Index, Flags: link.XDPDriverMode})
		must(t, err)
		t.Cleanup(func() { _ = l.Close(); _ = prog.Close() })
	}
	must(t, netns.Set(own))
	return netip.MustParseAddr("192.0.2.2")
}

// Before lvx attaches natively for the first time, a neighbour's answers show
// whether frames leave; where they do not, generic mode serves.
func TestNativeModeIsTriedOut(t *testing.T) {
	stranger := netip.MustParseAddr("192.0.2.9")
	for name, test := range map[string]struct {
		hasProgram, answers bool
		mode                Mode // asked for
		want                Mode
		proof               Proof
		says                int // times that the log says that frames are lost
	}{
		"frames leave":           {true, true, Auto, Native, Proven, 0},
		"frames are lost":        {false, true, Auto, Generic, NotAsked, 1},
		"native is a must":       {false, true, Native, Native, Disproven, 1},
		"nobody answers":         {true, false, Auto, Native, NotProven, 0},
		"nobody is asked for it": {false, true, Generic, Generic, NotAsked, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			var said bytes.Buffer
			o.Mode, o.Log = test.mode, slog.New(slog.NewTextHandler(&said, nil))
			o.Neighbors = []netip.Addr{addNeighbor(t, test.hasProgram)}
			if !test.answers {
				o.Neighbors = []netip.Addr{stranger}
			}
			d := open(t, o)
			a := d.Attachments[0]
			if a.Mode != test.want || a.Proof != test.proof || (a.Why != "") != (test.mode == Auto && test.want == Generic) {
				t.Errorf("attached %+v", a)
			}
			if n := strings.Count(said.String(), ErrLost.Error()); n != test.says {
				t.Errorf("the log says %d times that frames are lost, want %d: %s", n, test.says, &said)
			}
			if programOn(t, "lvx0") == 0 {
				t.Error("no program is attached")
			}
			if info, err := d.Program("lvx0").Info(); err != nil || info.Name != "lb" {
				t.Errorf("the program is %v, %v", info, err)
			}
			must(t, d.Close(true))
			d = open(t, o)
			defer func() { must(t, d.Close(false)) }()
			if a := d.Attachments[0]; a.Mode != test.want || a.Proof != NotAsked {
				t.Errorf("the link that was adopted is asked about: %+v", a)
			}
		})
	}
}

// The program of the test is not left on the interface.
func TestTestIsTakenOff(t *testing.T) {
	o := options(t)
	o.Neighbors, o.Mode = []netip.Addr{addNeighbor(t, true)}, Auto
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	info, err := d.Program("lvx0").Info()
	must(t, err)
	id, _ := info.ID()
	if uint32(id) != programOn(t, "lvx0") {
		t.Errorf("program %d is attached, want %d", programOn(t, "lvx0"), id)
	}
}

// Another device of the name is tried out as the first one was, also where its
// predecessor was adopted; a device that has served is not.
func TestAnotherDeviceIsTriedOut(t *testing.T) {
	o := options(t)
	o.Neighbors, o.Mode = []netip.Addr{addNeighbor(t, true)}, Auto
	must(t, open(t, o).Close(true))
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	near, err := netlink.LinkByName("lvx0")
	must(t, err)

	must(t, d.links["lvx0"].Detach())
	must(t, d.Refresh(t.Context()))
	if a := d.Attachments[0]; a.Mode != Native || a.Proof != NotAsked {
		t.Errorf("the device that has served is asked about: %+v", a)
	}
	must(t, netlink.LinkDel(near))
	addVeth(t, "lvx0", "02:00:00:00:00:03")
	addNeighbor(t, false)
	for near = nil; near == nil || near.Attrs().OperState != netlink.OperUp; { // before that no frame leaves
		must(t, t.Context().Err())
		near, err = netlink.LinkByName("lvx0")
		must(t, err)
	}
	must(t, d.Refresh(t.Context()))
	if a := d.Attachments[0]; a.Mode != Generic || a.Why != ErrLost.Error() {
		t.Errorf("another device, whose frames are lost: %+v", a)
	}
}

// Who does not want to wait for neighbours any more need not.
func TestEndOfATrial(t *testing.T) {
	o := options(t)
	test, err := echo.New()
	must(t, err)
	defer func() { must(t, test.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if result, err := test.Run(ctx, o.Interfaces[0], []netip.Addr{netip.MustParseAddr("192.0.2.9")}); result != echo.Silent || !errors.Is(err, context.Canceled) {
		t.Errorf("result %v, error %v", result, err)
	}
}
