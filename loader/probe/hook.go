package probe

import (
	"io"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/loader/tc"
)

// either attaches through tcx where the kernel has it.
func either(index int, in, out *ebpf.Program) (io.Closer, error) {
	return tc.Attach(index, programs(in, out))
}

func programs(in, out *ebpf.Program) tc.Programs {
	return tc.Programs{In: in, Out: out, Name: "lvx_probe", Priority: 0x6c76} // "lv"
}
