package loader

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/lvx-lb/lvx/bpf"
)

// vip is on lvx0; nobody listens there.
var vip = netip.MustParseAddr("192.0.2.100")

// addClient makes the other end of lvx0 a host that asks for the VIP. What it
// returns dials and says how that ended.
func addClient(t *testing.T) (dial func() error) {
	t.Helper()
	own, err := netns.Get()
	must(t, err)
	near, err := netlink.LinkByName("lvx0")
	must(t, err)
	far, err := netlink.LinkByName("lvx0p")
	must(t, err)
	address := func(l netlink.Link, text string) {
		a, err := netlink.ParseAddr(text)
		must(t, err)
		must(t, netlink.AddrAdd(l, a))
	}
	address(near, "192.0.2.1/24")
	address(near, vip.String()+"/32")
	ns, err := netns.New()
	must(t, err)
	must(t, netns.Set(own))
	must(t, netlink.LinkSetNsFd(far, int(ns)))
	must(t, netns.Set(ns))
	if far, err = netlink.LinkByName("lvx0p"); err != nil {
		t.Fatal(err)
	}
	address(far, "192.0.2.2/24")
	must(t, netlink.LinkSetUp(far))
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: far.Attrs().Index, IP: vip.AsSlice(), HardwareAddr: parseMAC(t, "02:00:00:00:00:01"), State: netlink.NUD_PERMANENT}))
	must(t, netns.Set(own))
	t.Cleanup(func() { _ = own.Close(); _ = ns.Close() })
	return func() error {
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			if err := netns.Set(ns); err != nil {
				result <- err
				return
			}
			result <- dialOnce()
		}()
		return <-result
	}
}

// dialOnce opens a connection to the VIP from the thread's namespace. The answer
// of a host that refuses is there within the call: veth has no queue.
func dialOnce() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &syscall.Timeval{Usec: 300_000}); err != nil {
		return err
	}
	return syscall.Connect(fd, &syscall.SockaddrInet4{Port: 80, Addr: vip.As4()})
}

func serveVIP(d *Datapath) { d.VIPs[0].Way[0] = bpf.VIP{Addr: bpf.AddressOf(vip), TCP: 1} }

// While a program is exchanged for one of another mode, or one that the link does
// not take, nobody is refused, and the gate is gone afterwards.
func TestFault29NobodyIsRefusedWhileAProgramIsExchanged(t *testing.T) {
	o := options(t)
	dial := addClient(t)
	o.Mode = Native
	d := open(t, o)
	serveVIP(d)
	must(t, d.Close(true))
	for _, o.Mode = range []Mode{Generic, Native} {
		exchanged := false
		o.fail = func(step string) error {
			if step != "remake" {
				return nil
			}
			exchanged = true
			if id := programOn(t, "lvx0"); id != 0 {
				t.Errorf("program %d is attached while it is exchanged", id)
			}
			if err := dial(); !errors.Is(err, syscall.EINPROGRESS) && !errors.Is(err, syscall.EAGAIN) {
				t.Errorf("to %s: a client hears %v, want silence", o.Mode, err)
			}
			return nil
		}
		d := open(t, o)
		if !exchanged || d.Attachments[0].Mode != o.Mode || len(d.gates) != 0 {
			t.Errorf("exchanged %v, attachment %+v, %d gates", exchanged, d.Attachments[0], len(d.gates))
		}
		must(t, d.Close(true))
	}
	must(t, Purge(o.PinDir))
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without lvx and without a gate: %v, want a refusal by the host", err)
	}
}

// Where the new link cannot be made, the old program serves on in its mode.
func TestFailedExchangeIsTakenBack(t *testing.T) {
	o := options(t)
	o.Mode = Generic
	must(t, open(t, o).Close(true))
	before := programOn(t, "lvx0")
	for _, step := range []string{"remake", "link"} {
		bad, boom := o, errors.New("boom")
		bad.Mode = Native
		bad.fail = func(s string) error {
			if s == step {
				return boom
			}
			return nil
		}
		if _, err := Open(context.Background(), bad); !errors.Is(err, boom) {
			t.Fatalf("open: %v", err)
		}
		if now := programOn(t, "lvx0"); now != before {
			t.Errorf("%s fails: program %d is attached, want %d", step, now, before)
		}
	}
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if d.Attachments[0].Mode != Generic || !d.Adopted {
		t.Errorf("adopted %v, %+v", d.Adopted, d.Attachments[0])
	}
}

// An interface that is not configured any more keeps silent for those who still
// send to it, and one that stays keeps its slot, by which the program in force
// goes on.
func TestFault29InterfacesThatGoAndMove(t *testing.T) {
	o := options(t)
	dial := addClient(t)
	addVeth(t, "lvx1", "02:00:00:00:00:03")
	o.Interfaces = []string{"lvx0", "lvx1"}
	d := open(t, o)
	serveVIP(d)
	slots := map[string]uint32{}
	for _, a := range d.Attachments {
		slots[a.Name] = a.Slot
	}
	must(t, d.Close(true))
	o.Interfaces = []string{"lvx1"}
	d = open(t, o)
	if d.Attachments[0].Slot != slots["lvx1"] {
		t.Errorf("lvx1 moved from slot %d to %d", slots["lvx1"], d.Attachments[0].Slot)
	}
	if id := programOn(t, "lvx0"); id != 0 {
		t.Errorf("program %d is attached to an interface that is not configured", id)
	}
	if err := dial(); !errors.Is(err, syscall.EINPROGRESS) && !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a client hears %v, want silence", err)
	}
	must(t, d.Close(true))
	o.Interfaces = []string{"lvx0", "lvx1"} // in front of the one that has a slot
	d = open(t, o)
	if len(d.gates) != 0 || len(d.Attachments) != 2 || d.Attachments[0].Slot == slots["lvx1"] || d.Attachments[1].Slot != slots["lvx1"] {
		t.Errorf("%d gates, slots %v, %+v", len(d.gates), slots, d.Attachments)
	}
	must(t, d.Close(false))
}
