package ipvsadm

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Op is what a [Command] does.
type Op uint8

// The commands of ipvsadm, in the order of its table of legal options.
const (
	AddService Op = iota
	EditService
	DeleteService
	Flush
	List
	AddServer
	DeleteServer
	EditServer
	SetTimeouts
	StartDaemon
	StopDaemon
	Restore
	Save
	Zero
)

// String is the name that ipvsadm's errors use: "add-service".
func (o Op) String() string {
	return [...]string{
		"add-service", "edit-service", "delete-service", "flush", "list", "add-server", "delete-server",
		"edit-server", "set", "start-daemon", "stop-daemon", "restore", "save", "zero",
	}[o]
}

// Edits reports whether the command changes the table, its timeouts, its
// counters or its daemons.
func (o Op) Edits() bool {
	switch o {
	case List, Restore, Save:
		return false
	}
	return true
}

// Command is one command line of ipvsadm, understood.
type Command struct {
	Op       Op      `json:"op"`
	Force    bool    `json:"force,omitempty"`   // of [Flush]: also what is not ipvsadm's own (lvx knows --force)
	Key      Key     `json:"key,omitzero"`      // of the service; the zero Key = no service was named
	Service  Service `json:"service,omitzero"`  // of [AddService] and [EditService]
	Server   Server  `json:"server,omitzero"`   // of [AddServer], [EditServer] and [DeleteServer]
	Timeouts [3]int  `json:"timeouts,omitzero"` // of [SetTimeouts]: tcp, tcpfin, udp in seconds, 0 = as it is
	View     View    `json:"-"`                 // of [List] and [Save]
	Daemon   Daemon  `json:"daemon,omitzero"`   // of [StartDaemon] and [StopDaemon]
}

// Key is the identity of a virtual service: a mark and a family, or protocol,
// address and port.
type Key struct {
	Mark  uint32      `json:"mark,omitempty"`
	IPv6  bool        `json:"ipv6,omitempty"` // of a mark
	Proto lb.Protocol `json:"protocol,omitempty"`
	Addr  netip.Addr  `json:"address,omitzero"`
	Port  uint16      `json:"port,omitempty"` // 0 = every port
}

// Is6 reports whether the service is one of IPv6.
func (k Key) Is6() bool { return k.IPv6 || k.Addr.Is6() }

// Service is what -A and -E set of a virtual service.
type Service struct {
	Scheduler  string     `json:"scheduler"`
	Flags      uint8      `json:"flags,omitempty"`      // bits 0, 1 and 2: flag-1, flag-2, flag-3 of -b
	Persistent int        `json:"persistent,omitempty"` // timeout in seconds; 0 = not persistent
	Mask       netip.Addr `json:"mask,omitzero"`        // of IPv4: -M; the zero Addr = whole addresses
	Prefix     int        `json:"prefix,omitempty"`     // of IPv6: -M; 0 = whole addresses
	OnePacket  bool       `json:"one_packet,omitempty"`
	Engine     string     `json:"engine,omitempty"` // --pe
}

// Server is what -a, -e and -d say of a real server.
type Server struct {
	Addr    netip.Addr `json:"address,omitzero"`
	Port    uint16     `json:"port,omitempty"`
	Forward lb.Forward `json:"forward,omitempty"`
	Weight  int32      `json:"weight"`
	Upper   uint32     `json:"upper,omitempty"`
	Lower   uint32     `json:"lower,omitempty"`
	Tunnel  lb.Encap   `json:"tunnel,omitzero"` // of [lb.Tunnel]
}

// Failure is why a command line was not carried out, in ipvsadm's words.
type Failure struct {
	Text   string `json:"text"`           // for standard error, "" for nothing
	Status int    `json:"status"`         // exit status
	Ends   bool   `json:"ends,omitempty"` // it ends a run of rules as well (exit(3) in ipvsadm)
}

// Error implements error.
func (f *Failure) Error() string { return f.Text }

// Refuse is a [Failure] for what lvx does not do where ipvsadm would.
func Refuse(text string) *Failure { return kernelFailure("lvx: " + text) }

// fatal is a [Failure] with the exit status of a wrong command line.
func fatal(text string) *Failure { return &Failure{Text: text, Status: 2, Ends: true} }
