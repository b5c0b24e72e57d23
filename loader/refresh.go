package loader

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Refresh repairs what happened to the interfaces since they were attached
// to: a new MAC is noted, an interface that was made anew (or whose link
// somebody detached) is attached to again. An interface that is gone is an
// error until it is back; the others are served all the same.
func (d *Datapath) Refresh() error {
	var failed []error
	for i := range d.Attachments {
		if err := d.refresh(&d.Attachments[i]); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (d *Datapath) refresh(a *Attachment) error {
	iface, err := net.InterfaceByName(a.Name)
	if err != nil {
		return fmt.Errorf("interface %s: it is gone (see `ip link`)", a.Name)
	}
	var mac [8]uint8
	copy(mac[:], iface.HardwareAddr)
	if d.Interfaces[a.Slot].Mac != mac {
		d.Interfaces[a.Slot].Mac = mac
	}
	if iface.Index == a.Index && d.attached(a) {
		return nil
	}
	d.opts.Log.Warn("attaching again", "interface", a.Name, "ifindex", iface.Index, "was", a.Index)
	if l := d.links[a.Name]; l != nil {
		_ = l.Unpin()
		_ = l.Close()
		delete(d.links, a.Name)
	}
	if err := os.Remove(d.pins.link(a.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin link of %s: %w", a.Name, err)
	}
	a.Index = iface.Index
	d.Interfaces[a.Slot].Ifindex = uint32(iface.Index)
	return d.attachNew(a, d.program[a.Name])
}

// attached tells whether the link still holds the program to the interface.
func (d *Datapath) attached(a *Attachment) bool {
	l := d.links[a.Name]
	if l == nil {
		return false
	}
	info, err := l.Info()
	return err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == a.Index
}
