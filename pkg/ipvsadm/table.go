package ipvsadm

import (
	"net/netip"
	"slices"
)

// Table is a table of virtual services that answers commands as the kernel's
// does. The zero value is empty.
type Table struct {
	Services []*Entry // in the order in which they were added
	Timeouts [3]int   // tcp, tcpfin, udp in seconds; 0 = the kernel's default
	Daemons  []Daemon // that run; replaced as a whole

	// MTU is an interface's, false if there is no such one; nil: there are none.
	MTU func(device string) (mtu int, ok bool)

	index map[Key]*Entry
}

// Entry is a virtual service of a table.
type Entry struct {
	Key
	Service
	Servers []Server `json:"servers"` // in the order in which they were added
}

// kernelFailure is what ipvsadm says of an error of the kernel.
func kernelFailure(text string) *Failure { return &Failure{Text: text, Status: 255} }

// The kernel's errors, in ipvsadm's words.
var (
	ErrServiceExists = kernelFailure("Service already exists")
	ErrNoScheduler   = kernelFailure("Scheduler or persistence engine not found")
	ErrNoService     = kernelFailure("No such service")
	ErrNotDefined    = kernelFailure("Service not defined")
	ErrServerExists  = kernelFailure("Destination already exists")
	ErrNoServer      = kernelFailure("No such destination")
	ErrInvalid       = kernelFailure("Invalid operation.  Possibly wrong module version, address not unicast, ...")
	ErrRange         = kernelFailure("Numerical result out of range")
	ErrNoDaemon      = kernelFailure("No daemon is running")
	ErrDaemonRuns    = kernelFailure("Daemon has already run")
	ErrNoDevice      = kernelFailure("No such device")
)

// schedulers are those of Linux 6.1.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"}

// Find finds a service, nil if there is none.
func (t *Table) Find(k Key) *Entry {
	t.build()
	return t.index[k]
}

// Add puts a service behind the others. It has to be a new one.
func (t *Table) Add(e *Entry) {
	t.build()
	t.Services = append(t.Services, e)
	t.index[e.Key] = e
}

func (t *Table) build() {
	if t.index != nil {
		return
	}
	t.index = make(map[Key]*Entry, len(t.Services))
	for _, e := range t.Services {
		t.index[e.Key] = e
	}
}

// Do carries out a command that edits ([Op.Edits]), or says why not. Counters
// are none of a table's business: of Zero it knows only whether the service
// is there.
func (t *Table) Do(c Command) *Failure {
	switch c.Op {
	case AddService:
		return t.addService(c)
	case EditService, DeleteService:
		return t.changeService(c)
	case AddServer, EditServer, DeleteServer:
		e := t.Find(c.Key)
		if e == nil {
			return ErrNotDefined
		}
		return e.doServer(c)
	case Flush:
		t.Services, t.index = nil, nil
	case SetTimeouts:
		for i, n := range c.Timeouts {
			if n != 0 {
				t.Timeouts[i] = n
			}
		}
	case StartDaemon:
		return t.startDaemon(c.Daemon)
	case StopDaemon:
		return t.stopDaemon(c.Daemon.Master)
	case Zero:
		if c.Key != (Key{}) && t.Find(c.Key) == nil {
			return ErrNoService
		}
	}
	return nil
}

func (t *Table) addService(c Command) *Failure {
	if t.Find(c.Key) != nil {
		return ErrServiceExists
	}
	if !slices.Contains(schedulers, c.Service.Scheduler) || !isEngine(c.Service.Engine) {
		return ErrNoScheduler
	}
	t.Add(&Entry{Key: c.Key, Service: c.Service})
	return nil
}

func isEngine(name string) bool { return name == "" || name == "sip" }

func (t *Table) changeService(c Command) *Failure {
	e := t.Find(c.Key)
	switch {
	case e == nil:
		return ErrNoService
	case c.Op == DeleteService:
		t.Services = slices.DeleteFunc(t.Services, func(o *Entry) bool { return o == e })
		delete(t.index, c.Key)
	case !slices.Contains(schedulers, c.Service.Scheduler) || !isEngine(c.Service.Engine):
		return ErrNoScheduler
	default:
		e.Service = c.Service
	}
	return nil
}

func (e *Entry) doServer(c Command) *Failure {
	i := slices.IndexFunc(e.Servers, c.Server.same)
	if c.Op != DeleteServer && c.Server.Lower > c.Server.Upper {
		return ErrRange
	}
	switch {
	case c.Op == AddServer && i >= 0:
		return ErrServerExists
	case c.Op == AddServer && !isUnicast(c.Server.Addr):
		return ErrInvalid
	case c.Op == AddServer:
		e.Servers = append(e.Servers, c.Server)
	case i < 0:
		return ErrNoServer
	case c.Op == EditServer:
		e.Servers = slices.Clone(e.Servers)
		e.Servers[i] = c.Server
	default:
		e.Servers = slices.Delete(slices.Clone(e.Servers), i, i+1)
	}
	return nil
}

func (s Server) same(o Server) bool { return s.Addr == o.Addr && s.Port == o.Port }

// isUnicast is what the kernel asks of a real server's address.
func isUnicast(a netip.Addr) bool {
	if a.Is4() && a.As4()[0] == 0 || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	return !a.IsUnspecified() && !a.IsMulticast()
}
