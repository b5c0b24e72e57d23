package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
)

// ErrNothingPinned says that there is no packet path in a pin directory.
var ErrNothingPinned = errors.New("no packet path is pinned")

// Look opens the packet path that is pinned in a directory, whether a process
// looks after it or not, to read what it holds. Nothing is changed: its memory
// cannot be written by the result, and Close(true) is the way to close it. Its
// Attachments are the interfaces that it serves.
func Look(pinDirectory string) (_ *Datapath, err error) {
	d := &Datapath{opts: Options{PinDir: pinDirectory}, pins: pinDir(pinDirectory), memory: map[*ebpf.Map]mapped{}, left: map[string]*leftMap{}, Adopted: true}
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	if _, err := os.Stat(d.pins.file("settings")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", pinDirectory, ErrNothingPinned)
	}
	if d.spec, err = pinnedSpec(d.pins); err != nil {
		return nil, err
	}
	adopted, err := d.pinnedMaps()
	if err != nil {
		return nil, err
	}
	if missing := d.missing(len(adopted)); missing != "" {
		closeMaps(adopted)
		return nil, fmt.Errorf("%s: %s (start lvx, which mends it)", pinDirectory, missing)
	}
	if err := d.makeMaps(adopted); err != nil {
		return nil, err
	}
	if err := d.mapAll(unix.PROT_READ); err != nil {
		return nil, err
	}
	if err := d.loadClock(); err != nil {
		return nil, err
	}
	if err := d.openPieces(); err != nil {
		return nil, err
	}
	return d, d.findAttachments()
}

// pinnedSpec is the packet path's object with tables of the size that is
// pinned.
func pinnedSpec(pins pinDir) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadSpec()
	if err != nil {
		return nil, err
	}
	if err := addMaps6(spec, Options{}); err != nil {
		return nil, err
	}
	for _, name := range sizedMaps() {
		m, err := ebpf.LoadPinnedMap(pins.file(name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pinned map %s: %w", name, err)
		}
		spec.Maps[name].MaxEntries = m.MaxEntries()
		_ = m.Close()
	}
	return spec, nil
}

// missing is why what is pinned cannot be read as it is: "" if it can.
func (d *Datapath) missing(adopted int) string {
	for name, l := range d.left {
		return fmt.Sprintf("map %s is of another version of lvx: %s", name, l.why)
	}
	want := 0
	for name := range d.spec.Maps {
		if pinned(name) {
			want++
		}
	}
	if adopted < want {
		return fmt.Sprintf("%d of its %d maps are gone", want-adopted, want)
	}
	return ""
}

// findAttachments finds the interfaces that have a program in a pinned link.
func (d *Datapath) findAttachments() error {
	names, err := d.pins.linked()
	if err != nil {
		return err
	}
	for _, name := range names {
		l, err := link.LoadPinnedLink(d.pins.link(name), nil)
		if err != nil {
			continue
		}
		info, err := l.Info()
		_ = l.Close()
		if err != nil || info.XDP() == nil {
			continue
		}
		index := info.XDP().Ifindex
		slot := slices.IndexFunc(d.Interfaces, func(i bpf.Interface) bool { return i.Ifindex == index })
		if iface, err := net.InterfaceByName(name); slot < 0 || err != nil || iface.Index != int(index) {
			continue
		}
		d.Attachments = append(d.Attachments, Attachment{Name: name, Index: int(index), Slot: uint32(slot), Mode: modeOf(d.Interfaces[slot].Mode), IsUntagged: true})
	}
	slices.SortFunc(d.Attachments, func(a, b Attachment) int { return strings.Compare(a.Name, b.Name) })
	return nil
}
