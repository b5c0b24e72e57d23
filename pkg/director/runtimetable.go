package director

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// runtimeTable is the table that ipvsadm sees: the services of the file and
// those of the layer. Commands change it; then the layer is what differs from
// the file.
type runtimeTable struct {
	ipvsadm.Table
	file     *config.Config
	listens  map[lb.Listener]bool // of services with several listeners
	names    map[*ipvsadm.Entry]string
	fromFile map[*ipvsadm.Entry]bool
	taken    map[string]bool

	fileNames map[ipvsadm.Key]string // of every service of the file, also those that were removed

	daemonsOfFile []ipvsadm.Daemon // of connection sync, that the file runs
	noDaemons     string           // why no others can be run, "" if they can
}

func newRuntimeTable(file *config.Config, rt *Runtime) *runtimeTable {
	t := &runtimeTable{
		file: file, listens: map[lb.Listener]bool{}, names: map[*ipvsadm.Entry]string{},
		fromFile: map[*ipvsadm.Entry]bool{}, taken: map[string]bool{}, fileNames: map[ipvsadm.Key]string{},
	}
	t.Timeouts, t.Daemons, t.MTU = rt.Timeouts, rt.Daemons, interfaceMTU
	patches := make(map[string]*Patch, len(rt.Patches))
	for i := range rt.Patches {
		patches[rt.Patches[i].Service] = &rt.Patches[i]
	}
	for i := range file.Services {
		svc := file.Services[i]
		t.taken[svc.Name] = true
		t.fileNames[keyOf(&svc)] = svc.Name
		if p := patches[svc.Name]; p != nil {
			if p.Removed {
				continue
			}
			svc = p.apply(svc)
		}
		if len(svc.Listeners) > 1 {
			for _, l := range svc.Listeners {
				t.listens[l] = true
			}
		}
		e := entryOf(&svc)
		t.add(e, svc.Name)
		t.fromFile[e] = true
	}
	for i := range rt.Services {
		s := &rt.Services[i]
		if t.Find(s.Key) != nil || t.isListener(s.Key) {
			continue // the file has it now
		}
		e := s.Entry
		e.Servers = slices.Clone(e.Servers)
		name := s.Name
		if t.taken[name] { // a service of the file that listens elsewhere has it now
			name = t.newName(s.Key)
		}
		t.add(&e, name)
	}
	return t
}

func (t *runtimeTable) add(e *ipvsadm.Entry, name string) {
	t.Add(e)
	t.names[e], t.taken[name] = name, true
}

// isListener reports whether a service of several listeners listens there.
func (t *runtimeTable) isListener(k ipvsadm.Key) bool {
	return k.Mark == 0 && t.listens[lb.Listener{Addr: k.Addr, Proto: k.Proto, First: k.Port, Last: k.Port}]
}

// do carries out a command.
func (t *runtimeTable) do(c ipvsadm.Command) *ipvsadm.Failure {
	if fail := refuse(c); fail != nil {
		return fail
	}
	switch c.Op {
	case ipvsadm.AddService:
		if t.isListener(c.Key) {
			return ipvsadm.ErrServiceExists
		}
		if fail := t.Do(c); fail != nil {
			return fail
		}
		t.nameEntry(t.Find(c.Key))
		return nil
	case ipvsadm.DeleteService:
		e := t.Find(c.Key)
		fail := t.Do(c)
		if fail == nil {
			t.release(e)
		}
		return fail
	case ipvsadm.Flush:
		return t.flush(c.Force)
	case ipvsadm.StartDaemon, ipvsadm.StopDaemon:
		return t.doDaemon(c)
	}
	return t.Do(c)
}

// nameEntry names a service that was added. One that was there before has its
// name again, so that its connections go on: a service of the file, too.
func (t *runtimeTable) nameEntry(e *ipvsadm.Entry) {
	if name, ok := t.fileNames[e.Key]; ok {
		t.names[e], t.fromFile[e] = name, true
		return
	}
	t.names[e] = t.newName(e.Key)
}

// release lets the name of a service that is gone be given again. Names of the
// file stay taken.
func (t *runtimeTable) release(e *ipvsadm.Entry) {
	if !t.fromFile[e] {
		delete(t.taken, t.names[e])
	}
}

// newName is a name for a service that has none: "tcp-192-0-2-1-80",
// "mark-10".
func (t *runtimeTable) newName(k ipvsadm.Key) string {
	name := strings.NewReplacer(".", "-", ":", "-").Replace(fmt.Sprintf("%s-%s-%d", k.Proto, k.Addr, k.Port))
	if k.Mark != 0 {
		name = fmt.Sprintf("mark-%d", k.Mark)
		if k.IPv6 {
			name += "-ipv6"
		}
	}
	for n, first := 2, name; t.taken[name]; n++ {
		name = fmt.Sprintf("%s-%d", first, n)
	}
	t.taken[name] = true
	return name
}

// flush removes what the layer added; services of the file only if forced.
func (t *runtimeTable) flush(force bool) *ipvsadm.Failure {
	var kept []*ipvsadm.Entry
	for _, e := range t.Services {
		if t.fromFile[e] && !force {
			kept = append(kept, e)
		} else {
			t.release(e)
		}
	}
	_ = t.Do(ipvsadm.Command{Op: ipvsadm.Flush}) // a flush cannot fail
	for _, e := range kept {
		t.Add(e)
	}
	if len(kept) > 0 {
		return ipvsadm.Refuse(fmt.Sprintf("%d services are defined in the configuration file and stay (lvx ipvsadm -C --force)", len(kept)))
	}
	return nil
}

// layer is what differs from the file.
func (t *runtimeTable) layer() Runtime {
	rt := Runtime{Timeouts: t.Timeouts, Daemons: t.Daemons}
	there := make(map[string]*ipvsadm.Entry, len(t.Services))
	for _, e := range t.Services {
		if t.fromFile[e] {
			there[t.names[e]] = e
		} else {
			rt.Services = append(rt.Services, RuntimeService{Name: t.names[e], Entry: *e})
		}
	}
	for i := range t.file.Services {
		svc := &t.file.Services[i]
		if p := patchOf(svc, there[svc.Name]); p != nil {
			rt.Patches = append(rt.Patches, *p)
		}
	}
	return rt
}

// rebase is the layer for another file: what the file says now, or no longer
// knows, is dropped.
func (rt *Runtime) rebase(file *config.Config) (next Runtime, dropped []string) {
	t := newRuntimeTable(file, rt)
	next = t.layer()
	next.Zeroed = t.zeroedOf(rt.Zeroed)
	stillAdded, still := map[ipvsadm.Key]bool{}, map[string]bool{}
	for _, s := range next.Services {
		stillAdded[s.Key] = true
	}
	for _, p := range next.Patches {
		still[p.Service] = true
	}
	for _, s := range rt.Services {
		if !stillAdded[s.Key] {
			dropped = append(dropped, s.Name)
		}
	}
	for _, p := range rt.Patches {
		if !still[p.Service] {
			dropped = append(dropped, p.Service)
		}
	}
	return next, dropped
}

// refuse says what of a command lvx cannot hold.
func refuse(c ipvsadm.Command) *ipvsadm.Failure {
	switch c.Op {
	case ipvsadm.AddService, ipvsadm.EditService:
		return refuseService(c.Key, c.Service)
	case ipvsadm.AddServer, ipvsadm.EditServer:
		return refuseServer(c.Server)
	}
	return nil
}

func refuseService(k ipvsadm.Key, s ipvsadm.Service) *ipvsadm.Failure {
	scheduler := lb.Scheduler(s.Scheduler)
	switch {
	case s.Engine != "":
		if s.Engine != "sip" {
			return ipvsadm.ErrNoScheduler
		}
		return ipvsadm.Refuse("no persistence engine sip")
	case s.Flags != 0 && flagBits[scheduler] == [2]lb.SchedFlags{}: // of sh and mh the third means nothing
		return ipvsadm.Refuse(fmt.Sprintf("scheduler %s has no such flag", s.Scheduler))
	}
	if s.Mask.IsValid() {
		if ones, bits := net.IPMask(s.Mask.AsSlice()).Size(); ones == 0 || bits == 0 {
			return ipvsadm.Refuse(fmt.Sprintf("mask %s is not that of a network", s.Mask))
		}
	}
	return nil
}

// maxWeight is the largest weight of a real.
const maxWeight = 1<<16 - 1

func refuseServer(s ipvsadm.Server) *ipvsadm.Failure {
	if s.Weight > maxWeight {
		return ipvsadm.Refuse(fmt.Sprintf("weight %d is more than %d", s.Weight, maxWeight))
	}
	return nil
}

// touched is the real of the file or the layer that a command decided about, with
// the port that ipvsadm shows, so that an operator's override on it ends.
func (t *runtimeTable) touched(c ipvsadm.Command) (service string, real netip.AddrPort, ok bool) {
	if c.Op != ipvsadm.EditServer && c.Op != ipvsadm.DeleteServer {
		return "", netip.AddrPort{}, false
	}
	e := t.Find(c.Key)
	if e == nil {
		return "", netip.AddrPort{}, false
	}
	return t.names[e], netip.AddrPortFrom(c.Server.Addr, c.Server.Port), true
}
