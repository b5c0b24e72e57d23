package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/lvx-lb/lvx/bpf"
)

// ErrNoEthernet is why XDP cannot serve on an interface of another kind: lo, wg0, tun0.
var ErrNoEthernet = errors.New("no Ethernet address, XDP direct routing needs one")

// loadFor loads the program of an interface: one that knows the interface's
// slot.
func (d *Datapath) loadFor(p placement) (Attachment, error) {
	name := p.device
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return Attachment{}, fmt.Errorf("interface %s: no such interface (see `ip link`)", name)
	}
	if len(iface.HardwareAddr) != 6 {
		return Attachment{}, fmt.Errorf("interface %s: %w", name, ErrNoEthernet)
	}
	slot, err := d.chooseSlot(iface.Index)
	if err != nil {
		return Attachment{}, err
	}
	a := Attachment{Name: name, Index: iface.Index, Slot: slot, IsUntagged: p.isUntagged, VLANs: p.vlans, isAbove: p.why}
	d.Interfaces[slot].Ifindex, d.Interfaces[slot].MTU, d.Interfaces[slot].VLANs = uint32(iface.Index), uint32(iface.MTU), a.served()
	prog, ownMAC, err := d.load(d.spec, slot, nil)
	if err != nil {
		return a, err
	}
	d.program[name], d.ownMAC[name] = prog, ownMAC
	if err := d.load6(slot); err != nil {
		return a, err
	}
	return a, d.setMAC(&a, iface.HardwareAddr)
}

// attach puts a program into the pinned link of an interface, or makes and
// pins a link.
func (d *Datapath) attach(ctx context.Context, a *Attachment, prog *ebpf.Program) error {
	if done, err := d.takeOver(ctx, a, prog); done || err != nil {
		return err
	}
	return d.attachBelow(ctx, a, prog)
}

// setMAC tells the programs of an interface which frames are for it. A short
// way has the address in a variable of its own program, the rest in the map.
func (d *Datapath) setMAC(a *Attachment, mac net.HardwareAddr) error {
	var m [8]uint8
	copy(m[:], mac)
	d.Interfaces[a.Slot].MAC = m
	if !a.IsUntagged {
		m = [8]uint8{} // a short way has no business with what has no tag
	}
	for _, own := range []*ebpf.Variable{d.ownMAC[a.Name], d.ownMAC6[a.Slot]} {
		if own == nil { // IPv6 is not served
			continue
		}
		if err := own.Set(m); err != nil {
			return fmt.Errorf("interface %s: MAC of the packet path: %w", a.Name, err)
		}
	}
	return nil
}

// takeOver puts the program into a pinned link of the interface. done is
// false if there is none that can be used.
func (d *Datapath) takeOver(ctx context.Context, a *Attachment, prog *ebpf.Program) (done bool, err error) {
	path := d.pins.link(a.Name)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		a.isUntried = true
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pinned link %s: %w", path, err)
	}
	d.keepPrevious(a, l)
	a.Mode = modeOf(d.Interfaces[a.Slot].Mode)
	if !d.stillGood(l, a) {
		a.isUntried = true // it is another device, or was served in generic mode
		d.opts.Log.Info("the pinned link is of another interface or mode; attaching anew", "interface", a.Name)
		return true, d.remake(ctx, a, prog, l)
	}
	if err := d.opts.fail("update"); err != nil {
		_ = l.Close()
		return false, err
	}
	if err := l.Update(prog); err != nil {
		// A program of another attach type (frags or not) cannot be
		// swapped in; only then is the old link given up.
		d.opts.Log.Warn("the running program cannot be replaced in place; attaching anew", "interface", a.Name, "why", err)
		a.isUntried = a.Mode != Native
		return true, d.remake(ctx, a, prog, l)
	}
	d.links[a.Name] = l
	a.Why = d.whyStillGeneric(a)
	return true, nil
}

// keepPrevious keeps the program that packets meet before they change over to
// other maps.
func (d *Datapath) keepPrevious(a *Attachment, l link.Link) {
	if len(d.left) == 0 {
		return
	}
	if d.previous == nil {
		d.previous = map[string]*ebpf.Program{}
	}
	if was := programOf(l); was != nil {
		d.previous[a.Name] = was
	}
}

// endLink takes the program of the link of an interface off, for good.
func (d *Datapath) endLink(name string, l link.Link) error {
	delete(d.links, name)
	if err := d.pins.endLink(name, l); err != nil {
		return fmt.Errorf("detach from %s: %w", name, err)
	}
	return nil
}

// FirstGeneric is why an interface that could be served in native mode is not.
const FirstGeneric = "when lvx attached to it first; a fresh start tries again: lvx stop --purge"

// whyStillGeneric is why an interface that was attached to before is served
// in generic mode, although native is tried first.
func (d *Datapath) whyStillGeneric(a *Attachment) string {
	if a.Mode != Generic || d.opts.Mode == Generic {
		return ""
	}
	if a.isAbove != "" {
		return a.isAbove
	}
	if d.opts.CannotSend != nil {
		if err := d.opts.CannotSend(a.Name); err != nil {
			return err.Error()
		}
	}
	return FirstGeneric
}

func (d *Datapath) stillGood(l link.Link, a *Attachment) bool {
	info, err := l.Info()
	if err != nil || info.XDP() == nil || int(info.XDP().Ifindex) != a.Index {
		return false
	}
	return d.opts.Mode == Auto || d.opts.Mode == "" || d.opts.Mode == a.Mode
}

// attachNew makes a link, in the mode asked for, and pins it.
func (d *Datapath) attachNew(ctx context.Context, a *Attachment, prog *ebpf.Program) error {
	l, err := d.tryModes(ctx, a, prog)
	if err != nil {
		return err
	}
	d.Interfaces[a.Slot].Mode = modeNumber(a.Mode)
	if err := d.opts.fail("link"); err != nil {
		_ = detachAtOnce(l)
		return err
	}
	if err := l.Pin(d.pins.link(a.Name)); err != nil {
		_ = detachAtOnce(l)
		return fmt.Errorf("pin link to %s: %w", d.pins.link(a.Name), err)
	}
	d.links[a.Name] = l
	return nil
}

func (d *Datapath) tryModes(ctx context.Context, a *Attachment, prog *ebpf.Program) (link.Link, error) {
	if d.mayBeNative(a) {
		a.Mode = Native
		l, err := d.attachNative(ctx, a, prog)
		if err == nil {
			return l, nil
		}
		if d.opts.Mode == Native || errors.Is(err, os.ErrExist) || busy(err) {
			return nil, d.refused(a, err)
		}
		a.Why = err.Error()
		d.opts.Log.Warn("native XDP cannot be used; falling back to generic, which is slower", "interface", a.Name, "why", err)
	}
	a.Mode = Generic
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: a.Index, Flags: link.XDPGenericMode})
	if err != nil {
		return nil, d.refused(a, err)
	}
	return l, nil
}

// mayBeNative reports whether native mode is to be tried.
func (d *Datapath) mayBeNative(a *Attachment) bool {
	if a.isAbove != "" && d.opts.Mode != Generic {
		a.Why = a.isAbove
		return d.opts.Mode == Native
	}
	if d.opts.Mode != Auto || d.opts.CannotSend == nil {
		return d.opts.Mode != Generic
	}
	err := d.opts.CannotSend(a.Name)
	if err != nil {
		a.Why = err.Error()
		d.opts.Log.Warn("native XDP would lose frames; falling back to generic, which is slower", "interface", a.Name, "why", err)
	}
	return err == nil
}

func (d *Datapath) refused(a *Attachment, err error) error {
	hint := "try `xdp_mode: generic`"
	if busy(err) {
		hint = "another XDP program is attached: see `bpftool net`, `ip link`"
	}
	if a.Why != "" {
		return fmt.Errorf("attach to %s: native and generic XDP refused: %s; %w (see `bpftool net`, `ip link`)", a.Name, a.Why, err)
	}
	return fmt.Errorf("attach to %s in %s mode: %w (%s)", a.Name, a.Mode, err, hint)
}

// dropStrayLinks detaches from interfaces that the configuration no longer
// names. Their gates stay shut until those who used them have heard where the
// VIPs are now.
func (d *Datapath) dropStrayLinks() error {
	names, err := d.pins.linked()
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.ContainsFunc(d.Attachments, func(a Attachment) bool { return a.Name == name }) {
			continue
		}
		d.opts.Log.Info("detaching from an interface that is no longer configured", "interface", name)
		iface, err := net.InterfaceByName(name)
		if err == nil {
			d.shutGate(name, iface.Index)
		}
		if err := d.pins.detach(name); err != nil {
			return fmt.Errorf("detach from %s: %w", name, err)
		}
		if iface != nil {
			d.freeSlot(iface.Index)
		}
	}
	return nil
}

func modeNumber(m Mode) bpf.AttachMode {
	if m == Generic {
		return bpf.ModeGeneric
	}
	return bpf.ModeNative
}

func modeOf(n bpf.AttachMode) Mode {
	if n == bpf.ModeGeneric {
		return Generic
	}
	return Native
}
