package vip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/internal/jsonfile"
)

// Place is an address on an interface.
type Place struct {
	Interface string     `json:"interface"`
	Address   netip.Addr `json:"address"`
}

// String writes "172.25.0.100 on eth0".
func (p Place) String() string { return p.Address.String() + " on " + p.Interface }

func (p Place) compare(q Place) int {
	return cmp.Or(strings.Compare(p.Interface, q.Interface), p.Address.Compare(q.Address))
}

// Holder keeps a set of VIPs on their interfaces, as hosts of their own (/32
// or /128). What was on an interface before is left there.
//
// Which addresses are its own is written to a file before they are put on, so
// that a daemon that was killed still knows it when it starts again. The file
// counts for one boot: addresses do not survive the machine's restart, and
// one that is there afterwards is somebody else's. (The kernel could keep that
// note itself, but the label of an address is IPv4's alone and as short as an
// interface name, and its protocol does not say which lvx of two it is.)
//
// One goroutine at a time may use it, beside Run.
type Holder struct {
	boot  string
	ours  []Place // sorted
	found []Place // those that were the Holder's when it began
	notes *jsonfile.Keeper
}

// notes are what the file holds.
type notes struct {
	Boot string  `json:"boot"`
	VIPs []Place `json:"vips"`
}

// noteWait is how long an address waits for the note about it to reach the
// disk. A disk that takes longer costs nothing but that: killed before the
// note is there, a successor takes the address for somebody else's.
const noteWait = 100 * time.Millisecond

// noteReadTime is how long a start waits for the notes of an earlier one.
const noteReadTime = time.Second

// NewHolder makes a Holder that has its notes in a file. Notes that cannot be
// read are no reason not to hold VIPs: report hears of them, and of a disk
// that does not take new ones (nil: it does again).
func NewHolder(file string, report func(error)) *Holder {
	h := &Holder{notes: jsonfile.NewKeeper(file, 0o600, report)}
	var bootErr error
	if h.boot, bootErr = BootID(); bootErr != nil {
		report(bootErr)
	}
	read, err := jsonfile.Within(noteReadTime, func() (n notes, err error) {
		err = jsonfile.Read(file, &n)
		return n, err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		report(fmt.Errorf("notes about VIPs: %w; VIPs that an earlier lvx put on an interface stay there", err))
	case read.Boot == h.boot:
		h.ours = sorted(read.VIPs)
		h.found = h.ours
	}
	return h
}

// Run writes the notes until ctx ends.
func (h *Holder) Run(ctx context.Context) error { return h.notes.Run(ctx, time.Second) }

// Missing lists those of the wanted addresses that their interface does not
// have. One without an interface is missing.
func Missing(want []Place) []Place {
	var missing []Place
	for iface, places := range byInterface(want) {
		there, err := addresses(iface)
		for _, p := range places {
			if err != nil || !there[p.Address] {
				missing = append(missing, p)
			}
		}
	}
	return missing
}

// Result is what [Holder.Hold] came to.
type Result struct {
	Held []Place // what the host has now of what was wanted
	Put  []Place // what it lacked before
}

// Hold makes the host have exactly these addresses of its own. It is
// idempotent and repairs what somebody else removed. An error names what is
// not held; the result counts all the same.
func (h *Holder) Hold(want []Place) (Result, error) {
	var r Result
	var errs []error
	var own, missing []Place
	for iface, places := range byInterface(want) {
		there, err := addresses(iface)
		if err != nil {
			errs = append(errs, err)
			if !errors.As(err, new(netlink.LinkNotFoundError)) { // it may have them still
				own = append(own, slices.DeleteFunc(places, func(p Place) bool { return !h.has(p) })...)
			}
			continue
		}
		for _, p := range places {
			switch {
			case !there[p.Address]:
				missing = append(missing, p)
			default:
				r.Held = append(r.Held, p)
				if h.has(p) || h.hasRenamed(p) {
					own = append(own, p)
				}
			}
		}
	}
	wanted := make(map[Place]bool, len(want))
	for _, p := range want {
		wanted[p] = true
	}
	drop := slices.DeleteFunc(slices.Clone(h.ours), func(p Place) bool { return wanted[p] })
	h.note(slices.Concat(own, missing, drop)) // before the deed
	// The new place first: an address that moves to another interface is
	// never without one.
	var err error
	r.Put, err = change(missing, Add)
	r.Held = sorted(append(r.Held, r.Put...))
	return r, errors.Join(append(errs, err, h.remove(drop))...)
}

// Keep takes off every address of its own that is not to be kept.
func (h *Holder) Keep(isKept func(Place) bool) error {
	return h.remove(slices.DeleteFunc(slices.Clone(h.ours), isKept))
}

// Release takes every address of its own off.
func (h *Holder) Release() error { return h.remove(slices.Clone(h.ours)) }

// Undo takes off what was put on since the Holder was made: what an earlier run
// left stays, with the notes about it.
func (h *Holder) Undo() error {
	return h.remove(slices.DeleteFunc(slices.Clone(h.ours), func(p Place) bool { return slices.Contains(h.found, p) }))
}

// Ours lists the addresses that are on interfaces because of the Holder.
func (h *Holder) Ours() []Place { return slices.Clone(h.ours) }

func (h *Holder) has(p Place) bool {
	_, found := slices.BinarySearchFunc(h.ours, p, Place.compare)
	return found
}

// hasRenamed reports whether a VIP of the Holder's has come to a place by the rename of
// its interface, which is not there any more by its former name.
func (h *Holder) hasRenamed(p Place) bool {
	return slices.ContainsFunc(h.ours, func(o Place) bool {
		if o.Address != p.Address || o.Interface == p.Interface {
			return false
		}
		_, err := netlink.LinkByName(o.Interface)
		return errors.As(err, new(netlink.LinkNotFoundError))
	})
}

// remove takes addresses off. One that is not there is no error.
func (h *Holder) remove(drop []Place) error {
	if len(drop) == 0 {
		return nil
	}
	removed, err := change(drop, func(index int, ps []netip.Prefix) (int, error) { return len(ps), removeExactly(index, ps) })
	h.note(slices.DeleteFunc(slices.Clone(h.ours), func(p Place) bool { return slices.Contains(removed, p) }))
	return err
}

// note writes down which addresses are the Holder's.
func (h *Holder) note(ours []Place) {
	ours = sorted(ours)
	if slices.Equal(ours, h.ours) {
		return
	}
	h.ours = ours
	if len(ours) == 0 {
		h.notes.Clear()
	} else if err := h.notes.Put(notes{Boot: h.boot, VIPs: ours}); err != nil {
		return // a value of plain types: cannot be
	}
	ctx, cancel := context.WithTimeout(context.Background(), noteWait)
	defer cancel()
	_ = h.notes.Wait(ctx) // a disk that is slow is reported by the keeper
}

func sorted(ps []Place) []Place {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, Place.compare)
	return slices.Compact(ps)
}

func byInterface(ps []Place) map[string][]Place {
	m := map[string][]Place{}
	for _, p := range ps {
		m[p.Interface] = append(m[p.Interface], p)
	}
	return m
}

// change does one thing to addresses, all of an interface in one message, and
// returns those of interfaces where it could be done.
func change(ps []Place, do func(index int, ps []netip.Prefix) (int, error)) (done []Place, err error) {
	var errs []error
	for iface, places := range byInterface(ps) {
		link, err := netlink.LinkByName(iface)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			done = append(done, places...) // and with it its addresses
			continue
		}
		var hosts []netip.Prefix
		for _, p := range places {
			hosts = append(hosts, netip.PrefixFrom(p.Address, p.Address.BitLen()))
		}
		if err == nil {
			_, err = do(link.Attrs().Index, hosts)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("VIPs of %s: %w", iface, err))
			continue
		}
		done = append(done, places...)
	}
	slices.SortFunc(done, Place.compare)
	return done, errors.Join(errs...)
}

// addresses is the set of what an interface has.
func addresses(iface string) (map[netip.Addr]bool, error) {
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("VIPs on %s: %w", iface, err)
	}
	list, _, err := List(link.Attrs().Index)
	if err != nil {
		return nil, err
	}
	there := make(map[netip.Addr]bool, len(list))
	for _, p := range list {
		there[p.Addr()] = true
	}
	return there, nil
}
