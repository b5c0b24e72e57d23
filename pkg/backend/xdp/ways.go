package xdp

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// layOutWays says what the packet path cannot ask the kernel for: on what device,
// with what tag, a reply leaves by an interface that the kernel's routes name.
func (b *Backend) layOutWays() error {
	if !b.dp.KnowsVLANs() && !b.hasWays {
		return nil
	}
	b.hasWays = b.dp.KnowsVLANs()
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	wanted := map[uint32]bpf.WayOut{}
	for _, i := range all {
		if way := b.dp.Way(i.Index); way != uint32(i.Index) && len(wanted) < bpf.WaysOut {
			wanted[uint32(i.Index)] = bpf.WayOut{Way: way}
		}
	}
	for index, way := range wanted {
		if err := b.dp.Maps.Ways.Put(index, way); err != nil {
			return fmt.Errorf("ways out: %w", err)
		}
	}
	var index uint32
	var way bpf.WayOut
	var removed []uint32
	for there := b.dp.Maps.Ways.Iterate(); there.Next(&index, &way); {
		if _, ok := wanted[index]; !ok {
			removed = append(removed, index)
		}
	}
	for _, index := range removed {
		if err := b.dp.Maps.Ways.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("ways out: %w", err)
		}
	}
	return nil
}
