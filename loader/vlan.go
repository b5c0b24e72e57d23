package loader

import (
	"context"
	"errors"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/lvx-lb/lvx/bpf"
)

// VLAN is an interface of a VLAN (802.1Q).
type VLAN struct {
	Name        string // eth0.100
	Index       int    // its ifindex
	ID          uint16
	Device      string // eth0
	DeviceIndex int
}

// mostDevice is the highest index of an interface that a way can name.
const mostDevice = bpf.WayDevice

// way is how frames of the VLAN leave: 0 if no way can say so.
func (v VLAN) way() uint32 {
	if v.ID == 0 || v.ID >= bpf.Untagged || v.DeviceIndex <= 0 || v.DeviceIndex > mostDevice {
		return 0
	}
	return uint32(v.DeviceIndex) | uint32(v.ID)<<bpf.WayVLANShift
}

// placement is an interface that gets a program, and what for.
type placement struct {
	device     string
	isUntagged bool   // frames without a tag are served
	vlans      []VLAN // whose frames are served
	why        string // of a VLAN's own interface: why that below it cannot do it
}

// place finds the interfaces that get a program: those that are configured, and in
// place of a VLAN's, where it can be, that below it.
func (d *Datapath) place() (all []placement) {
	d.findVLANs()
	at := func(device string) *placement {
		i := slices.IndexFunc(all, func(p placement) bool { return p.device == device })
		if i < 0 {
			all = append(all, placement{device: device})
			i = len(all) - 1
		}
		return &all[i]
	}
	for _, name := range d.opts.Interfaces {
		v, isVLAN := d.vlans[name]
		if !isVLAN || d.opts.Mode == Generic {
			at(name).isUntagged = true
		} else if why := d.whyNotBelow(v); why != "" {
			p := at(name)
			p.isUntagged, p.why = true, why
		} else {
			p := at(v.Device)
			p.vlans = append(p.vlans, v)
		}
	}
	return all
}

// whyNotBelow is why the interface below a VLAN cannot serve its frames.
func (d *Datapath) whyNotBelow(v VLAN) string {
	switch {
	case v.way() == 0:
		return "no way can name it"
	case d.opts.CannotServe == nil:
		return ""
	}
	if err := d.opts.CannotServe(v); err != nil {
		return err.Error()
	}
	return ""
}

// findVLANs asks what VLANs the host has now.
func (d *Datapath) findVLANs() {
	d.vlans = nil
	if d.opts.VLANs == nil {
		return
	}
	d.vlans = map[string]VLAN{}
	for _, v := range d.opts.VLANs() {
		d.vlans[v.Name] = v
	}
}

// KnowsVLANs reports whether the host has VLANs, served or not.
func (d *Datapath) KnowsVLANs() bool { return len(d.vlans) > 0 }

// HasVLANs reports whether an interface is served for its VLANs.
func (d *Datapath) HasVLANs() bool {
	return slices.ContainsFunc(d.Attachments, func(a Attachment) bool { return len(a.VLANs) > 0 })
}

// Way is how frames leave by the interface of an index, in one word of the packet path.
func (d *Datapath) Way(index int) uint32 {
	isServed := slices.ContainsFunc(d.Attachments, func(a Attachment) bool { return a.Index == index })
	for _, v := range d.vlans {
		if v.Index == index && !isServed && v.way() != 0 {
			return v.way()
		}
	}
	if d.HasVLANs() && index > 0 && index <= mostDevice {
		return uint32(index) | bpf.Untagged<<bpf.WayVLANShift
	}
	return uint32(index)
}

// IsTagged reports whether a way says what tag frames have.
func IsTagged(way uint32) bool { return way>>bpf.WayVLANShift != 0 }

// DeviceOf is the index of the interface that a way leads to: that of the VLAN where it
// names one that is there.
func (d *Datapath) DeviceOf(way uint32) int {
	for _, v := range d.vlans {
		if v.way() == way {
			return v.Index
		}
	}
	if IsTagged(way) {
		way &= bpf.WayDevice
	}
	return int(way)
}

// ServedBy is the index of the interface whose program serves another one's frames:
// that below a VLAN, or else the interface itself.
func (d *Datapath) ServedBy(index int) int {
	for i := range d.Attachments {
		if slices.ContainsFunc(d.Attachments[i].VLANs, func(v VLAN) bool { return d.vlans[v.Name].Index == index }) {
			return d.Attachments[i].Index
		}
	}
	return index
}

// attachBelow makes a link of an interface, and takes a predecessor's programs off the
// interfaces of its VLANs first: the kernel takes none below another one. Where it cannot be
// made, they serve on.
func (d *Datapath) attachBelow(ctx context.Context, a *Attachment, prog *ebpf.Program) (err error) {
	for _, v := range a.VLANs {
		l, notThere := link.LoadPinnedLink(d.pins.link(v.Name), nil)
		if notThere != nil {
			continue
		}
		slot, full := d.chooseSlot(v.Index)
		was := programOf(l)
		d.shutGate(v.Name, v.Index)
		defer d.openGate(v.Name)
		if err := d.endLink(v.Name, l); err != nil || full != nil {
			return errors.Join(err, full)
		}
		defer func() {
			if err == nil {
				d.freeSlot(v.Index)
			} else {
				err = errors.Join(err, d.putBack(&Attachment{Name: v.Name, Index: v.Index, Slot: slot}, was, Generic))
			}
			if was != nil {
				_ = was.Close()
			}
		}()
	}
	return d.attachNew(ctx, a, prog)
}

// Names are the configured interfaces that an attachment is for.
func (a *Attachment) Names() (names []string) {
	if a.IsUntagged {
		names = append(names, a.Name)
	}
	for _, v := range a.VLANs {
		names = append(names, v.Name)
	}
	return names
}

// served are the frames that an attachment is for, as the packet path knows them. Where
// it is not for VLANs, that is every frame.
func (a *Attachment) served() (set [bpf.VLANs / 64]uint64) {
	if len(a.VLANs) == 0 {
		for i := range set {
			set[i] = ^uint64(0)
		}
		return set
	}
	if a.IsUntagged {
		set[0] = 1
	}
	for _, v := range a.VLANs {
		set[v.ID/64] |= 1 << (v.ID % 64)
	}
	return set
}
