// Package config reads lvx.yaml: strictly, with errors that name file, line,
// key, what was found and what is expected.
//
// It validates and fills defaults; it does not look at the host. Whether an
// interface exists or a kernel can do XDP is for `lvx check` and the daemon.
package config

import (
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// Config is a validated configuration with every default filled in.
type Config struct {
	Interfaces []string // at least one; a VIP without VRRP is put on the one whose network holds it, else on the first
	Backend    Backend
	XDPMode    XDPMode

	Services  []Service
	VRRP      []vrrp.Instance
	RoleHooks map[string]RoleHooks // by the name of the VRRP instance
	Notify    Notify
	Admin     Admin
	Tables    Tables
	Sync      Sync
	BGP       BGP
	BFD       []bfd.Session

	Timeouts             lb.Timeouts
	SloppyTCP            bool
	ExpireNodestConn     bool // default true: see docs/semantics.md
	ExpireQuiescentTempl bool
	Deny, Allow          []netip.Prefix
	OuterSources         []netip.Prefix // of tunnels, one of each family at most
	Peers                []netip.Addr
	MACs                 map[netip.Addr][6]byte // of real servers, where the file gives them

	StateDir string // default /var/lib/lvx
	PinDir   string // default /sys/fs/bpf/lvx

	StopGrace time.Duration // how long the packet path serves on after the daemon's end, for a successor; default 10 s

	RuntimeEdits RuntimeEdits // whether ipvsadm may change what the file says

	Warnings []string // not errors: a world-readable file that holds a password, for example
}

// Backend says which data path serves.
type Backend string

// The choices of `backend:`.
const (
	BackendAuto Backend = "auto"
	BackendXDP  Backend = "xdp"
	BackendIPVS Backend = "ipvs"
)

// RuntimeEdits says whether commands of ipvsadm are carried out.
type RuntimeEdits string

// The choices of `runtime:`.
const (
	AllowEdits  RuntimeEdits = "allow"
	RefuseEdits RuntimeEdits = "refuse"
)

// XDPMode says how the XDP program is attached.
type XDPMode string

// The choices of `xdp_mode:`. Auto is native where the driver can, else
// generic.
const (
	XDPAuto    XDPMode = "auto"
	XDPNative  XDPMode = "native"
	XDPGeneric XDPMode = "generic"
)

// OnDown says what becomes of a real that fails its checks.
type OnDown string

// The choices of `on_down:`. Remove takes the real out, its connections end;
// Quiesce sets its weight to 0, its connections stay.
const (
	Remove  OnDown = "remove"
	Quiesce OnDown = "quiesce"
)

// Service is a virtual service with everything that is not the data path's.
type Service struct {
	lb.Service                 // Reals hold the configured weights; Mark is filled for every service that needs one
	Checks     [][]health.Spec // for every entry of Reals its checks; all must pass; empty = up once its MAC is known
	OnDown     OnDown
	Own        []RealOverrides // for every entry of Reals what it has instead of the service's; nil = nothing
	Hooks      Hooks
	Quorum     int  // weight of reals that must be up, below it the sorry server answers; default 1
	Hysteresis int  // quorum is regained at Quorum + Hysteresis, lost at Quorum - Hysteresis (keepalived)
	ForceClaim bool // its VIPs are taken whoever has them
	Line       int  // in the file, for messages
}

// RealOverrides is what a real has instead of its service's.
type RealOverrides struct {
	OnDown OnDown // "" = the service's
	Hooks  RealHooks
}

// RealOnDown is the way to go of the i-th real.
func (s *Service) RealOnDown(i int) OnDown {
	if i < len(s.Own) && s.Own[i].OnDown != "" {
		return s.Own[i].OnDown
	}
	return s.OnDown
}

// RealCommands are the commands for the i-th real that goes up or down.
func (s *Service) RealCommands(i int, isUp bool) [][]string {
	own := RealHooks{}
	if i < len(s.Own) {
		own = s.Own[i].Hooks
	}
	switch {
	case isUp && own.Up != nil:
		return own.Up
	case isUp:
		return s.Hooks.RealUp
	case own.Down != nil:
		return own.Down
	}
	return s.Hooks.RealDown
}

// WithReals is the service with other reals: the i-th is reals[i] and has what
// belongs to the real at from[i], as its checks; -1 is a real without any.
func (s Service) WithReals(reals []lb.Real, from []int) Service {
	checks := make([][]health.Spec, len(reals))
	for i, f := range from {
		if f >= 0 && f < len(s.Checks) {
			checks[i] = s.Checks[f]
		}
	}
	if s.Own != nil {
		own := make([]RealOverrides, len(reals))
		for i, f := range from {
			if f >= 0 && f < len(s.Own) {
				own[i] = s.Own[f]
			}
		}
		s.Own = own
	}
	s.Reals, s.Checks = reals, checks
	return s
}

// Notify says who is told about changes.
type Notify struct {
	Exec    []string // argument vectors, each a command without a shell: a plain path, or fields separated by spaces
	SMTP    SMTP
	Webhook string // URL that gets a JSON document by POST; "" = none
}

// SMTP says how mail is sent. No Server, no mail.
type SMTP struct {
	Server string // host:port
	From   string
	To     []string
}

// Admin says where the daemon can be asked.
type Admin struct {
	Socket          string   // default /run/lvx/lvx.sock
	Listen          string   // address for /metrics and the status page; "" = none
	Hosts           []string // names that the status page may be asked by, besides addresses, localhost and the host's own
	OmitRealMetrics bool     // real_metrics: false: no series for each real
}

// Tables are the sizes of the packet path's tables.
type Tables struct {
	Flows     int // connections that are guaranteed a place; default 1,000,000
	Templates int // persistence templates; default 65,536
}

// Defaults.
const (
	DefaultSocket    = "/run/lvx/lvx.sock"
	DefaultStateDir  = "/var/lib/lvx"
	DefaultPinDir    = "/sys/fs/bpf/lvx"
	DefaultFlows     = 1_000_000
	DefaultTemplates = 65_536
	DefaultStopGrace = 10 * time.Second
	DefaultPersist   = 360 * time.Second // ipvsadm -p without a value
)
