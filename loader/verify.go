package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/lvx-lb/lvx/bpf"
)

// Verify asks the kernel's verifier whether it takes the packet path, with
// tables as small as they can be. Nothing is pinned or attached.
func Verify() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("memory lock limit: %w", err)
	}
	spec, err := bpf.LoadSpec()
	if err != nil {
		return fmt.Errorf("packet path object: %w", err)
	}
	spec.Maps["flows"].MaxEntries = sets(1)
	spec.Maps["templates"].MaxEntries = sets(1)
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("packet path: %w", err)
	}
	coll.Close()
	return nil
}
