// Package realserver prepares a real server for direct routing: the VIP on
// lo, so that the kernel takes packets for it, and ARP settings that keep the
// host from answering for it on the segment, where it belongs to the
// director. For a director that sends through a tunnel it opens the kernel's
// device as well, for GUE its UDP port, and lowers the MSS by what the tunnel adds.
//
// It changes nothing else, and it remembers what it changed, so that it can
// be undone exactly. It does not know what the real serves.
package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// DefaultStateFile is where what was there before is remembered.
const DefaultStateFile = "/var/lib/lvx/real.json"

// Options say what to prepare.
type Options struct {
	VIPs      []netip.Addr
	Interface string // the one that faces the segment; "" = that of the route to each VIP
	Tunnel    Tunnel // what packets come in; "" = as remembered, and at first none
	StateFile string // "" = [DefaultStateFile]
	Notes     *Notes // of a daemon, instead of StateFile; nil = StateFile
}

func (o Options) file() string {
	if o.StateFile == "" {
		return DefaultStateFile
	}
	return o.StateFile
}

// Up makes this host a real server of the VIPs: arp_ignore=1 and
// arp_announce=2 on all, lo and the interface, and then the VIPs on lo, so
// that there is no moment in which the host answers for them. It is
// idempotent. It returns one line for people about everything it changed or
// found remarkable, also together with an error.
func Up(o Options) (report []string, err error) {
	if len(o.VIPs) == 0 {
		return nil, errors.New("VIPs: none given")
	}
	for _, vip := range o.VIPs {
		if !vip.IsValid() || vip.IsUnspecified() || vip.IsLoopback() || vip.IsMulticast() || vip.Is4In6() || vip.Zone() != "" {
			return nil, fmt.Errorf("VIP %s: not an address that a segment's hosts can share", vip)
		}
	}
	if o.Tunnel != "" && !o.Tunnel.IsTunnel() {
		return nil, fmt.Errorf("tunnel %q: not one that lvx sets up (want ipip, gre, gue or gue:PORT; with ipip6, gre6, gue6 or gue6:PORT the outer header is one of IPv6)", o.Tunnel)
	}
	return locked(o, func(s *state) ([]string, error) {
		var r reporter
		for _, vip := range o.VIPs {
			if err := r.up(s, vip, o); err != nil {
				return r.lines, fmt.Errorf("VIP %s: %w", vip, err)
			}
		}
		// A VIP that faces another interface now leaves settings unused, one of
		// another tunnel its device.
		if err := r.closeTunnels(s); err != nil {
			return r.lines, err
		}
		err := r.restore(s)
		return r.lines, err
	})
}

// Down undoes [Up] for the given VIPs, or for all of them if none is given:
// a VIP that was on lo or on the tunnel's device before Up stays there, the settings get back their
// former values when the last VIP goes. Where the former values are not known
// (the state file was lost, or is of an earlier boot) the VIP goes, the
// settings stay, and the report says so.
func Down(o Options) (report []string, err error) {
	return locked(o, func(s *state) ([]string, error) {
		vips := o.VIPs
		if len(vips) == 0 {
			for _, v := range s.VIPs {
				vips = append(vips, v.Addr)
			}
		}
		var r reporter
		unknown := false
		for _, vip := range vips {
			known, err := r.down(s, vip)
			if err != nil {
				return r.lines, fmt.Errorf("VIP %s: %w", vip, err)
			}
			unknown = unknown || !known
		}
		if err := r.closeTunnels(s); err != nil {
			return r.lines, err
		}
		if err := r.restore(s); err != nil {
			return r.lines, err
		}
		if unknown {
			r.leftAlone(s)
		}
		return r.lines, nil
	})
}

// reporter does the steps and keeps an account of them.
type reporter struct{ lines []string }

func (r *reporter) say(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *reporter) up(s *state, vip netip.Addr, o Options) error {
	places, err := find(vip)
	if err != nil {
		return err
	}
	place, onLo := on(places, lo)
	var before record
	if i := s.find(vip); i >= 0 {
		before = s.VIPs[i]
	}
	v, err := s.note(vip, o, places)
	if err != nil {
		return err
	}
	for _, p := range places {
		if p.name != lo && !p.noARP {
			r.say("%s is also on %s: this host may answer ARP for it there (remove it, unless this is a director)", vip, p.name)
		}
	}
	if v.Tunnel != "" {
		if err := r.addDevice(s, v.Tunnel.device(vip)); err != nil { // its settings are there once it is
			return err
		}
		if before.Tunnel != "" && before.Tunnel.device(vip) != v.Tunnel.device(vip) {
			if err := r.leaveTunnel(before); err != nil {
				return err
			}
		}
	}
	if err := r.set(s); err != nil {
		return err
	}
	if err := r.putOnLo(vip, place, onLo); err != nil || v.Tunnel == "" {
		return err
	}
	if err := r.openTunnel(s, v); err != nil {
		return err
	}
	return r.lowerSegments(s)
}

// putOnLo puts the VIP on lo, unless it is there at a place.
func (r *reporter) putOnLo(vip netip.Addr, place found, onLo bool) error {
	if onLo {
		r.say("%s: was on lo already", vip)
		if !place.prefix.IsSingleIP() {
			r.say("%s on lo makes all of %s this host itself (ip address del %s dev lo, then lvx real up again)", place.prefix, place.prefix.Masked(), place.prefix)
		}
		return nil
	}
	if err := addToLo(vip); err != nil {
		return err
	}
	r.say("%s: put on lo", vip)
	return nil
}

// set makes the settings that the recorded VIPs need. What was there before
// is written down first, and only once.
func (r *reporter) set(s *state) error {
	for _, k := range s.needs() {
		now, err := k.read()
		if errors.Is(err, errNoInterface) {
			continue // another VIP faced it before it went
		}
		if err != nil {
			return err
		}
		if _, known := s.Before[k.String()]; !known {
			s.Before[k.String()] = now
		}
		if now == k.want() {
			continue
		}
		if err := s.save(); err != nil {
			return err
		}
		if err := k.write(k.want()); err != nil {
			return err
		}
		r.say("%s: %s, was %s", k, k.want(), now)
	}
	return s.save()
}

// down takes one VIP off; known is false if nothing is remembered of it.
func (r *reporter) down(s *state, vip netip.Addr) (known bool, err error) {
	i := s.find(vip)
	if i >= 0 && s.VIPs[i].Before {
		r.say("%s: stays on lo, where it was before", vip)
		if err := r.leaveTunnel(s.VIPs[i]); err != nil {
			return true, err
		}
		s.VIPs = slices.Delete(s.VIPs, i, i+1)
		return true, s.save()
	}
	was, err := removeFromLo(vip)
	if err != nil {
		return true, err
	}
	if was {
		r.say("%s: taken off lo", vip)
	} else {
		r.say("%s: was not on lo", vip)
	}
	if i < 0 {
		return !was, nil
	}
	if err := r.leaveTunnel(s.VIPs[i]); err != nil {
		return true, err
	}
	s.VIPs = slices.Delete(s.VIPs, i, i+1)
	return true, s.save()
}

// restore gives back the former values of the settings that no VIP needs any
// more. A setting that somebody changed in the meantime is theirs.
func (r *reporter) restore(s *state) error {
	needed := s.needs()
	for name, before := range s.sorted() {
		k, err := parseKey(name)
		if err != nil {
			return err
		}
		if slices.Contains(needed, k) {
			continue
		}
		now, err := k.read()
		switch {
		case errors.Is(err, errNoInterface):
			r.say("%s: its interface is not there any more", k)
		case err != nil:
			return err
		case now != k.want():
			r.say("%s: is %s, not the %s that lvx had set; left alone", k, now, k.want())
		case now != before:
			if err := k.write(before); err != nil {
				return err
			}
			r.say("%s: %s again", k, before)
		}
		delete(s.Before, name)
		if err := s.save(); err != nil {
			return err
		}
	}
	return nil
}

// leftAlone says what is not known.
func (r *reporter) leftAlone(s *state) {
	if len(s.VIPs) > 0 {
		return // they need the settings
	}
	r.say("the ARP settings before `lvx real up` are not known (%s was lost, or is of an earlier boot); left as they are:", s.file)
	for _, k := range keys("all", lo) {
		if v, err := k.read(); err == nil {
			r.say("  %s = %s", k, v)
		}
	}
	r.say("  and those of the interface that faces the segment (the kernel's default is 0)")
}
