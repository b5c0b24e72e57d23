// Package tc puts programs where the kernel's traffic control sees the packets
// of an interface: through tcx where the kernel has it (6.6), as filters of the
// clsact qdisc elsewhere.
//
// It knows nothing of what the programs do. With tcx they end with the process
// at the latest; filters of a process that was killed stay, until the next one
// takes their place.
package tc

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

// Programs are what is attached to an interface.
type Programs struct {
	In, Out *ebpf.Program // Out may be nil

	// As filters they have a name and a place of their own, so that those of a
	// process that was killed are replaced and not added to.
	Name     string
	Priority uint16
}

// Attach attaches through tcx where the kernel has it, else as filters. Closing
// takes the programs off.
func Attach(index int, p Programs) (io.Closer, error) {
	c, err := attachTCX(index, p)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return AttachFilters(index, p)
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

func attachTCX(index int, p Programs) (io.Closer, error) {
	var links closers
	for _, a := range []struct {
		prog *ebpf.Program
		to   ebpf.AttachType
	}{{p.In, ebpf.AttachTCXIngress}, {p.Out, ebpf.AttachTCXEgress}} {
		if a.prog == nil {
			continue
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: a.prog, Attach: a.to})
		if err != nil {
			return nil, errors.Join(err, links.Close())
		}
		links = append(links, l)
	}
	return links, nil
}

const filterHandle = 1

// AttachFilters attaches as filters of the clsact qdisc, which is made if need
// be.
func AttachFilters(index int, p Programs) (io.Closer, error) {
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
		netlink.HANDLE_MIN_INGRESS: p.In,
		netlink.HANDLE_MIN_EGRESS:  p.Out,
	} {
		if prog == nil {
			continue
		}
		f := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: index, Parent: parent, Handle: filterHandle,
				Protocol: unix.ETH_P_ALL, Priority: p.Priority,
			},
			Fd: prog.FD(), Name: p.Name, DirectAction: true,
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
