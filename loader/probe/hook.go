package probe

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// either attaches through tcx where the kernel has it.
func either(index int, in, out *ebpf.Program) (io.Closer, error) {
	c, err := tcx(index, in, out)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return clsact(index, in, out)
	}
	return c, err
}

// closers closes all of its members, last first.
type closers []io.Closer

func (cs closers) Close() error {
	var errs []error
	for i := len(cs) - 1; i >= 0; i-- {
		errs = append(errs, cs[i].Close())
	}
	return errors.Join(errs...)
}

// tcx attaches by links, which end with the process at the latest.
func tcx(index int, in, out *ebpf.Program) (io.Closer, error) {
	var links closers
	for _, a := range []struct {
		prog *ebpf.Program
		to   ebpf.AttachType
	}{{in, ebpf.AttachTCXIngress}, {out, ebpf.AttachTCXEgress}} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: a.prog, Attach: a.to})
		if err != nil {
			return nil, errors.Join(err, links.Close())
		}
		links = append(links, l)
	}
	return links, nil
}

// Filters of clsact have a place of their own, so that those of a daemon
// that was killed are replaced and not added to.
const (
	filterPriority = 0x6c76 // "lv"
	filterHandle   = 1
)

// clsact attaches as filters of the clsact qdisc, which is made if need be.
func clsact(index int, in, out *ebpf.Program) (io.Closer, error) {
	var undo closers
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	switch err := netlink.QdiscAdd(q); {
	case err == nil:
		undo = append(undo, closer(func() error { return netlink.QdiscDel(q) }))
	case !errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("clsact qdisc: %w", err)
	}
	for parent, prog := range map[uint32]*ebpf.Program{
		netlink.HANDLE_MIN_INGRESS: in,
		netlink.HANDLE_MIN_EGRESS:  out,
	} {
		f := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: index, Parent: parent, Handle: filterHandle,
				Protocol: unix.ETH_P_ALL, Priority: filterPriority,
			},
			Fd: prog.FD(), Name: "lvx_probe", DirectAction: true,
		}
		if err := netlink.FilterReplace(f); err != nil {
			return nil, errors.Join(fmt.Errorf("clsact filter: %w", err), undo.Close())
		}
		undo = append(undo, closer(func() error { return netlink.FilterDel(f) }))
	}
	return undo, nil
}

// closer makes a function an io.Closer. What is gone already, with its
// interface for example, is closed.
type closer func() error

func (c closer) Close() error {
	err := c()
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
