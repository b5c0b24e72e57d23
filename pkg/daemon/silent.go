package daemon

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/realserver"
)

// silentVIPs makes the director a real server of VIPs, as lvx real up makes
// any other host one: the VIP on lo, ARP suppressed. It stays so while the
// director is master: with the VIP on its interface as well it answers ARP,
// and without it no longer, and its own connections do not notice.
//
// The notes about what was there before are in a file, too, so that a daemon
// that was killed is followed by one that undoes it all.
type silentVIPs struct {
	notes *realserver.Notes
	log   *slog.Logger
}

func newSilentVIPs(file string, report func(error), log *slog.Logger) *silentVIPs {
	return &silentVIPs{realserver.NewNotes(file, report), log}
}

// Serve implements [director.Silent].
func (s *silentVIPs) Serve(vips []director.SilentVIP) error {
	st, err := realserver.Inspect(realserver.Options{Notes: s.notes})
	if err != nil {
		return err
	}
	var drop []netip.Addr
	for _, v := range st.VIPs {
		if !slices.ContainsFunc(vips, func(w director.SilentVIP) bool { return w.Addr == v.Addr }) {
			drop = append(drop, v.Addr)
		}
	}
	if len(drop) > 0 {
		if err := s.change(realserver.Down, drop, ""); err != nil {
			return err
		}
	}
	facing := map[string][]netip.Addr{}
	for _, v := range vips {
		facing[v.Interface] = append(facing[v.Interface], v.Addr)
	}
	for iface, addrs := range facing {
		if err := s.change(realserver.Up, addrs, iface); err != nil {
			return err
		}
	}
	return nil
}

func (s *silentVIPs) change(do func(realserver.Options) ([]string, error), vips []netip.Addr, iface string) error {
	report, err := do(realserver.Options{VIPs: vips, Interface: iface, Notes: s.notes})
	for _, line := range report {
		s.log.Debug("real server of this director's own VIPs", "component", "silent", "did", line)
	}
	return err
}

// release undoes everything.
func (s *silentVIPs) release() error {
	st, err := realserver.Inspect(realserver.Options{Notes: s.notes})
	if err != nil || len(st.VIPs) == 0 {
		return err
	}
	return s.change(realserver.Down, nil, "")
}
