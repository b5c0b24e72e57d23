package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// resolveBudget bounds how long all look-ups of one listing may take
// together. What has no name by then is printed as a number.
const resolveBudget = 3 * time.Second

// systemNames are the names that this host knows: services of /etc/services,
// hosts of /etc/hosts and DNS.
type systemNames struct {
	ports  ipvsadm.ServicePorts
	lookup func(ctx context.Context, addr string) ([]string, error)
	left   time.Duration         // of the budget
	hosts  map[netip.Addr]string // looked up already
}

// newSystemNames reads /etc/services. A file that is not there has no names.
func newSystemNames() *systemNames {
	n := &systemNames{lookup: net.DefaultResolver.LookupAddr, left: resolveBudget, hosts: map[netip.Addr]string{}}
	if f, err := os.Open("/etc/services"); err == nil {
		defer f.Close()
		n.ports = ipvsadm.ParseServices(f)
	}
	return n
}

// HostName implements [ipvsadm.Names].
func (n *systemNames) HostName(a netip.Addr) string {
	if name, ok := n.hosts[a]; ok {
		return name
	}
	name := ""
	if n.left > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), n.left)
		defer cancel()
		start := time.Now()
		if names, err := n.lookup(ctx, a.String()); err == nil && len(names) > 0 {
			name = ipvsadm.Printable(strings.TrimSuffix(names[0], "."))
		}
		n.left -= time.Since(start)
	}
	n.hosts[a] = name
	return name
}

// PortName implements [ipvsadm.Names].
func (n *systemNames) PortName(port uint16, p lb.Protocol) string { return n.ports.Name(port, p) }
