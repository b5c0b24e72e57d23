package daemon

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Level says what a [Finding] means for a start.
type Level int

// The levels.
const (
	Refused Level = iota // the daemon does not start
	Warning              // it serves, and says so
)

// Finding is something about a configuration on this host that a user should
// know before it runs.
type Finding struct {
	Level   Level
	Text    string // one line
	Passing bool   // of this moment: a daemon that runs says itself how long it lasts
}

// Preflight finds out what a start with a configuration would meet on a host.
// The daemon itself asks it before it begins: what is [Refused] here is refused
// there, and nothing else that could be known.
func Preflight(cfg *config.Config, h hostinfo.Host) []Finding {
	var found []Finding
	add := func(l Level, texts ...string) {
		for _, text := range texts {
			found = append(found, Finding{Level: l, Text: text})
		}
	}
	for _, refusal := range []error{missingInterface(h), noDataPath(cfg, h), noSync(cfg, h), tooLarge(cfg, h), noSocket(cfg)} {
		if refusal != nil {
			add(Refused, refusal.Error())
			break // the others may follow from it
		}
	}
	add(Warning, cfg.Warnings...)
	add(Warning, unlikelyDrivers(cfg, h)...)
	add(Warning, untrustedPrograms(cfg)...)
	for _, text := range append(passingTrouble(cfg), unservedReplies(cfg, h)...) {
		found = append(found, Finding{Warning, text, true})
	}
	return found
}

// Refusal is the error that a start ends with, nil if nothing is refused.
func Refusal(found []Finding) error {
	for _, f := range found {
		if f.Level == Refused {
			return errors.New(f.Text)
		}
	}
	return nil
}

// Interfaces are all that a configuration names, each once.
func Interfaces(cfg *config.Config) []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, name := range cfg.Interfaces {
		add(name)
	}
	for _, inst := range cfg.VRRP {
		add(inst.Interface)
		for _, p := range inst.Places() {
			add(p.Interface)
		}
	}
	return names
}

// missingInterface finds a misspelt interface before anything is attached.
func missingInterface(h hostinfo.Host) error {
	for _, i := range h.Interfaces {
		if i.Err != nil {
			return fmt.Errorf("interface %s: no such interface (there are %s)", i.Name, interfaceNames())
		}
	}
	return nil
}

func interfaceNames() string {
	list, err := net.Interfaces()
	if err != nil {
		return "none to be seen"
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return strings.Join(names, ", ")
}

// noDataPath is why nothing on this host can run the services.
func noDataPath(cfg *config.Config, h hostinfo.Host) error {
	x := NoXDP(cfg, h)
	if x == nil && cfg.Backend != config.BackendIPVS {
		x = foreignProgram(cfg)
	}
	switch {
	case cfg.Backend == config.BackendIPVS:
		return h.IPVS
	case cfg.Backend == config.BackendXDP && x != nil:
		return x
	case cfg.Backend == config.BackendXDP:
		return needsOther(cfg)
	case h.IPVS == nil:
		return nil
	case x != nil:
		return fmt.Errorf("no data path: XDP: %w; IPVS: %w", x, h.IPVS)
	}
	return needsIPVS(cfg, h)
}

// errSyncNeedsXDP is why connections cannot be shared on a host without XDP.
var errSyncNeedsXDP = errors.New("sync: shares connections that XDP forwards, and XDP does not run here (backend: auto or xdp, on a host that has it)")

// noSync is why this host can share no connections.
func noSync(cfg *config.Config, h hostinfo.Host) error {
	if cfg.Sync.IsEnabled() && (cfg.Backend == config.BackendIPVS || NoXDP(cfg, h) != nil) {
		return errSyncNeedsXDP
	}
	return nil
}

// needsOther is why XDP cannot run one of the services.
func needsOther(cfg *config.Config) error {
	var all []error
	for _, svc := range cfg.Services {
		all = append(all, xdp.Supports(svc.Service))
	}
	return errors.Join(all...)
}

// needsIPVS names the services that XDP cannot run, on a host without IPVS.
func needsIPVS(cfg *config.Config, h hostinfo.Host) error {
	var names []string
	for _, svc := range cfg.Services {
		if backend, why := RunsOn(cfg, svc.Service, nil); backend == "ipvs" {
			names = append(names, fmt.Sprintf("%s (%s)", svc.Name, why))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel's IPVS is needed for %s: %w", strings.Join(names, ", "), h.IPVS)
}

// RunsOn returns the data path that the daemon would give a service, and why;
// refused is why XDP cannot run on this host at all.
func RunsOn(cfg *config.Config, svc lb.Service, refused error) (backend, why string) {
	switch {
	case cfg.Backend == config.BackendIPVS:
		return "ipvs", ""
	case cfg.Backend == config.BackendXDP:
		return "xdp", ""
	case refused != nil:
		return "ipvs", refused.Error()
	}
	if why := xdp.Cannot(svc); why != "" {
		return "ipvs", why
	}
	if why := xdp.LackOf(svc, cfg.Interfaces, hostinfo.WayTo); why != "" && ipvs.Available() == nil {
		return "ipvs", why
	}
	return "xdp", ""
}

// unservedReplies names the services by NAT of which XDP keeps real servers out.
func unservedReplies(cfg *config.Config, h hostinfo.Host) (all []string) {
	for _, svc := range cfg.Services {
		if backend, _ := RunsOn(cfg, svc.Service, NoXDP(cfg, h)); backend != "xdp" {
			continue
		}
		if why := xdp.LackOf(svc.Service, cfg.Interfaces, hostinfo.WayTo); why != "" {
			all = append(all, fmt.Sprintf("service %s: %s", svc.Name, why))
		}
	}
	return all
}

// XDPMode returns how the daemon would attach to an interface, and why not
// natively. What only a frame can prove it does not know.
func XDPMode(cfg *config.Config, i hostinfo.Interface) (mode, why string) {
	device, notBelow := programDevice(cfg, i.Name)
	switch {
	case cfg.XDPMode == config.XDPGeneric:
		return "generic", ""
	case device != i.Name:
		mode, why = XDPMode(cfg, hostinfo.Examine([]string{device}).Interfaces[0])
		return mode, strings.TrimSuffix("its frames are served on "+device+", "+why, ", ")
	case cfg.XDPMode == config.XDPAuto && notBelow != nil:
		return "generic", notBelow.Error()
	case cfg.XDPMode == config.XDPAuto && !i.Native:
		return "generic", "driver " + i.Driver + " is not known to do XDP"
	case cfg.XDPMode != config.XDPAuto:
		return "native", ""
	}
	err := hostinfo.CannotSend(i.Name)
	if loader.IsPinned(cfg.PinDir, i.Name) { // it stays as it is
		switch l, unknown := hostinfo.ExamineLink(i.Name); {
		case unknown != nil || l.IsNative:
			return "native", ""
		case err == nil:
			return "generic", loader.FirstGeneric
		}
	}
	if err != nil {
		return "generic", err.Error()
	}
	return "native", ""
}

func unlikelyDrivers(cfg *config.Config, h hostinfo.Host) []string {
	var all []string
	for _, i := range h.Interfaces {
		if cfg.XDPMode == config.XDPNative && !i.Native && i.Err == nil && slices.Contains(cfg.Interfaces, i.Name) {
			all = append(all, fmt.Sprintf("xdp_mode native, but driver %s of %s is not known to do XDP (xdp_mode: auto falls back)", i.Driver, i.Name))
		}
	}
	return all
}

// untrustedPrograms names the programs of the file that will not be run here.
func untrustedPrograms(cfg *config.Config) []string {
	var all []string
	add := func(what, program string) {
		if _, err := guard.Trusted(program); err != nil {
			all = append(all, fmt.Sprintf("%s will not be run: %v", what, err))
		}
	}
	for _, command := range cfg.Notify.Exec {
		if argv := strings.Fields(command); len(argv) > 0 {
			add("notify program", argv[0])
		}
	}
	for _, program := range cfg.Programs() {
		add("hook", program)
	}
	checked := map[string]bool{}
	for _, svc := range cfg.Services {
		for _, spec := range slices.Concat(svc.Checks...) {
			program, _, _ := strings.Cut(spec.Argv, "\n")
			if spec.Type == health.Exec && !checked[program] {
				checked[program] = true
				add("check of "+svc.Name, program)
			}
		}
	}
	return all
}
