package hostinfo

import (
	"fmt"
	"runtime"
)

// orderedArch is the architecture whose processors keep the order of loads
// with loads and of stores with stores (Intel SDM volume 3A, 9.2.2; TSO). The
// flow table is read without a lock, so the packet path relies on that order.
const orderedArch = "amd64"

// WeakOrder returns why the packet path cannot run on this architecture, nil
// if it can. Health checks, VRRP, kernel IPVS and `lvx real` run on all.
func WeakOrder() error { return weakOrder(runtime.GOARCH) }

func weakOrder(arch string) error {
	if arch == orderedArch {
		return nil
	}
	return fmt.Errorf("the packet path needs the memory order of %s, and this is %s (set backend: ipvs, or run lvx on %s)", orderedArch, arch, orderedArch)
}
