package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// resolveBudget bounds how long all look-ups of one listing may take
// together. What has no name by then is printed as a number.
const resolveBudget = 3 * time.Second

// systemNames are the names that this host knows: services of /etc/services,
// hosts of /etc/hosts and DNS.
type systemNames struct {
	services servicePorts
	lookup   func(ctx context.Context, addr string) ([]string, error)
	left     time.Duration         // of the budget
	hosts    map[netip.Addr]string // looked up already
}

// newSystemNames reads /etc/services. A file that is not there has no names.
func newSystemNames() *systemNames {
	n := &systemNames{lookup: net.DefaultResolver.LookupAddr, left: resolveBudget, hosts: map[netip.Addr]string{}}
	if f, err := os.Open("/etc/services"); err == nil {
		defer f.Close()
		n.services = parseServices(f)
	}
	return n
}

func (n *systemNames) host(a netip.Addr) string {
	if name, ok := n.hosts[a]; ok {
		return name
	}
	name := ""
	if n.left > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), n.left)
		defer cancel()
		start := time.Now()
		if names, err := n.lookup(ctx, a.String()); err == nil && len(names) > 0 {
			name = printable(strings.TrimSuffix(names[0], "."))
		}
		n.left -= time.Since(start)
	}
	n.hosts[a] = name
	return name
}

// printable refuses names with anything but visible ASCII: they come from
// whoever runs the reverse zone.
func printable(name string) string {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return name
}

func (n *systemNames) service(port uint16, p lb.Protocol) string {
	return n.services[servicePort{port, p.String()}]
}

// servicePorts are the names of ports, by port and protocol.
type servicePorts map[servicePort]string

type servicePort struct {
	port  uint16
	proto string // "tcp", "udp"
}

// parseServices reads lines of services(5): "name port/protocol [aliases]",
// comments after "#". Of several names for one port the first counts, as for
// getservbyport(3). Lines that are none are passed over.
func parseServices(r io.Reader) servicePorts {
	ports := servicePorts{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, proto, ok := strings.Cut(fields[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil {
			continue
		}
		k := servicePort{uint16(port), proto}
		if _, named := ports[k]; !named {
			ports[k] = printable(fields[0])
		}
	}
	return ports
}
