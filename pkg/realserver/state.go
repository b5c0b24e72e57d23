package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/vip"
)

// state is what the state file holds.
type state struct {
	// Boot is the kernel's boot_id: neither addresses nor settings survive a
	// restart of the machine, so what was remembered is void then.
	Boot   string            `json:"boot"`
	VIPs   []record          `json:"vips"`
	Before map[string]string `json:"before"` // settings, with the values they had

	Devices map[string]bool `json:"devices,omitempty"`   // of tunnels, and whether each was up
	Made    []string        `json:"made,omitempty"`      // of tunnels, by lvx
	Ports   []int           `json:"gue_ports,omitempty"` // of UDP, opened for GUE
	Ports6  []int           `json:"gue6_ports,omitempty"`

	file  string
	notes *Notes // nil: the file alone
}

func (s *state) isEmpty() bool {
	return len(s.VIPs) == 0 && len(s.Before) == 0 && len(s.Devices) == 0 && len(s.Made) == 0 && len(s.Ports) == 0 && len(s.Ports6) == 0
}

// ports are those of UDP that lvx has opened for GUE over a family.
func (s *state) ports(family int) *[]int {
	if family == unix.AF_INET6 {
		return &s.Ports6
	}
	return &s.Ports
}

// emptyState is what is remembered on a host where nothing was changed.
func emptyState(file string) (*state, error) {
	boot, err := vip.BootID()
	return &state{Boot: boot, Before: map[string]string{}, Devices: map[string]bool{}, file: file}, err
}

// record is one VIP that is up.
type record struct {
	Addr      netip.Addr `json:"address"`
	Interface string     `json:"interface"` // the one that faces the segment; an IPv6 VIP may have none
	Before    bool       `json:"before"`    // it was on lo already
	Tunnel    Tunnel     `json:"tunnel,omitempty"`

	BeforeTunnel bool `json:"before_tunnel,omitempty"` // it was on the tunnel's device already
}

func (s *state) find(vip netip.Addr) int {
	return slices.IndexFunc(s.VIPs, func(r record) bool { return r.Addr == vip })
}

// note remembers a VIP with the interface that it faces, the tunnel that its
// packets come in, and where of lo and the tunnel's device it was before.
func (s *state) note(vip netip.Addr, o Options, places []found) (record, error) {
	v := record{Addr: vip}
	_, v.Before = on(places, lo)
	known := s.find(vip)
	if known >= 0 {
		v = s.VIPs[known]
	}
	if o.Tunnel != "" {
		if device := o.Tunnel.device(vip); v.Tunnel == "" || v.Tunnel.device(vip) != device {
			_, v.BeforeTunnel = on(places, device)
		}
		v.Tunnel = o.Tunnel
	}
	if o.Interface != "" {
		v.Interface = o.Interface
	}
	if v.Interface == "" && (vip.Is4() || v.Tunnel != "") {
		var err error
		if v.Interface, err = facing(vip); err != nil {
			return record{}, err
		}
	}
	if v.Interface != "" {
		if _, err := netlink.LinkByName(v.Interface); err != nil {
			return record{}, fmt.Errorf("interface %s: %w", v.Interface, err)
		}
	}
	if known < 0 {
		s.VIPs = append(s.VIPs, v)
	} else {
		s.VIPs[known] = v
	}
	return v, nil
}

// needs lists the settings that the VIPs need. Only IPv4 has the ARP problem: an
// address on lo is not answered for in neighbour discovery.
func (s *state) needs() []key {
	var needed []key
	for _, v := range s.VIPs {
		if !v.Addr.Is4() {
			continue
		}
		all := keys("all", lo, v.Interface)
		if v.Tunnel != "" {
			all = append(all, key{v.Tunnel.device(v.Addr), reversePath})
		}
		for _, k := range all {
			if !slices.Contains(needed, k) {
				needed = append(needed, k)
			}
		}
	}
	return needed
}

// sorted goes through the remembered settings, while they may be deleted.
func (s *state) sorted() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, name := range slices.Sorted(maps.Keys(s.Before)) {
			if !yield(name, s.Before[name]) {
				return
			}
		}
	}
}

// locked runs f with the state, while nobody else changes it.
func locked(o Options, f func(*state) ([]string, error)) ([]string, error) {
	if o.Notes != nil {
		return o.Notes.change(f)
	}
	file := o.file()
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	defer d.Close() // and with it the lock
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock of %s: %w", dir, err)
	}
	s, lost, err := load(file)
	if err != nil {
		return nil, err
	}
	report, err := f(s)
	if lost != nil {
		report = append([]string{fmt.Sprintf("what was there before is not known: %v", lost)}, report...)
	}
	return report, err
}

// load reads the state file. One that is missing or of an earlier boot is an
// empty state; so is one that cannot be understood, and lost says so.
func load(file string) (s *state, lost *jsonfile.BrokenError, err error) {
	empty, err := emptyState(file)
	if err != nil {
		return nil, nil, err
	}
	s = &state{file: file}
	switch err := jsonfile.Read(file, s); {
	case errors.Is(err, fs.ErrNotExist):
		return empty, nil, nil
	case errors.As(err, &lost):
		return empty, lost, nil
	case err != nil:
		return nil, nil, fmt.Errorf("state file: %w", err)
	}
	if s.Boot != empty.Boot {
		return empty, nil, nil
	}
	if s.Before == nil {
		s.Before = map[string]string{}
	}
	if s.Devices == nil {
		s.Devices = map[string]bool{}
	}
	return s, nil, nil
}

// save writes the state file, or removes it if there is nothing to remember.
// Everybody may read it: lvx real status needs no privileges.
func (s *state) save() error {
	if s.notes != nil {
		return s.notes.store(s)
	}
	var err error
	if s.isEmpty() {
		err = jsonfile.Remove(s.file)
	} else {
		err = jsonfile.Write(s.file, s, 0o644)
	}
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}
