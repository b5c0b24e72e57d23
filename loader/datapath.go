package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader/gate"
)

// Mode is how the program is attached to an interface.
type Mode string

// The modes. Auto is native where the driver can, else generic.
const (
	Auto    Mode = "auto"
	Native  Mode = "native"
	Generic Mode = "generic"
)

// Options say what to load and where.
type Options struct {
	Log        *slog.Logger
	PinDir     string   // a directory on a bpffs; made if it is missing
	Interfaces []string // at least one
	Mode       Mode
	CannotSend func(iface string) error // with Mode Auto, why frames would be lost in native mode; nil = nobody knows
	// VLANs are those of the host; nil: nobody knows any. The frames of one are served by
	// the program of the interface below it, unless CannotServe says why that cannot be.
	VLANs       func() []VLAN
	CannotServe func(VLAN) error
	// Neighbors are asked, before native mode is used first on an interface, for a
	// proof that frames leave it; none = it is not asked for.
	Neighbors []netip.Addr
	Flows     int  // connections that are guaranteed a place
	Templates int  // persistence templates that are guaranteed a place
	IPv6      bool // serve IPv6 too: Flows and Templates of it are guaranteed a place as well

	// Room is what the maps have room for, at least: a predecessor's that have
	// more keep it. [Datapath.Grow] makes it more.
	Room Room

	// Detached loads a packet path that no packet meets: it is attached to
	// nothing and pins nothing, and PinDir means nothing. It is for asking
	// [Datapath.Explain].
	Detached bool

	// PiecesFrom is for tests: how many sets a table of flows has that lies in pieces,
	// in place of [PiecesFrom].
	PiecesFrom int

	// StillClock is for tests: time stands still unless they change
	// Settings.Clock.
	StillClock bool

	locked *os.File // the pin directory, of the Datapath that grows; nil: Open locks it

	// Injected by tests: an error from here fails the named step.
	fail func(step string) error
}

// Proof is what is known about frames that an interface in native mode sends.
type Proof int

// The proofs.
const (
	NotAsked  Proof = iota // a predecessor's link, generic mode, or nobody to ask
	Proven                 // a frame that XDP sent was answered
	NotProven              // no neighbour answers echoes
	Disproven              // answers were sent back by XDP, and none was answered
)

// Attachment is one interface that the program serves.
type Attachment struct {
	Name  string
	Index int    // ifindex
	Slot  uint32 // index into Interfaces
	Mode  Mode   // Native or Generic
	Why   string // why it is not native, if native was tried
	Proof Proof  // of native mode

	IsUntagged bool   // the interface itself is served,
	VLANs      []VLAN // and these of its VLANs

	isUntried bool   // lvx has not served there in native mode
	isAbove   string // a VLAN's own interface: why that below it does not serve
}

// Datapath is a loaded and attached packet path. Its maps are exported as
// slices over kernel memory: whoever writes them is seen by the next packet.
type Datapath struct {
	Maps        bpf.Maps
	Maps6       bpf.Maps6
	Attachments []Attachment
	Adopted     bool // the maps were there: flows of a predecessor live on

	Settings   *bpf.Settings
	Interfaces []bpf.Interface
	VIPs       []bpf.VIPLine
	Ports      []bpf.PortLine
	Ranges     []bpf.Range
	Services   []bpf.Service
	Cursors    []bpf.Cursor
	Rings      []bpf.RingLine
	Reals      []bpf.Real
	Addresses  []bpf.Address // of Reals
	Tunnels    []bpf.Tunnel  // of Reals
	Replies    []bpf.ReplyLine
	Routes     []bpf.RouteList // one for each half
	Loads      []bpf.Load
	Shares     []bpf.ShareLine // of Reals, see Backend.share
	Labels     []bpf.Label
	Leases     []uint64
	Takeover   *uint64             // jiffies until which news of connections are expected
	Verdicts   []bpf.VerdictCounts // one for each possible CPU
	Flows      []uint64            // eight words a set: four keys, four values; nothing if they lie in [Datapath.Pieces]
	Templates  []uint64            // the same
	Flows6     []uint64            // sixteen words a set: four keys, four values, four addresses
	Templates6 []uint64            // the same

	FlowNews      []uint64 // a byte for each set of flows: 1 if it has changed (with bpf.SettingNews)
	TemplateNews  []uint64 // the same, of templates
	FlowNews6     []uint64 // the same, of IPv6
	TemplateNews6 []uint64 // the same, of IPv6

	opts   Options
	pins   pinDir
	lock   *os.File
	memory map[*ebpf.Map]mapped
	spec   *ebpf.CollectionSpec
	clock  *ebpf.Program
	absorb [2]*ebpf.Program // of IPv4 and of IPv6, once there was something to absorb

	absorptions *bpf.AbsorbBatch
	pieces      [2]*Pieces // of IPv4 and of IPv6
	program     map[string]*ebpf.Program
	ownMAC      map[string]*ebpf.Variable // by interface
	links       map[string]link.Link
	gates       map[string]*gate.Gate // by interface, those that are shut

	vlans map[string]VLAN // of the host, by name, when it was looked last

	explainers map[uint32]*explainer // by slot of the interface, once asked
	tracer     *Tracer               // while somebody watches

	left     map[string]*leftMap      // while Open moves what they hold
	previous map[string]*ebpf.Program // by interface, while there is something left

	inForce  map[ebpf.MapID]bool // the maps of the programs that Open finds, once asked
	unpinned map[string]bool     // maps that Open finds in force, without a pin

	program6  map[uint32]*ebpf.Program  // of IPv6, by slot of the interface
	ownMAC6   map[uint32]*ebpf.Variable // of those programs
	previous6 map[uint32]*ebpf.Program  // a predecessor's
}

// Layout is the version of the maps' layout, for people who look at the maps:
// a successor reads the layout of each from its BTF.
const Layout = 4

// Open loads the packet path, adopts the maps of a predecessor if there are
// any, and attaches it. On error everything that was there before runs on. With ctx
// ends the wait for neighbours that are to prove native mode.
func Open(ctx context.Context, o Options) (_ *Datapath, err error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.fail == nil {
		o.fail = func(string) error { return nil }
	}
	d := &Datapath{opts: o, memory: map[*ebpf.Map]mapped{}, program: map[string]*ebpf.Program{}, ownMAC: map[string]*ebpf.Variable{}, links: map[string]link.Link{}, gates: map[string]*gate.Gate{}, left: map[string]*leftMap{}, unpinned: map[string]bool{}}
	defer func() {
		if err != nil {
			d.undo()
		}
	}()
	switch {
	case o.locked != nil:
		d.pins = pinDir(o.PinDir)
	case !o.Detached:
		if d.pins, d.lock, err = openPinDir(o.PinDir); err != nil {
			return nil, err
		}
	}
	if err := d.openMaps(); err != nil {
		return nil, err
	}
	if err := d.mapAll(unix.PROT_READ | unix.PROT_WRITE); err != nil {
		return nil, err
	}
	if err := d.prepare(); err != nil {
		return nil, err
	}
	if err := d.openPieces(); err != nil {
		return nil, err
	}
	if err := d.attachAll(ctx); err != nil {
		return nil, err
	}
	if o.Detached {
		return d, nil
	}
	return d, d.dropStrayLinks()
}

// attachAll puts the programs on all interfaces. Nothing of what the
// interfaces do has changed before all that takes long is done.
func (d *Datapath) attachAll(ctx context.Context) error {
	for _, p := range d.place() {
		a, err := d.loadFor(p)
		if err != nil {
			return err
		}
		d.Attachments = append(d.Attachments, a)
	}
	if d.opts.Detached {
		return nil
	}
	if slices.ContainsFunc([]string{"flows", "flow_pieces", "templates", "flows6", "flow_pieces6", "templates6"}, func(table string) bool { return d.left[table] != nil }) {
		return d.attachMoving(ctx)
	}
	if err := d.putFamilies(d.program6); err != nil {
		return err
	}
	for i := range d.Attachments {
		if err := d.attach(ctx, &d.Attachments[i], d.program[d.Attachments[i].Name]); err != nil {
			return err
		}
	}
	if len(d.left) == 0 {
		return nil
	}
	if err := d.commitMaps(); err != nil {
		return err
	}
	d.closeLeft()
	return nil
}

// mapAll makes the slices, for what protection allows (PROT_READ ...).
func (d *Datapath) mapAll(protection int) error {
	get := func(m *ebpf.Map) (mapped, error) {
		mem, err := mapMemoryFor(m, protection)
		if err == nil {
			d.memory[m] = mem
		}
		return mem, err
	}
	m := &d.Maps
	for _, v := range []struct {
		of  *ebpf.Map
		set func(mapped, uint32)
	}{
		{m.Settings, func(b mapped, n uint32) { d.Settings = &view[bpf.Settings](b, n)[0] }},
		{m.Interfaces, func(b mapped, n uint32) { d.Interfaces = view[bpf.Interface](b, n) }},
		{m.Vips, func(b mapped, _ uint32) { d.VIPs = viewAll[bpf.VIPLine](b, m.Vips) }},
		{m.Ports, func(b mapped, n uint32) { d.Ports = view[bpf.PortLine](b, n) }},
		{m.Ranges, func(b mapped, n uint32) { d.Ranges = view[bpf.Range](b, n) }},
		{m.Services, func(b mapped, n uint32) { d.Services = view[bpf.Service](b, n) }},
		{m.Cursors, func(b mapped, n uint32) { d.Cursors = view[bpf.Cursor](b, n) }},
		{m.Rings, func(b mapped, n uint32) { d.Rings = view[bpf.RingLine](b, n) }},
		{m.Reals, func(b mapped, n uint32) { d.Reals = view[bpf.Real](b, n) }},
		{m.Addresses, func(b mapped, n uint32) { d.Addresses = view[bpf.Address](b, n) }},
		{m.Tunnels, func(b mapped, n uint32) { d.Tunnels = view[bpf.Tunnel](b, n) }},
		{m.Replies, func(b mapped, n uint32) { d.Replies = view[bpf.ReplyLine](b, n) }},
		{m.Routes, func(b mapped, n uint32) { d.Routes = view[bpf.RouteList](b, n) }},
		{m.Loads, func(b mapped, n uint32) { d.Loads = view[bpf.Load](b, n) }},
		{m.Shares, func(b mapped, n uint32) { d.Shares = view[bpf.ShareLine](b, n) }},
		{m.Labels, func(b mapped, n uint32) { d.Labels = view[bpf.Label](b, n) }},
		{m.Leases, func(b mapped, n uint32) { d.Leases = view[uint64](b, n) }},
		{m.Takeover, func(b mapped, n uint32) { d.Takeover = &view[uint64](b, n)[0] }},
		{m.Verdicts, func(b mapped, _ uint32) { d.Verdicts = viewAll[bpf.VerdictCounts](b, m.Verdicts) }},
		{m.Flows, func(b mapped, n uint32) { d.Flows = view[uint64](b, 8*n) }},
		{m.Templates, func(b mapped, n uint32) { d.Templates = view[uint64](b, 8*n) }},
		{d.Maps6.Flows6, func(b mapped, n uint32) { d.Flows6 = view[uint64](b, bpf.SetWords6*n) }},
		{d.Maps6.Templates6, func(b mapped, n uint32) { d.Templates6 = view[uint64](b, bpf.SetWords6*n) }},
		{m.FlowNews, func(b mapped, n uint32) { d.FlowNews = view[uint64](b, bpf.NewsLineSets/8*n) }},
		{m.TemplateNews, func(b mapped, n uint32) { d.TemplateNews = view[uint64](b, bpf.NewsLineSets/8*n) }},
		{d.Maps6.FlowNews6, func(b mapped, n uint32) { d.FlowNews6 = view[uint64](b, bpf.NewsLineSets/8*n) }},
		{d.Maps6.TemplateNews6, func(b mapped, n uint32) { d.TemplateNews6 = view[uint64](b, bpf.NewsLineSets/8*n) }},
		{m.Absorptions, func(b mapped, n uint32) { d.absorptions = &view[bpf.AbsorbBatch](b, n)[0] }},
	} {
		mem, err := get(v.of)
		if err != nil {
			return err
		}
		v.set(mem, v.of.MaxEntries())
	}
	return nil
}

// CountOf is how many packets ended in a verdict.
func (d *Datapath) CountOf(v bpf.Verdict) (n uint64) {
	for cpu := range d.Verdicts {
		n += atomic.LoadUint64(&d.Verdicts[cpu].Of[v].Count)
	}
	return n
}

// Jiffies asks the kernel for its clock, in ticks of 1/HZ second.
func (d *Datapath) Jiffies() (uint64, error) {
	in := make([]byte, 8)
	out := make([]byte, 8)
	if _, err := d.clock.Run(&ebpf.RunOptions{Context: in, ContextOut: out}); err != nil {
		return 0, fmt.Errorf("clock: %w", err)
	}
	return nativeUint64(out), nil
}

// Program is the program of one of the interfaces, for tests and benchmarks
// that run it without a wire.
func (d *Datapath) Program(iface string) *ebpf.Program { return d.program[iface] }

// Close detaches the program and takes every pin away. With keep it leaves
// both for a successor and only lets go of them.
func (d *Datapath) Close(keep bool) error {
	var err error
	if d.tracer != nil {
		err = d.tracer.Stop()
	}
	if keep && d.lock != nil { // what has no pin would end now
		err = errors.Join(err, d.repin())
	}
	if !keep {
		for name, l := range d.links {
			if e := d.endLink(name, l); e != nil && err == nil {
				err = e
			}
		}
	}
	dir, lock := d.pins, d.lock
	d.lock = nil
	d.release()
	if !keep && dir != "" {
		if e := dir.remove(); e != nil && err == nil {
			err = e
		}
	}
	if lock != nil {
		_ = lock.Close()
	}
	return err
}

// undo takes back what a failed Open has pinned. What a predecessor left is
// not touched: it may still be serving.
func (d *Datapath) undo() {
	if d.pins != "" && !d.Adopted {
		if links, err := d.pins.linked(); err == nil && len(links) == 0 {
			_ = d.pins.remove()
		}
	}
	d.takeBack()
	d.takeBackFamilies()
	d.release()
}

// release lets go of everything without changing what is pinned.
func (d *Datapath) release() {
	d.closeLeft()
	for _, m := range d.memory {
		m.unmap()
	}
	for _, p := range d.pieces {
		p.close()
	}
	for _, l := range d.links {
		_ = l.Close()
	}
	for name := range d.gates {
		d.openGate(name)
	}
	for _, p := range d.program {
		_ = p.Close()
	}
	for _, e := range d.explainers {
		e.close()
	}
	for _, p := range []*ebpf.Program{d.clock, d.absorb[0], d.absorb[1]} {
		if p != nil {
			_ = p.Close()
		}
	}
	for _, programs := range []map[uint32]*ebpf.Program{d.program6, d.previous6} {
		for _, p := range programs {
			_ = p.Close()
		}
	}
	_ = d.Maps.Close()
	_ = d.Maps6.Close()
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// Grace waits until no packet can still be using what it read before the
// call: an RCU grace period, some milliseconds.
func Grace() {
	if err := membarrier(); err != nil {
		time.Sleep(50 * time.Millisecond)
	}
}
