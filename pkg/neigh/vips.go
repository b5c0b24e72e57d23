package neigh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// VIPs puts virtual addresses on interfaces and takes them off again. What
// was on an interface before is left there.
//
// Which addresses are ours is written to a file before they are put on, so
// that a daemon that was killed still knows it when it starts again. The file
// counts for one boot: addresses do not survive the machine's restart, and
// one that is there afterwards is somebody else's. (The kernel could keep that
// note itself, but the label of an address is IPv4's alone and as short as an
// interface name, and its protocol field is younger than Linux 5.15.)
//
// One goroutine at a time may use it.
type VIPs struct {
	file string
	boot string
	ours []vip
	read bool // ours holds what the file says
}

// vip is one address of ours.
type vip struct {
	Interface string     `json:"interface"`
	Address   netip.Addr `json:"address"`
}

// vipFile is what the file holds.
type vipFile struct {
	Boot string `json:"boot"` // /proc/sys/kernel/random/boot_id
	VIPs []vip  `json:"vips"`
}

// NewVIPs makes a VIPs that keeps its notes in a file, which is made when
// there is something to note.
func NewVIPs(file string) *VIPs { return &VIPs{file: file} }

// Hold makes the host have exactly these addresses of ours on the interface,
// as /32 or /128, and tells which ones it had to put there. It is idempotent
// and repairs what somebody else removed. On an error the addresses that the
// error does not name are held.
func (v *VIPs) Hold(iface string, vips []netip.Addr) (new []netip.Addr, err error) {
	if err := v.load(); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("VIPs on %s: %w", iface, err)
	}
	there, err := addresses(link)
	if err != nil {
		return nil, err
	}
	ours := make(map[vip]bool, len(v.ours))
	for _, w := range v.ours {
		ours[w] = true
	}
	wanted := make(map[netip.Addr]bool, len(vips))
	var add []vip
	for _, a := range vips {
		w := vip{iface, a}
		wanted[a] = true
		if ours[w] || !there[a] {
			add = append(add, w)
		}
	}
	var drop []vip
	for _, w := range v.ours {
		if w.Interface == iface && !wanted[w.Address] {
			drop = append(drop, w)
		}
	}
	// The note comes before the deed.
	if err := v.note(append(slices.Clone(v.ours), add...)); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // one socket for all of them
	if err != nil {
		return nil, fmt.Errorf("VIPs on %s: %w", iface, err)
	}
	defer h.Close()
	var errs []error
	for _, w := range add {
		if there[w.Address] {
			continue
		}
		if err := put(h, link, w.Address); err != nil {
			errs = append(errs, err)
			continue
		}
		new = append(new, w.Address)
	}
	return new, errors.Join(append(errs, v.remove(drop))...)
}

// Release takes every address of ours off its interface.
func (v *VIPs) Release() error {
	if err := v.load(); err != nil {
		return err
	}
	return v.remove(slices.Clone(v.ours))
}

// Ours lists the addresses that are on the interface because of us.
func (v *VIPs) Ours(iface string) []netip.Addr {
	var list []netip.Addr
	for _, w := range v.ours {
		if w.Interface == iface {
			list = append(list, w.Address)
		}
	}
	return list
}

// remove takes addresses off. One that is gone already is no error.
func (v *VIPs) remove(drop []vip) error {
	if len(drop) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("VIPs: %w", err)
	}
	defer h.Close()
	var errs []error
	gone := make(map[vip]bool, len(drop))
	for _, w := range drop {
		if err := take(h, w); err != nil {
			errs = append(errs, err)
			continue
		}
		gone[w] = true
	}
	left := slices.DeleteFunc(slices.Clone(v.ours), func(o vip) bool { return gone[o] })
	return errors.Join(append(errs, v.note(left))...)
}

// load reads the file, once.
func (v *VIPs) load() error {
	if v.read {
		return nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("boot identifier: %w", err)
	}
	v.boot = strings.TrimSpace(string(boot))
	b, err := os.ReadFile(v.file)
	if errors.Is(err, fs.ErrNotExist) {
		v.read = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("notes about VIPs: %w", err)
	}
	var f vipFile
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("notes about VIPs in %s: %w (remove the file; VIPs that a killed lvx left on an interface then stay there)", v.file, err)
	}
	if f.Boot == v.boot {
		v.ours = f.VIPs
	}
	v.read = true
	return nil
}

// note writes which addresses are ours; a file that says "none" is removed.
func (v *VIPs) note(ours []vip) error {
	slices.SortFunc(ours, func(a, b vip) int {
		if c := strings.Compare(a.Interface, b.Interface); c != 0 {
			return c
		}
		return a.Address.Compare(b.Address)
	})
	ours = slices.Compact(ours)
	if slices.Equal(ours, v.ours) {
		return nil
	}
	if err := v.write(ours); err != nil {
		return fmt.Errorf("notes about VIPs: %w", err)
	}
	v.ours = ours
	return nil
}

func (v *VIPs) write(ours []vip) error {
	if len(ours) == 0 {
		if err := os.Remove(v.file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.MarshalIndent(vipFile{Boot: v.boot, VIPs: ours}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(v.file), 0o755); err != nil {
		return err
	}
	// A rename leaves either the old notes or the new, whenever we are killed.
	if err := os.WriteFile(v.file+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(v.file+".new", v.file)
}

// addresses lists what an interface has.
func addresses(link netlink.Link) (map[netip.Addr]bool, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	there := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			there[ip.Unmap()] = true
		}
	}
	return there, nil
}

// host32 is an address as one host of its own: /32 or /128.
func host32(a netip.Addr) *netlink.Addr {
	n := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is6() {
		// Duplicate detection would keep the address unusable for a second.
		n.Flags = unix.IFA_F_NODAD
	}
	return n
}

func put(h *netlink.Handle, link netlink.Link, a netip.Addr) error {
	if err := h.AddrAdd(link, host32(a)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("VIP %s on %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

func take(h *netlink.Handle, w vip) error {
	link, err := h.LinkByName(w.Interface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = h.AddrDel(link, host32(w.Address))
	}
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("VIP %s off %s: %w", w.Address, w.Interface, err)
	}
	return nil
}
