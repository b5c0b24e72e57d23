package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// NoXDP returns why XDP cannot run with a configuration on a host.
func NoXDP(cfg *config.Config, h hostinfo.Host) error {
	if err := h.XDP(); err != nil {
		return err
	}
	for _, i := range h.Interfaces {
		if i.NoEthernet && i.Err == nil && slices.Contains(cfg.Interfaces, i.Name) {
			return fmt.Errorf("interface %s: %w", i.Name, loader.ErrNoEthernet)
		}
	}
	return nil
}

// foreignProgram finds an XDP program that is not lvx's on an interface that
// lvx is to attach to: the kernel takes one at a time.
func foreignProgram(cfg *config.Config) error {
	for _, name := range programDevices(cfg) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			continue
		}
		x := link.Attrs().Xdp
		if x == nil || !x.Attached || loader.IsPinned(cfg.PinDir, name) {
			continue
		}
		own, err := loader.FindUnpinned(cfg.PinDir, name)
		switch {
		case own != nil && (own.Holder == 0 || answers(cfg.Admin.Socket)):
			continue // a start goes on with it, or the lvx that runs puts its pins back
		case own != nil:
			return own
		case err != nil:
			return fmt.Errorf("interface %s: another XDP program is attached, id %d: %w", name, x.ProgId, err)
		}
		return fmt.Errorf("interface %s: another XDP program is attached, id %d, not pinned in pin_dir %s (see `bpftool net`; detach it with `ip link set dev %s xdp off`, unless it is an lvx's with another pin_dir)",
			name, x.ProgId, cfg.PinDir, name)
	}
	return nil
}

// tooLarge is why the services that XDP runs do not fit the packet path's tables.
func tooLarge(cfg *config.Config, h hostinfo.Host) error {
	if cfg.Backend == config.BackendIPVS || NoXDP(cfg, h) != nil {
		return nil
	}
	onIPVS := func(s lb.Service) bool {
		backend, _ := RunsOn(cfg, s, nil)
		return backend == "ipvs"
	}
	return xdp.Fits(lb.State{Services: slices.DeleteFunc(xdpServices(cfg), onIPVS)})
}

// noSocket is why the daemon cannot be asked anything.
func noSocket(cfg *config.Config) error {
	if cfg.Admin.Socket == "" {
		return nil
	}
	info, err := os.Lstat(cfg.Admin.Socket)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("admin socket %s: a file that is no socket is in the way", cfg.Admin.Socket)
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("admin socket: %w", err)
}

// passingTrouble is what a start would warn of at this moment. What a running
// lvx holds is no trouble.
func passingTrouble(cfg *config.Config) (all []string) {
	if err := unwritable(cfg.StateDir); err != nil {
		all = append(all, fmt.Sprintf("state_dir: %v: nothing survives a restart that an operator says (make it writable)", err))
	}
	for _, note := range notesOf(cfg) {
		if err := jsonfile.Check(note); err != nil {
			all = append(all, fmt.Sprintf("notes cannot be read, a start moves them aside: %v", err))
		}
	}
	all = append(all, lostPins(cfg)...)
	all = append(all, sessionTroubles(cfg)...)
	all = append(all, bfdTroubles(cfg)...)
	if cfg.Admin.Listen != "" && !answers(cfg.Admin.Socket) {
		l, err := net.Listen("tcp", cfg.Admin.Listen)
		if err != nil {
			return append(all, fmt.Sprintf("admin.listen: no metrics and no status page: %v (set another address, or stop who has it)", err))
		}
		_ = l.Close() // nobody connected
	}
	return all
}

// notesOf lists the files in which daemons remember things.
func notesOf(cfg *config.Config) (files []string) {
	for _, dir := range []string{cfg.StateDir, ledgerDir(cfg)} {
		found, _ := filepath.Glob(filepath.Join(dir, "*.json")) // an error is one of the pattern
		files = append(files, found...)
	}
	return files
}

// sessionTroubles is what keeps sessions with other directors and with routers
// from beginning.
func sessionTroubles(cfg *config.Config) (all []string) {
	say := func(what string, err error) {
		if err != nil && (!errors.Is(err, fs.ErrPermission) || os.Geteuid() == 0) {
			all = append(all, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if len(cfg.Sync.Peers) > 0 {
		_, err := connsync.ReadKeys(cfg.Sync.KeyFile)
		say("sync: connections are not shared", err)
		_, err = addressesOf(cfg.Sync.Interface)
		say("sync: connections are not shared", err)
	}
	if cfg.BGP.Engine == config.BGPByLVX {
		_, err := speakerConfig(cfg)
		say("bgp: no VIP is announced", err)
	}
	return all
}

// lostPins is what this binary could not take over of the maps that another
// one, running or not, has pinned.
func lostPins(cfg *config.Config) (all []string) {
	if cfg.Backend == config.BackendIPVS {
		return nil
	}
	s, err := loader.SurveyPins(loader.Options{PinDir: cfg.PinDir, Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, IPv6: servesIPv6(cfg), Room: roomFor(cfg)})
	if errors.Is(err, fs.ErrPermission) {
		return nil // not root: a start is not either
	}
	if err != nil {
		return []string{fmt.Sprintf("maps pinned in %s cannot be taken over: %v", cfg.PinDir, err)}
	}
	for _, lost := range s.Lost {
		all = append(all, fmt.Sprintf("map pinned in %s: a start of this binary loses what is in %s", cfg.PinDir, lost))
	}
	return all
}

// unwritable is why nothing can be stored in a directory, or in the nearest
// one above it that there is.
func unwritable(dir string) error {
	if dir == "" {
		return nil
	}
	for {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err == nil && !info.IsDir() {
			err = &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
		}
		if err == nil {
			if e := unix.Access(dir, unix.W_OK); e != nil {
				err = &fs.PathError{Op: "write to", Path: dir, Err: e}
			}
		}
		return err
	}
}

// answers reports whether a daemon answers on a socket.
func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
