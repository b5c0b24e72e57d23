package loader

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/cilium/ebpf"
)

// Refresh repairs what happened to the interfaces since they were attached
// to: a new MAC is noted, an interface that was made anew (or whose link
// somebody detached) is attached to again. An interface that is gone is an
// error until it is back; the others are served all the same. Pins that
// somebody removed are put back: without them the packet path would end with
// this process, and a successor would start with empty tables.
func (d *Datapath) Refresh(ctx context.Context) error {
	if d.opts.Detached {
		return nil
	}
	d.findVLANs()
	var failed []error
	if err := d.repin(); err != nil {
		failed = append(failed, err)
	}
	for i := range d.Attachments {
		if err := d.refresh(ctx, &d.Attachments[i]); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (d *Datapath) refresh(ctx context.Context, a *Attachment) error {
	iface, err := net.InterfaceByName(a.Name)
	if err != nil {
		return fmt.Errorf("interface %s: it is gone (see `ip link`)", a.Name)
	}
	if err := d.setMAC(a, iface.HardwareAddr); err != nil {
		return err
	}
	d.Interfaces[a.Slot].MTU = uint32(iface.MTU)
	if iface.Index == a.Index && d.attached(a) {
		return nil
	}
	d.opts.Log.Warn("the interface was made anew, or somebody took the program off; attaching again", "interface", a.Name)
	if err := d.endOldLink(a.Name); err != nil {
		return err
	}
	a.isUntried = iface.Index != a.Index || a.Mode != Native
	a.Index = iface.Index
	d.Interfaces[a.Slot].Ifindex = uint32(iface.Index)
	return d.attachNew(ctx, a, d.program[a.Name])
}

// endOldLink takes the program off what the link of an interface was of.
func (d *Datapath) endOldLink(name string) error {
	if l := d.links[name]; l != nil {
		return d.endLink(name, l)
	}
	if err := d.pins.detach(name); err != nil {
		return fmt.Errorf("detach from %s: %w", name, err)
	}
	return nil
}

// attached reports whether the link still holds the program to the interface.
func (d *Datapath) attached(a *Attachment) bool {
	l := d.links[a.Name]
	if l == nil {
		return false
	}
	info, err := l.Info()
	return err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == a.Index
}

// repin makes pins that are missing anew.
func (d *Datapath) repin() error {
	if !there(string(d.pins)) {
		pins, lock, err := openPinDir(string(d.pins))
		if err != nil {
			return err
		}
		if d.lock != nil {
			_ = d.lock.Close() // of the directory that is gone
		}
		d.pins, d.lock = pins, lock
	}
	err := d.eachMap(func(name string, m **ebpf.Map) error { return d.pinAgain(d.pins.file(name), *m) })
	if err != nil {
		return err
	}
	for name, l := range d.links {
		if err := d.pinAgain(d.pins.link(name), l); err != nil {
			return err
		}
	}
	return nil
}

// pinAgain pins what may think that it is pinned already.
func (d *Datapath) pinAgain(path string, what interface {
	Pin(path string) error
	Unpin() error
}) error {
	if there(path) {
		return nil
	}
	d.opts.Log.Warn("pin was removed by someone else, putting it back", "path", path)
	if err := what.Unpin(); err != nil {
		return fmt.Errorf("unpin %s: %w", path, err)
	}
	if err := what.Pin(path); err != nil {
		return fmt.Errorf("pin to %s: %w", path, err)
	}
	return nil
}

// there reports whether a path exists, as far as can be seen.
func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}
