package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/lvx-lb/lvx/bpf"
)

var pinCount atomic.Int32

// options are those of a data path in a fresh namespace with the interface
// lvx0, on which the calling goroutine stays until the test ends.
func options(t *testing.T) Options {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, err)
	ns, err := netns.New()
	must(t, err)
	o := Options{
		Log: slog.New(slog.DiscardHandler), Interfaces: []string{"lvx0"}, Flows: 1000, Templates: 1000,
		PinDir: fmt.Sprintf("/sys/fs/bpf/lvx-loader-%d-%d", os.Getpid(), pinCount.Add(1)),
	}
	t.Cleanup(func() {
		_ = pinDir(o.PinDir).remove()
		_ = ns.Close()
		must(t, netns.Set(home))
		_ = home.Close()
		runtime.UnlockOSThread()
	})
	addVeth(t, "lvx0", "02:00:00:00:00:01")
	return o
}

func addVeth(t *testing.T, name, mac string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}))
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetHardwareAddr(l, parseMAC(t, mac)))
	must(t, netlink.LinkSetUp(l))
}

func parseMAC(t *testing.T, s string) []byte {
	t.Helper()
	var b [6]byte
	_, err := fmt.Sscanf(s, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5])
	must(t, err)
	return b[:]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, o Options) *Datapath {
	t.Helper()
	d, err := Open(context.Background(), o)
	must(t, err)
	return d
}

// programOn is the id of the program that an interface runs, 0 for none.
func programOn(t *testing.T, name string) uint32 {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		return x.ProgId
	}
	return 0
}

func linkID(t *testing.T, o Options) link.ID {
	t.Helper()
	l, err := link.LoadPinnedLink(pinDir(o.PinDir).link("lvx0"), nil)
	must(t, err)
	defer l.Close()
	info, err := l.Info()
	must(t, err)
	return info.ID
}

func TestOpenAndClose(t *testing.T) {
	o := options(t)
	d := open(t, o)
	if d.Adopted || programOn(t, "lvx0") == 0 || d.Attachments[0].Mode != Native {
		t.Errorf("adopted %v, program %d, attachment %+v", d.Adopted, programOn(t, "lvx0"), d.Attachments[0])
	}
	info, err := os.Stat(o.PinDir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("pin directory is %v, want 0700", info.Mode().Perm())
	}
	must(t, d.Close(false))
	if programOn(t, "lvx0") != 0 {
		t.Error("the program is still attached")
	}
	if _, err := os.Stat(o.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin directory is still there: %v", err)
	}
}

// When a purge has returned, the program is off the interface: a start right
// after it does not take it for somebody else's.
func TestFault01PurgeDetachesAtOnce(t *testing.T) {
	o := options(t)
	for range 5 {
		must(t, open(t, o).Close(true))
		must(t, Purge(o.PinDir))
		if id := programOn(t, "lvx0"); id != 0 {
			t.Fatalf("program %d is still attached", id)
		}
	}
}

// A change of the mode, and a program that cannot be exchanged in place, make
// the link anew: the old one is off when the new one is attached, also where
// somebody looks at it at this moment.
func TestFault01LinkIsMadeAnewAtOnce(t *testing.T) {
	o := options(t)
	for range 2 {
		for _, o.Mode = range []Mode{Native, Generic} {
			lookAtLink(t, o)
			d := open(t, o)
			if d.Attachments[0].Mode != o.Mode {
				t.Fatalf("mode %s, want %s", d.Attachments[0].Mode, o.Mode)
			}
			must(t, d.Close(true))
		}
	}
	must(t, Purge(o.PinDir))
	o.Mode = Auto
	for range 2 {
		pinStrangeLink(t, o)
		lookAtLink(t, o)
		d := open(t, o)
		info, err := d.Program("lvx0").Info()
		must(t, err)
		if id, _ := info.ID(); uint32(id) != programOn(t, "lvx0") || d.Attachments[0].Mode != Native {
			t.Fatalf("program %d is attached, want %d; %+v", programOn(t, "lvx0"), id, d.Attachments[0])
		}
		lookAtLink(t, o)
		must(t, d.Close(false))
		if id := programOn(t, "lvx0"); id != 0 {
			t.Fatalf("program %d is still attached", id)
		}
	}
}

// lookAtLink holds the pinned link, if there is one, until the test ends.
func lookAtLink(t *testing.T, o Options) {
	t.Helper()
	l, err := link.LoadPinnedLink(pinDir(o.PinDir).link("lvx0"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
}

// pinStrangeLink attaches, under lvx's pin, a program of another attach type.
func pinStrangeLink(t *testing.T, o Options) {
	t.Helper()
	iface, err := net.InterfaceByName("lvx0")
	must(t, err)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: passAll, License: "GPL"})
	must(t, err)
	defer prog.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: iface.Index, Flags: link.XDPDriverMode})
	must(t, err)
	must(t, os.MkdirAll(o.PinDir, 0o700))
	must(t, l.Pin(pinDir(o.PinDir).link("lvx0")))
	must(t, l.Close())
}

// A successor finds the maps as they were, and replaces the program without
// the link ever being gone.
func TestAdoptAndReplace(t *testing.T) {
	o := options(t)
	d := open(t, o)
	seed := d.Settings.Seed
	d.Flows[17] = 4711
	before, id := programOn(t, "lvx0"), linkID(t, o)
	must(t, d.Close(true))
	if programOn(t, "lvx0") != before {
		t.Fatal("the program went with its daemon")
	}
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if !d.Adopted || d.Settings.Seed != seed || d.Flows[17] != 4711 {
		t.Errorf("adopted %v, seed kept %v, flow kept %v", d.Adopted, d.Settings.Seed == seed, d.Flows[17] == 4711)
	}
	if after := programOn(t, "lvx0"); after == before || after == 0 {
		t.Errorf("program %d was to be replaced, there is %d", before, after)
	}
	if got := linkID(t, o); got != id {
		t.Errorf("link %d became %d: it was detached", id, got)
	}
}

func TestSecondIsLockedOut(t *testing.T) {
	o := options(t)
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if _, err := Open(context.Background(), o); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v, want ErrLocked", err)
	}
}

// A failure of any step leaves what ran before as it was.
func TestFailuresChangeNothing(t *testing.T) {
	for _, step := range []string{"pin", "link"} {
		t.Run(step, func(t *testing.T) {
			o := options(t)
			boom := errors.New("boom")
			o.fail = func(s string) error {
				if s == step {
					return boom
				}
				return nil
			}
			if _, err := Open(context.Background(), o); !errors.Is(err, boom) {
				t.Fatalf("open: %v", err)
			}
			if programOn(t, "lvx0") != 0 {
				t.Error("a program is attached")
			}
			if _, err := os.Stat(o.PinDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pin directory is left: %v", err)
			}
			o.fail = nil
			must(t, open(t, o).Close(false))
		})
	}
	t.Run("update", func(t *testing.T) {
		o := options(t)
		must(t, open(t, o).Close(true))
		before, id := programOn(t, "lvx0"), linkID(t, o)
		boom := errors.New("boom")
		bad := o
		bad.fail = func(s string) error {
			if s == "update" {
				return boom
			}
			return nil
		}
		if _, err := Open(context.Background(), bad); !errors.Is(err, boom) {
			t.Fatalf("open: %v", err)
		}
		if programOn(t, "lvx0") != before || linkID(t, o) != id {
			t.Error("the running program was touched")
		}
		must(t, open(t, o).Close(false))
	})
}

func TestOtherSizesKeepTheRest(t *testing.T) {
	o := options(t)
	d := open(t, o)
	seed := d.Settings.Seed
	d.Reals[3].Weight = 7
	must(t, d.Close(true))
	id := linkID(t, o)
	o.Flows = 4000
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if !d.Adopted || d.Settings.Seed != seed || d.Reals[3].Weight != 7 || len(d.Flows) != 8*4000 {
		t.Errorf("adopted %v, seed %v (was %v), weight %d, %d words", d.Adopted, d.Settings.Seed, seed, d.Reals[3].Weight, len(d.Flows))
	}
	if linkID(t, o) != id {
		t.Error("the link was detached")
	}
}

func TestGenericMode(t *testing.T) {
	o := options(t)
	o.Mode = Generic
	d := open(t, o)
	if d.Attachments[0].Mode != Generic {
		t.Errorf("mode %s", d.Attachments[0].Mode)
	}
	must(t, d.Close(true))
	o.Mode = Auto // keeps what it finds
	d = open(t, o)
	if d.Attachments[0].Mode != Generic {
		t.Errorf("mode after adoption %s", d.Attachments[0].Mode)
	}
	must(t, d.Close(true))
	o.Mode = Native // a change that is asked for is made
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if d.Attachments[0].Mode != Native {
		t.Errorf("mode after the change %s", d.Attachments[0].Mode)
	}
}

func TestInterfaceErrors(t *testing.T) {
	o := options(t)
	for name, want := range map[string]string{"nosuch0": "no such interface", "lo": "no Ethernet address"} {
		bad := o
		bad.Interfaces = []string{name}
		if _, err := Open(context.Background(), bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		must(t, pinDir(o.PinDir).remove())
	}
	bad := o
	bad.PinDir = filepath.Join(t.TempDir(), "pins")
	if _, err := Open(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "bpffs") {
		t.Errorf("pins outside of a bpffs: %v", err)
	}
}

func TestInterfaceDroppedFromConfiguration(t *testing.T) {
	o := options(t)
	addVeth(t, "lvx1", "02:00:00:00:00:02")
	o.Interfaces = []string{"lvx0", "lvx1"}
	must(t, open(t, o).Close(true))
	o.Interfaces = []string{"lvx1"}
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if programOn(t, "lvx0") != 0 || programOn(t, "lvx1") == 0 {
		t.Errorf("programs: lvx0 %d, lvx1 %d", programOn(t, "lvx0"), programOn(t, "lvx1"))
	}
}

func TestRefresh(t *testing.T) {
	o := options(t)
	d := open(t, o)
	defer func() { must(t, d.Close(false)) }()
	must(t, d.Refresh(t.Context()))

	l, err := netlink.LinkByName("lvx0")
	must(t, err)
	must(t, netlink.LinkSetHardwareAddr(l, parseMAC(t, "02:00:00:00:00:99")))
	must(t, d.Refresh(t.Context()))
	if d.Interfaces[0].MAC[5] != 0x99 {
		t.Errorf("MAC after its change: %x", d.Interfaces[0].MAC)
	}

	must(t, netlink.LinkDel(l))
	if err := d.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("without the interface: %v", err)
	}
	addVeth(t, "lvx0", "02:00:00:00:00:03")
	must(t, d.Refresh(t.Context()))
	if programOn(t, "lvx0") == 0 || d.Interfaces[0].MAC[5] != 3 {
		t.Errorf("a new interface of that name: program %d, MAC %x", programOn(t, "lvx0"), d.Interfaces[0].MAC)
	}
}

func TestRefreshPutsPinsBack(t *testing.T) {
	o := options(t)
	d := open(t, o)
	id := linkID(t, o)
	names := func() []string {
		var all []string
		entries, err := os.ReadDir(o.PinDir)
		must(t, err)
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	before := names()
	d.Settings.Seed[0] = 4711

	must(t, os.Remove(pinDir(o.PinDir).file("flows")))
	must(t, d.Refresh(t.Context()))
	if now := names(); !slices.Equal(before, now) {
		t.Errorf("after one was removed: %v, want %v", now, before)
	}
	must(t, pinDir(o.PinDir).remove())
	must(t, d.Refresh(t.Context()))
	if now := names(); !slices.Equal(before, now) {
		t.Errorf("after all were removed: %v, want %v", now, before)
	}
	info, err := os.Stat(o.PinDir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory: mode %v", info.Mode())
	}
	if linkID(t, o) != id {
		t.Error("another link than before")
	}
	if _, err := Open(context.Background(), o); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one in the new directory: %v", err)
	}

	must(t, d.Close(true)) // as a killed one
	d = open(t, o)
	if !d.Adopted || d.Settings.Seed[0] != 4711 || linkID(t, o) != id {
		t.Errorf("adopted %v, seed %d", d.Adopted, d.Settings.Seed[0])
	}
	must(t, d.Close(false))
	if there(o.PinDir) {
		t.Error("the directory is left")
	}
}

func TestBusyInterface(t *testing.T) {
	o := options(t)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: passAll})
	must(t, err)
	defer p.Close()
	l, err := netlink.LinkByName("lvx0")
	must(t, err)
	other, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: l.Attrs().Index})
	must(t, err)
	defer other.Close()
	if _, err := Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), "another XDP program") {
		t.Errorf("on a busy interface: %v", err)
	}
}

func TestTicks(t *testing.T) {
	for hz, want := range map[uint64]uint32{100: 7, 250: 8, 300: 8, 1000: 10, 1024: 10, 64: 6} {
		if got := TickShift(hz); got != want {
			t.Errorf("HZ %d: shift %d, want %d", hz, got, want)
		}
		if tick := float64(uint64(1)<<TickShift(hz)) / float64(hz); tick < 0.70 || tick > 1.42 {
			t.Errorf("HZ %d: a tick of %.2f s", hz, tick)
		}
	}
	if hz := HZ(); hz < 24 || hz > 10000 {
		t.Errorf("HZ of this kernel: %d", hz)
	}
}

func TestJiffiesAdvance(t *testing.T) {
	d := open(t, options(t))
	defer func() { must(t, d.Close(false)) }()
	a, err := d.Jiffies()
	must(t, err)
	for range 1000 {
		b, err := d.Jiffies()
		must(t, err)
		if b < a {
			t.Fatalf("the clock went from %d to %d", a, b)
		}
		a = b
	}
}

// The verifier's work must stay bounded: kernels differ, and a program near
// the limit on one is over it on the next.
func TestVerifierEffort(t *testing.T) {
	none := func(*ebpf.CollectionSpec) {}
	for name, form := range map[string]struct {
		load func() (*ebpf.CollectionSpec, error)
		set  func(*ebpf.CollectionSpec)
		most int // instructions that the verifier may process
	}{
		"lb":               {bpf.LoadSpec, none, 100_000},
		"lb6":              {bpf.LoadSpec6, none, 100_000},
		"explaining lb6":   {bpf.LoadExplainSpec6, none, 100_000},
		"recording lb6":    {bpf.LoadTraceSpec6, none, 100_000},
		"moving pieces lb": {bpf.LoadSpec, func(spec *ebpf.CollectionSpec) { movePieces(t, spec) }, 150_000},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := form.load()
			must(t, err)
			if table := spec.Maps["flows6"]; table != nil {
				table.MaxEntries = 1024 // of 128 MB, for a guest
			}
			form.set(spec)
			coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
				Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
			})
			must(t, err)
			defer coll.Close()
			log := coll.Programs[name[strings.LastIndex(name, " ")+1:]].VerifierLog
			i := strings.Index(log, "processed ")
			if i < 0 {
				t.Fatalf("no figure in %q", log)
			}
			var n int
			_, err = fmt.Sscanf(log[i:], "processed %d insns", &n)
			must(t, err)
			t.Logf("%s: %d instructions processed", name, n)
			if n > form.most {
				t.Errorf("the verifier processes %d instructions, at most %d are wanted", n, form.most)
			}
		})
	}
}

// movePieces makes an object the form that costs the verifier most: of a table in
// pieces that looks into another one, too, which is left behind.
func movePieces(t *testing.T, spec *ebpf.CollectionSpec) {
	t.Helper()
	for constant, value := range map[string]uint32{"flow_sets": 1024 | inPieces, "old_flow_sets": 1024 | inPieces, "old_template_sets": 2} {
		must(t, spec.Variables[constant].Set(value))
	}
}
