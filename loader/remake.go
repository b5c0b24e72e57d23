package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader/gate"
)

// remake gives the link of an interface up and makes another one. The kernel has
// no way to exchange a program for one of another mode: in between the gate is
// shut, so that nobody is told by the host's stack that there is no such
// connection. Where the new link cannot be made, the old program serves on.
func (d *Datapath) remake(ctx context.Context, a *Attachment, prog *ebpf.Program, l link.Link) error {
	if !isOf(l, a.Index) { // another device had the name: no packet comes in by it
		return errors.Join(d.endLink(a.Name, l), d.attachNew(ctx, a, prog))
	}
	was, mode := programOf(l), modeOf(d.Interfaces[a.Slot].Mode)
	if was != nil {
		defer was.Close()
	}
	d.shutGate(a.Name, a.Index)
	defer d.openGate(a.Name)
	err := d.endLink(a.Name, l)
	if err == nil {
		err = d.opts.fail("remake")
	}
	if err == nil {
		err = d.attachNew(ctx, a, prog)
	}
	if err != nil {
		err = errors.Join(err, d.putBack(a, was, mode))
	}
	return err
}

// isOf reports whether a link is of the device of an index.
func isOf(l link.Link, index int) bool {
	info, err := l.Info()
	return err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == index
}

// putBack has a former program serve again as it did.
func (d *Datapath) putBack(a *Attachment, prog *ebpf.Program, mode Mode) error {
	if prog == nil {
		return nil
	}
	d.Interfaces[a.Slot].Mode = modeNumber(mode)
	flags := link.XDPDriverMode
	if mode == Generic {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: a.Index, Flags: flags})
	if err != nil {
		return fmt.Errorf("attach the former program to %s again: %w", a.Name, err)
	}
	defer l.Close()
	if err := l.Pin(d.pins.link(a.Name)); err != nil {
		return fmt.Errorf("pin link to %s: %w", d.pins.link(a.Name), err)
	}
	return nil
}

// shutGate keeps packets to the VIPs from the stack of this host, until the gate
// is opened, or opens by itself.
func (d *Datapath) shutGate(name string, index int) {
	g, err := gate.Shut(index, d.servedVIPs())
	if err != nil {
		d.opts.Log.Warn("clients may be refused for a moment, the kernel cannot hold their packets back", "interface", name, "err", err)
		return
	}
	d.gates[name] = g
}

func (d *Datapath) openGate(name string) {
	if err := d.gates[name].Open(); err != nil {
		d.opts.Log.Warn("a gate opens by itself only", "interface", name, "after", gate.Longest, "err", err)
	}
	delete(d.gates, name)
}

// servedVIPs lists the VIPs that the predecessor has served.
func (d *Datapath) servedVIPs() (vips []netip.Addr) {
	for _, line := range d.VIPs {
		for _, v := range line.Way {
			if v.Addr != (bpf.Address{}) {
				vips = append(vips, v.Addr.Addr())
			}
		}
	}
	return vips
}
