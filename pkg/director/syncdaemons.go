package director

import (
	"fmt"
	"net"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
)

// SyncDaemons run the daemons of connection sync that ipvsadm starts. Its
// methods do not wait.
type SyncDaemons interface {
	// SetDaemons has these run, and no others beside those of the file.
	SetDaemons(daemons []ipvsadm.Daemon)

	// DaemonsOfFile are those that the file runs, as ipvsadm shows them.
	DaemonsOfFile() []ipvsadm.Daemon

	// Status reports on those that run beside them.
	Status() []connsync.WireStatus
}

// interfaceMTU implements ipvsadm.Table's MTU.
func interfaceMTU(device string) (mtu int, ok bool) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return 0, false
	}
	return i.MTU, true
}

// daemonsOfFile are the daemons that the file runs, and why ipvsadm cannot run
// others.
func (d *Director) daemonsOfFile() (daemons []ipvsadm.Daemon, refusal string) {
	if d.opt.SyncDaemons == nil {
		return nil, "connection sync is of connections that XDP forwards, and XDP does not run here (see lvx check)"
	}
	if d.file.Sync.SyncID != 0 {
		refusal = fmt.Sprintf("the configuration file runs the daemons of connection sync (sync: {syncid: %d})", d.file.Sync.SyncID)
	}
	return d.opt.SyncDaemons.DaemonsOfFile(), refusal
}

// runDaemons has the daemons of the layer run, if the file lets it have a say.
func (d *Director) runDaemons() {
	if d.opt.SyncDaemons == nil {
		return
	}
	if d.file.RuntimeEdits == config.RefuseEdits || d.file.Sync.SyncID != 0 {
		d.opt.SyncDaemons.SetDaemons(nil)
		return
	}
	d.opt.SyncDaemons.SetDaemons(d.runtime.Daemons)
}

// listDaemons are the daemons that run.
func (d *Director) listDaemons() []ipvsadm.Daemon {
	if d.opt.SyncDaemons == nil {
		return nil
	}
	if daemons := d.opt.SyncDaemons.DaemonsOfFile(); len(daemons) > 0 || d.file.RuntimeEdits == config.RefuseEdits {
		return daemons
	}
	return slices.Clone(d.runtime.Daemons)
}

// doDaemon starts or stops a daemon of connection sync. Those of the file are
// the file's to stop.
func (t *runtimeTable) doDaemon(c ipvsadm.Command) *ipvsadm.Failure {
	layer := t.Daemons
	t.Daemons = slices.Concat(t.daemonsOfFile, layer)
	fail := t.Do(c)
	if t.Daemons = slices.DeleteFunc(t.Daemons, func(d ipvsadm.Daemon) bool { return slices.Contains(t.daemonsOfFile, d) }); fail != nil {
		t.Daemons = layer
		return fail
	}
	if t.noDaemons != "" {
		t.Daemons = layer
		return ipvsadm.Refuse(t.noDaemons)
	}
	if c.Op == ipvsadm.StartDaemon && c.Daemon.Group.Is6() {
		t.Daemons = layer
		return ipvsadm.Refuse("connections are shared in groups of IPv4 (--mcast-group 224.0.0.81)")
	}
	return nil
}
