package loader

import (
	"fmt"
	"net"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
)

// chooseSlot is the slot that an interface has, or a free one: a predecessor's
// program goes on by its slot until it is exchanged.
func (d *Datapath) chooseSlot(index int) (uint32, error) {
	is := func(wanted uint32) int {
		return slices.IndexFunc(d.Interfaces, func(i bpf.Interface) bool { return i.Ifindex == wanted })
	}
	slot := is(uint32(index))
	if slot < 0 {
		slot = is(0)
	}
	if slot < 0 { // the slots of interfaces that are gone
		slot = slices.IndexFunc(d.Interfaces, func(i bpf.Interface) bool {
			_, err := net.InterfaceByIndex(int(i.Ifindex))
			return err != nil
		})
	}
	if slot < 0 {
		return 0, fmt.Errorf("interfaces: at most %d can be served", len(d.Interfaces))
	}
	return uint32(slot), nil
}

// freeSlot gives the slot of an interface that has no program any more to another.
func (d *Datapath) freeSlot(index int) {
	for slot := range d.Interfaces {
		if d.Interfaces[slot].Ifindex == uint32(index) {
			d.Interfaces[slot].Ifindex = 0
		}
	}
}
