package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// configFlag adds --config to a verb that reads the pinned maps when no daemon
// answers: the file says where they are.
func configFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("config", defaultConfig, "configuration `file`: where to look when no daemon answers")
}

// lookWithoutDaemon reads what the pinned packet path holds, if err says that
// no daemon runs; else it returns err. A file that is missing or broken leads
// to the places that lvx has without one.
func lookWithoutDaemon(err error, path string, connections bool, limit int) (xdp.Held, error) {
	if !errors.Is(err, admin.ErrNoDaemon) {
		return xdp.Held{}, err
	}
	pinDir, configured := config.DefaultPinDir, lb.State{}
	if cfg, broken := newReader().Load(path); broken == nil {
		pinDir, configured = cfg.PinDir, director.Plan(director.Input{Config: cfg}).State
	}
	if pid := admin.LockHolder(admin.DefaultLockDir, pinDir); pid != "" {
		return xdp.Held{}, fmt.Errorf("%w; but process %s runs with pin_dir %s: name its socket", err, pid, pinDir)
	}
	h, failed := xdp.Look(pinDir, configured, connections, limit)
	switch {
	case errors.Is(failed, loader.ErrNothingPinned):
		return h, fmt.Errorf("%w; and nothing is pinned in %s (--config names the file, if that is not %s)", err, pinDir, path)
	case failed != nil:
		return h, fmt.Errorf("%w; and what it left cannot be read: %w", err, failed)
	}
	return h, nil
}

// orphanWords says in lines what a packet path does that no daemon looks
// after.
func orphanWords(h xdp.Held) []string {
	if len(h.Interfaces) == 0 {
		return []string{"no lvx runs here; its maps are pinned, but no interface has its program: nothing is forwarded (start lvx)"}
	}
	lines := []string{"no lvx runs here; its packet path is still attached to " + strings.Join(h.Interfaces, ", ") + " (start lvx: nothing is lost)"}
	for _, vip := range vipsOf(h) {
		state := "served, for ever: nobody checks the real servers"
		if why, is := h.Silent[vip]; is {
			state = "not served: " + why
		} else if left, is := h.Left[vip]; is {
			state = fmt.Sprintf("served for another %s", left.Round(time.Second))
		}
		lines = append(lines, fmt.Sprintf("VIP %s: %s", vip, state))
	}
	return lines
}

// vipsOf lists the VIPs, in order.
func vipsOf(h xdp.Held) []netip.Addr {
	var vips []netip.Addr
	for _, s := range h.State.Services {
		for _, l := range s.Listeners {
			vips = append(vips, l.Addr)
		}
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	return slices.Compact(vips)
}

// printOrphan is the status of a packet path that no daemon looks after.
func printOrphan(cmd *cobra.Command, h xdp.Held) error {
	out := cmd.OutOrStdout()
	for _, line := range append(orphanWords(h), h.Observed.Detail) {
		fmt.Fprintln(out, guard.Text(line))
	}
	l := ipvsadm.NewListing(h.State, h.Observed, h.Stats, nil, nil)
	return ipvsadm.Print(out, l, ipvsadm.View{Numeric: true})
}
