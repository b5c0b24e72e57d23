package ipvsadm

import (
	"fmt"
	"net/netip"
	"slices"
)

// Daemon is a daemon of connection sync: what --start-daemon says, and what -L
// --daemon prints.
type Daemon struct {
	Master    bool       `json:"master,omitempty"` // it sends; else it is a backup, which listens
	Interface string     `json:"interface"`
	ID        int        `json:"syncid"`
	MaxLen    int        `json:"maxlen,omitempty"`
	Group     netip.Addr `json:"group,omitzero"`
	Port      int        `json:"port,omitempty"`
	TTL       int        `json:"ttl,omitempty"`
}

// What a daemon has that says nothing else (start_sync_thread in ip_vs_sync.c).
const (
	daemonPort      = 8848
	daemonTTL       = 1
	masterMTU       = 1500
	backupMinMaxLen = 1024
	longestPacket   = 65535
)

var daemonGroup = netip.AddrFrom4([4]byte{224, 0, 0, 81})

// withDefaults is a daemon as the kernel starts it on an interface of this MTU.
func (d Daemon) withDefaults(mtu int) Daemon {
	if !d.Group.IsValid() {
		d.Group = daemonGroup
	}
	if d.Port == 0 {
		d.Port = daemonPort
	}
	if d.TTL == 0 {
		d.TTL = daemonTTL
	}
	headers, shortest := 20+8, 1
	if d.Group.Is6() {
		headers = 40 + 8
	}
	if d.Master {
		mtu = masterMTU
	} else {
		mtu, shortest = min(max(mtu, masterMTU), longestPacket), backupMinMaxLen
	}
	if d.MaxLen == 0 {
		d.MaxLen = mtu - headers
	}
	d.MaxLen = min(max(d.MaxLen, shortest), longestPacket-headers)
	return d
}

// startDaemon is start_sync_thread of the kernel.
func (t *Table) startDaemon(d Daemon) *Failure {
	mtu, isThere := 0, false
	if t.MTU != nil {
		mtu, isThere = t.MTU(d.Interface)
	}
	switch {
	case !isThere:
		return ErrNoDevice
	case t.daemon(d.Master) >= 0:
		return ErrDaemonRuns
	}
	t.Daemons = append(slices.Clone(t.Daemons), d.withDefaults(mtu))
	return nil
}

func (t *Table) stopDaemon(isMaster bool) *Failure {
	i := t.daemon(isMaster)
	if i < 0 {
		return ErrNoDaemon
	}
	t.Daemons = slices.Delete(slices.Clone(t.Daemons), i, i+1)
	return nil
}

// daemon is the index of the master or of the backup, -1 if it does not run.
func (t *Table) daemon(isMaster bool) int {
	return slices.IndexFunc(t.Daemons, func(d Daemon) bool { return d.Master == isMaster })
}

// daemons prints what runs, the master first (list_daemon).
func (p listPrinter) daemons(daemons []Daemon) {
	for _, isMaster := range []bool{true, false} {
		for _, d := range daemons {
			if d.Master != isMaster {
				continue
			}
			role := "backup"
			if d.Master {
				role = "master"
			}
			fmt.Fprintf(p, "%s sync daemon (mcast=%s, syncid=%d, maxlen=%d, group=%s, port=%d, ttl=%d)\n",
				role, d.Interface, d.ID, d.MaxLen, d.Group, d.Port, d.TTL)
		}
	}
}
