package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Unpinned is a packet path of lvx's that is attached to an interface by a link
// without a pin in a pin directory: somebody has removed or moved the pins, or
// they are in another directory.
type Unpinned struct {
	Interface string
	Holder    int // a process that serves by it; 0: pins elsewhere alone keep it

	link link.ID
}

// initialPIDNamespace is what /proc calls the namespace in which all processes
// of the machine can be seen.
const initialPIDNamespace = "pid:[4026531836]"

// FindUnpinned looks for a packet path of lvx's, without a pin in dir, on an
// interface. It returns nil if there is none.
func FindUnpinned(dir, iface string) (*Unpinned, error) {
	if IsPinned(dir, iface) {
		return nil, nil
	}
	device, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	x := device.Attrs().Xdp
	if x == nil || !x.Attached || !isPacketPath(ebpf.ProgramID(x.ProgId)) {
		return nil, nil
	}
	id, err := findLink(device.Attrs().Index, ebpf.ProgramID(x.ProgId))
	if err != nil || id == 0 {
		return nil, err
	}
	u := &Unpinned{Interface: iface, link: id}
	u.Holder, err = findHolder(id)
	return u, err
}

// isPacketPath reports whether a program is lvx's: by its name and those of its
// maps.
func isPacketPath(id ebpf.ProgramID) bool {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil || info.Name != "lb" {
		return false
	}
	wanted := map[string]bool{"settings": true, "interfaces": true, "vips": true, "services": true, "flows": true}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if info, err := m.Info(); err == nil {
			delete(wanted, info.Name)
		}
		_ = m.Close()
	}
	return len(wanted) == 0
}

// findLink finds the link by which a program is attached to a device, 0 if it is
// attached without one.
func findLink(index int, prog ebpf.ProgramID) (link.ID, error) {
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err == nil && info.Program == prog && info.XDP() != nil && int(info.XDP().Ifindex) == index {
			return info.ID, nil
		}
	}
	if err := it.Err(); err != nil {
		return 0, fmt.Errorf("links of BPF programs: %w", err)
	}
	return 0, nil
}

// findHolder finds a process other than this one that has a link open, 0 if there
// is none.
func findHolder(id link.ID) (int, error) {
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil || ns != initialPIDNamespace {
		return 0, errors.New("which process serves by it cannot be seen from this PID namespace")
	}
	files, err := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	if err != nil {
		return 0, err
	}
	line := fmt.Appendf(nil, "\nlink_id:\t%d\n", id)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil { // it has ended
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file))))
		if pid != os.Getpid() && bytes.Contains(append([]byte("\n"), text...), line) {
			return pid, nil
		}
	}
	return 0, nil
}

// Error says who serves.
func (u *Unpinned) Error() string {
	return fmt.Sprintf("interface %s: another lvx (process %d) serves there, with another pin_dir or with pins that were removed (stop it: lvx stop)", u.Interface, u.Holder)
}

// pinFound pins what lvx has attached to the interfaces and what has no pin here,
// as if it had always been here, unless a process serves by it.
func (d *Datapath) pinFound() error {
	for _, name := range d.opts.Interfaces {
		u, err := FindUnpinned(string(d.pins), name)
		switch {
		case err != nil:
			d.opts.Log.Warn("whether lvx is attached already, without pins, is not known", "interface", name, "err", err)
			continue
		case u == nil:
			continue
		case u.Holder != 0:
			return u
		}
		if err := u.pin(d.pins.link(name)); err != nil {
			return err
		}
		d.opts.Log.Warn("an lvx that has ended serves there with its pins elsewhere: going on with it", "interface", name, "pin_dir", d.opts.PinDir)
	}
	return nil
}

func (u *Unpinned) pin(path string) error {
	l, err := link.NewFromID(u.link)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOENT) {
		return nil // it has just gone
	}
	if err != nil {
		return fmt.Errorf("link of %s: %w", u.Interface, err)
	}
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin link to %s: %w", path, err)
	}
	return nil
}
