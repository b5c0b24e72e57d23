package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/auto"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// datapath is the data path of a director.
type datapath struct {
	lb.Backend
	canLease bool         // it can fall silent by itself
	xdp      *xdp.Backend // nil: XDP does not run

	// retire removes what an earlier daemon has served by, where that is
	// another data path, once this one serves. It may be nil.
	retire func(context.Context) error
}

var _ auto.Owner = (*ipvs.Backend)(nil) // asked for by type assertion, which fails silently

// openBackend opens the data path that the configuration asks for. With auto
// every service gets the one that can run it. XDP is attached in mode.
func openBackend(ctx context.Context, cfg *config.Config, mode loader.Mode, n *neighbors, w *warnings.Registry, log *slog.Logger) (datapath, error) {
	openXDP := func() (*xdp.Backend, error) {
		if err := hostinfo.WeakOrder(); err != nil {
			return nil, err
		}
		b, err := xdp.Open(ctx, xdp.Options{
			Log: log, Interfaces: cfg.Interfaces, Mode: mode, CannotSend: hostinfo.CannotSend, PinDir: cfg.PinDir,
			Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, Neighbors: n,
			IPv6: servesIPv6(cfg), Echoes: echoTargets(cfg), Room: roomFor(cfg),
			VLANs: listVLANs, CannotServe: cannotServe,
		})
		if err == nil {
			noteProofs(b.Datapath().Attachments, w)
		}
		return b, err
	}
	ledger := ledgerDir(cfg)
	openIPVS := func(ctx context.Context) (lb.Backend, error) {
		return ipvs.Open(ctx, ipvs.Options{
			Log: log, StateDir: ledger, Boot: bootOrUnknown(), Report: reportStorage(w, filepath.Join(ledger, "ipvs.json"), "after a crash, what lvx has in kernel IPVS is not known"),
		})
	}
	retireXDP := func(context.Context) error { return loader.Purge(cfg.PinDir) } // it is in front of IPVS
	switch cfg.Backend {
	case config.BackendIPVS:
		if err := loader.CheckUnused(cfg.PinDir); err != nil {
			return datapath{}, err
		}
		b, err := openIPVS(ctx)
		return datapath{Backend: b, retire: retireXDP}, err
	case config.BackendXDP:
		b, err := openXDP()
		retire := func(ctx context.Context) error { return purgeIPVS(ctx, cfg) }
		return datapath{Backend: b, canLease: true, xdp: b, retire: retire}, err
	}
	o := auto.Options{Log: log, Cannot: xdp.Cannot, OpenIPVS: openIPVS, Leftover: ipvs.Leftover(ledger)}
	b, err := openXDP()
	if err == nil {
		o.XDP, o.Cannot, o.Lacks = b, b.Cannot, func(s lb.Service) string { return xdp.LackOf(s, cfg.Interfaces, n.wayTo) }
		return datapath{Backend: auto.New(o), canLease: true, xdp: b}, nil
	}
	if other := ipvs.Available(); other != nil {
		return datapath{}, fmt.Errorf("no data path: XDP: %w; IPVS: %w", err, other)
	}
	log.Warn("XDP cannot run here, the kernel's IPVS serves", "err", err)
	o.Refused = err
	return datapath{Backend: auto.New(o), retire: retireXDP}, nil
}

// notProven is the kind of a note that nobody has answered for native mode.
const notProven = "not-proven"

// noteProofs says of which interfaces it is not known whether frames leave them.
func noteProofs(all []loader.Attachment, w *warnings.Registry) {
	for _, a := range all {
		note := warnings.Warning{Kind: notProven, Subject: "interface " + a.Name, Cure: "xdp_mode: generic, if frames are lost (lost in lvx status)"}
		switch a.Proof {
		case loader.NotProven:
			note.Text, note.Note = "that frames leave in native mode is not proven: neither a real nor the gateway has answered an echo", true
		case loader.Disproven: // `xdp_mode: native` asks for it all the same
			note.Text = loader.ErrLost.Error()
			note.Cure = "xdp_mode: auto or generic"
		default:
			continue
		}
		w.Put(note)
	}
}

// echoTargetsMost is how many hosts are asked for a proof of native mode.
const echoTargetsMost = 8

// echoTargets are the hosts that are asked: reals, and the gateway.
func echoTargets(cfg *config.Config) (targets []netip.Addr) {
	add := func(a netip.Addr) {
		if a.Is4() && len(targets) < echoTargetsMost && !slices.Contains(targets, a) {
			targets = append(targets, a)
		}
	}
	if gateway, ok := hostinfo.Gateway(); ok {
		add(gateway)
	}
	for _, svc := range cfg.Services {
		for _, r := range svc.Reals {
			add(r.Addr)
		}
	}
	return targets
}

// servesIPv6 reports whether XDP is to run a service of IPv6, or to be silent
// about an IPv6 VIP that is another director's: where it is not, IPv6 costs no
// memory.
func servesIPv6(cfg *config.Config) bool {
	return cfg.SharesIPv6() || slices.ContainsFunc(cfg.Services, func(s config.Service) bool {
		return s.IsIPv6() && xdp.Cannot(s.Service) == ""
	})
}

// xdpServices are the services that XDP is to run.
func xdpServices(cfg *config.Config) (all []lb.Service) {
	for i := range cfg.Services {
		if xdp.Cannot(cfg.Services[i].Service) == "" {
			all = append(all, cfg.Services[i].Service)
		}
	}
	return all
}

// roomFor is the room that the packet path begins with. Edits make it more.
func roomFor(cfg *config.Config) loader.Room { return xdp.RoomFor(xdpServices(cfg)) }

// KernelMemory is what the maps of XDP take of the kernel's memory at a fresh
// start. Edits beyond the room that they have then take more.
func KernelMemory(cfg *config.Config) (loader.Memory, error) {
	return loader.MemoryOf(loader.Options{Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, IPv6: servesIPv6(cfg), Room: roomFor(cfg)})
}

// bootOrUnknown is the kernel's boot_id, "" if it cannot be read.
func bootOrUnknown() string {
	boot, err := vip.BootID()
	if err != nil {
		return ""
	}
	return boot
}

// ledgerDir is where the kernel's IPVS is remembered.
func ledgerDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "ipvs") }
