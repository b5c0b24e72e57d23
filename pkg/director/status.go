package director

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Status is everything that `lvx status` shows.
type Status struct {
	Version  string             `json:"version"`
	Started  time.Time          `json:"started"`
	Now      time.Time          `json:"now"`
	Backend  string             `json:"backend"` // "xdp", "ipvs" or "xdp+ipvs"
	Mode     string             `json:"mode"`
	Detail   string             `json:"detail,omitempty"`
	Reload   ReloadStatus       `json:"reload"`
	Fault    string             `json:"fault,omitempty"` // why the kernel does not hold the plan; it is being retried
	Faults   uint64             `json:"faults"`          // failed attempts so far
	Warnings []warnings.Warning `json:"warnings,omitempty"`
	VRRP     []VRRPStatus       `json:"vrrp,omitempty"`
	Sync     *connsync.Status   `json:"sync,omitempty"`
	BGP      *bgp.Status        `json:"bgp,omitempty"`
	BFD      []BFDStatus        `json:"bfd,omitempty"`
	VIPs     []VIPStatus        `json:"vips"`
	Services []ServiceStatus    `json:"services"`
	Messages Messages           `json:"messages"`
	Edits    int                `json:"runtime_changes,omitempty"` // services that ipvsadm added, changed or removed
	Verdicts []VerdictCount     `json:"verdicts,omitempty"`        // those that are not zero
	Tables   []TableStatus      `json:"tables,omitempty"`
	Losses   []Loss             `json:"losses,omitempty"`          // those that are zero, too
	Stale    []Override         `json:"stale_overrides,omitempty"` // overrides that hit nothing
}

// VerdictCount counts the packets that the packet path decided alike.
type VerdictCount struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
	Count   uint64 `json:"count"`
}

// Loss counts frames that XDP gave to the driver of an interface, and that were not
// sent.
type Loss struct {
	Interface string `json:"interface"` // that they came in by
	Counter   string `json:"counter"`   // "xdp_tx", "xdp_redirect", "xdp_aborted", or the driver's name
	IsDrivers bool   `json:"driver"`    // the driver itself counts them (ethtool -S): perhaps once more
	Frames    uint64 `json:"frames"`
}

// TableStatus is how full a table of the packet path is.
type TableStatus struct {
	Name     string            `json:"name"` // "flows", "templates"
	Used     uint64            `json:"used"`
	Capacity uint64            `json:"capacity"`
	Evicted  map[string]uint64 `json:"evicted,omitempty"` // by what they were; those that are not zero
}

// Messages counts what became of the messages of `notify:`.
type Messages struct {
	Delivered uint64 `json:"delivered"`
	Failed    uint64 `json:"failed"`
	Dropped   uint64 `json:"dropped"` // no room in a queue
}

// ReloadStatus is about the last time that the configuration was read.
type ReloadStatus struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"` // why it was refused; the one before still runs
}

// VRRPStatus is one virtual router.
type VRRPStatus struct {
	Instance  string            `json:"instance"`
	Interface string            `json:"interface"`
	VRID      uint8             `json:"virtual_router_id"`
	Role      string            `json:"role"`
	Since     time.Time         `json:"since"`
	Why       string            `json:"why,omitempty"`
	Priority  uint8             `json:"priority"`
	Peers     []VRRPPeer        `json:"peers,omitempty"`
	Dropped   map[string]uint64 `json:"dropped,omitempty"`
	Warning   string            `json:"warning,omitempty"`
	Changes   uint64            `json:"changes"` // of the role, since the daemon began
}

// VRRPPeer is the last accepted advertisement of another router.
type VRRPPeer struct {
	Addr     netip.Addr `json:"address"`
	Priority uint8      `json:"priority"`
	Seen     time.Time  `json:"seen"`
}

// VIPStatus reports whether this host serves a VIP.
type VIPStatus struct {
	Addr     netip.Addr `json:"address"`
	Held     bool       `json:"held"`
	Instance string     `json:"vrrp,omitempty"`     // that decides it
	Withheld bool       `json:"withheld,omitempty"` // another host has it, and so this one does not take it
	Silent   bool       `json:"silent,omitempty"`   // this host is a real server of it as well, and has it on lo
}

// ServiceStatus is one service.
type ServiceStatus struct {
	Name          string       `json:"name"`
	Listeners     []string     `json:"listeners"`
	Mark          uint32       `json:"mark,omitempty"`
	Scheduler     string       `json:"scheduler"`
	Backend       string       `json:"backend,omitempty"`
	State         string       `json:"state"` // "up", "sorry", "down"
	Reason        string       `json:"reason,omitempty"`
	Runtime       string       `json:"runtime,omitempty"`        // what ipvsadm did to the service
	BackendReason string       `json:"backend_reason,omitempty"` // why this backend: "SCTP listener ..."; or what it had to change
	Sorry         string       `json:"sorry_server,omitempty"`
	Quorum        bool         `json:"quorum"`                   // enough weight is up
	Rows          int          `json:"rows,omitempty"`           // of a stateless service in XDP: how many its hash table has
	UnsettledRows int          `json:"unsettled_rows,omitempty"` // those whose connections are kept
	Reals         []RealStatus `json:"reals"`
}

// RealStatus is one real of one service.
type RealStatus struct {
	Addr       netip.Addr `json:"address"`
	Port       uint16     `json:"port,omitempty"`
	Forward    string     `json:"forward"`          // "dr", "nat", "tunnel"
	Tunnel     string     `json:"tunnel,omitempty"` // what lvx real up --tunnel calls the tunnel: "ipip", "gue6:5555"
	State      string     `json:"state"`            // "up", "down", "drained", "quiesced" (weight 0), "unresolved"
	Weight     uint16     `json:"weight"`
	Configured uint16     `json:"configured_weight"`
	Override   string     `json:"override,omitempty"`
	Checks     int        `json:"checks"`
	CheckTook  float64    `json:"check_seconds,omitempty"` // the slowest of its last checks
	Flapping   bool       `json:"flapping,omitempty"`
	Since      time.Time  `json:"since,omitzero"`
	Reason     string     `json:"reason,omitempty"`
	MAC        string     `json:"mac,omitempty"`
	Device     string     `json:"device,omitempty"`
	Active     uint32     `json:"active_connections"`
	Inactive   uint32     `json:"inactive_connections"`
	Templates  uint32     `json:"templates,omitempty"` // clients that persistence binds to it
}

// Losses says what was lost behind the packet path; without a word where nobody
// knows.
func (d *Director) Losses() []Loss {
	if d.opt.Losses == nil {
		return nil
	}
	return d.opt.Losses()
}

// Status asks for everything at once.
func (d *Director) Status(ctx context.Context) (st Status, err error) {
	err = d.do(ctx, func(context.Context) error {
		obs, err := d.opt.Backend.Observed()
		if err != nil {
			obs = lb.Observed{Detail: err.Error()} // the rest is worth showing
		}
		stats, err := d.opt.Backend.Stats()
		if err != nil {
			d.log.Debug("no counters for the status", "err", err)
		}
		st = d.status(obs, stats)
		return nil
	})
	return st, err
}

func (d *Director) status(obs lb.Observed, stats lb.Stats) Status {
	d.warnOfVRRP()
	st := Status{
		Version: d.opt.Version, Started: d.started, Now: time.Now(),
		Backend: obs.Backend, Mode: obs.Mode, Detail: obs.Detail,
		Reload: d.reload, Fault: d.fault, Faults: d.faults,
		Warnings: d.warnings.List(),
		Stale:    slices.Clone(d.out.Stale),
		VIPs:     d.vipStatus(),
		Verdicts: countedVerdicts(stats.Verdicts),
		Sync:     d.syncStatus(),
		BGP:      d.routesStatus(),
		BFD:      d.bfdStatus(),
	}
	if stats.Flows.Capacity > 0 { // the kernel's IPVS has no tables of a size
		st.Tables = []TableStatus{tableStatus("flows", stats.Flows), tableStatus("templates", stats.Template)}
	}
	st.Losses = d.Losses()
	if d.opt.Notify != nil {
		st.Messages = Messages(d.opt.Notify.Counters())
	}
	if d.opt.VRRP != nil {
		st.VRRP = vrrpStatus(d.cfg.VRRP, d.opt.VRRP.Status())
		for i := range st.VRRP {
			st.VRRP[i].Changes = d.roleChanges[st.VRRP[i].Instance]
		}
	}
	seen := map[string]lb.ObservedService{}
	for _, o := range obs.Services {
		seen[o.Name] = o
	}
	counted := make(map[string]*lb.ServiceStats, len(stats.Services))
	for i := range stats.Services {
		counted[stats.Services[i].Name] = &stats.Services[i]
	}
	layer := d.runtime.index()
	for i, p := range d.out.Services {
		st.Services = append(st.Services, serviceStatus(d.cfg.Services[i], p, seen[p.Name], counted[p.Name]))
		if d.file.RuntimeEdits != config.RefuseEdits {
			st.Services[i].Runtime = layer.describe(p.Name) + d.marks.describe(&d.cfg.Services[i], layer.added[p.Name])
		}
	}
	st.Edits = d.runtime.Changes()
	return st
}

func countedVerdicts(vs []lb.Verdict) (counted []VerdictCount) {
	for _, v := range vs {
		if v.Count > 0 {
			counted = append(counted, VerdictCount(v))
		}
	}
	return counted
}

func tableStatus(name string, t lb.TableStats) TableStatus {
	s := TableStatus{Name: name, Used: t.Used, Capacity: t.Capacity, Evicted: map[string]uint64{}}
	for kind, n := range t.Evicted {
		if n > 0 {
			s.Evicted[kind] = n
		}
	}
	return s
}

func vrrpStatus(instances []vrrp.Instance, status []vrrp.Status) []VRRPStatus {
	var all []VRRPStatus
	for _, inst := range instances {
		v := VRRPStatus{Instance: inst.Name, Interface: inst.Interface, VRID: inst.VRID, Role: vrrp.Init.String(), Priority: inst.Priority}
		for _, s := range status {
			if s.Instance != inst.Name {
				continue
			}
			v.Role, v.Since, v.Why, v.Priority = s.Role.String(), s.Since, s.Why, s.Priority
			v.Dropped, v.Warning = s.Dropped, s.Warning
			for _, p := range s.Peers {
				v.Peers = append(v.Peers, VRRPPeer{Addr: p.Addr, Priority: p.Priority, Seen: p.Seen})
			}
		}
		all = append(all, v)
	}
	return all
}

// VIPTaken is the kind of the warning that a VIP is withheld because another host has
// it; its subject is "VIP ADDRESS on INTERFACE".
const VIPTaken = "vip-taken"

func (d *Director) vipStatus() []VIPStatus {
	withheld := map[string]bool{}
	for _, w := range d.warnings.List() {
		if w.Kind == VIPTaken {
			subject, _, _ := strings.Cut(w.Subject, " on ")
			withheld[subject] = true
		}
	}
	var all []VIPStatus
	for _, vip := range d.out.State.VIPs {
		isWithheld := withheld["VIP "+vip.Addr.String()]
		all = append(all, VIPStatus{
			Addr: vip.Addr, Held: !vip.Standby && !isWithheld, Withheld: isWithheld, Instance: vip.Owner,
			Silent: d.silentErr == "" && slices.ContainsFunc(d.silent, func(v SilentVIP) bool { return v.Addr == vip.Addr }),
		})
	}
	return all
}

// serviceStatus puts together what was decided about a service, what the kernel
// holds of it, and its counters. A service is up while one of its reals takes
// connections: the sorry server is none.
func serviceStatus(svc config.Service, p ServicePlan, o lb.ObservedService, counted *lb.ServiceStats) ServiceStatus {
	s := ServiceStatus{
		Name: p.Name, Mark: svc.Mark, Scheduler: string(svc.Scheduler), Backend: o.Backend, BackendReason: o.Reason,
		State: "up", Reason: p.Reason, Quorum: p.Quorum,
	}
	for _, l := range svc.Listeners {
		s.Listeners = append(s.Listeners, l.String())
	}
	usable := false
	seen := map[netip.AddrPort]lb.ObservedReal{}
	for _, r := range o.Reals {
		seen[netip.AddrPortFrom(r.Addr, r.Port)] = r
	}
	for _, rp := range p.Reals {
		or, held := seen[rp.Key()]
		usable = usable || or.Usable && rp.Up && rp.Weight > 0
		s.Reals = append(s.Reals, realStatus(rp, or, held))
	}
	s.addCounters(counted)
	if svc.Sorry.IsValid() {
		s.Sorry = svc.Sorry.String()
	}
	switch {
	case usable && !p.Sorry:
	case svc.Sorry.IsValid():
		s.State = "sorry"
	default:
		s.State = "down"
	}
	if !usable && s.Reason == "" {
		s.Reason = "no real is usable"
	}
	return s
}

// addCounters adds the connections of the reals.
func (s *ServiceStatus) addCounters(counted *lb.ServiceStats) {
	if counted == nil {
		return
	}
	s.Rows, s.UnsettledRows = counted.Rows, counted.UnsettledRows
	at := make(map[netip.AddrPort]*lb.RealStats, len(counted.Reals)+len(counted.Absent))
	for _, all := range [][]lb.RealStats{counted.Absent, counted.Reals} {
		for i := range all {
			at[netip.AddrPortFrom(all[i].Addr, all[i].Port)] = &all[i]
		}
	}
	for i := range s.Reals {
		if c := at[netip.AddrPortFrom(s.Reals[i].Addr, s.Reals[i].Port)]; c != nil {
			s.Reals[i].Active, s.Reals[i].Inactive, s.Reals[i].Templates = c.Active, c.Inactive, c.Persist
		}
	}
}

func realStatus(rp RealPlan, o lb.ObservedReal, held bool) RealStatus {
	r := RealStatus{
		Addr: rp.Addr, Port: rp.Port, Forward: rp.Forward.String(), Tunnel: rp.Tunnel, State: "up",
		Weight: rp.Weight, Configured: rp.Configured, Checks: rp.Checks,
		Flapping: rp.Flapping, Since: rp.Since, Reason: rp.Reason,
		MAC: o.MAC, Device: o.Device, CheckTook: rp.Took.Seconds(),
	}
	switch {
	case rp.Drained:
		r.Override = "drain"
	case rp.Override:
		r.Override = "weight"
	}
	switch {
	case !rp.Up:
		r.State = "down"
	case rp.Drained:
		r.State = "drained"
	case held && !o.Usable && rp.Weight == 0:
		r.State, r.Reason = "quiesced", o.Reason
	case held && !o.Usable && o.Reason != "":
		r.State, r.Reason = "unresolved", o.Reason
	}
	return r
}
