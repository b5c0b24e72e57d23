package ipvsadm

import (
	"bufio"
	"io"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// ServicePorts are the port names of a file in the format of services(5).
type ServicePorts struct {
	names map[servicePort]string
	ports map[portName]uint16 // by name and by alias
}

type portName struct{ name, proto string }

type servicePort struct {
	port  uint16
	proto string // "tcp", "udp"
}

// Name is the name of a port, "" where there is none.
func (p ServicePorts) Name(port uint16, proto lb.Protocol) string {
	return p.names[servicePort{port, proto.String()}]
}

// Port is the port of a name or an alias.
func (p ServicePorts) Port(name string, proto lb.Protocol) (uint16, bool) {
	word := proto.String()
	if proto == lb.SCTP {
		word = "sctp"
	}
	port, ok := p.ports[portName{name, word}]
	return port, ok
}

// ParseServices reads lines of services(5): "name port/protocol [aliases]",
// comments after "#". Of several names for one port the first counts, and of
// several ports for one name, as for getservbyport(3) and getservbyname(3). Lines that are none are passed over.
func ParseServices(r io.Reader) ServicePorts {
	ports := ServicePorts{names: map[servicePort]string{}, ports: map[portName]uint16{}}
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
		if _, named := ports.names[k]; !named {
			ports.names[k] = Printable(fields[0])
		}
		for i, name := range fields {
			if _, named := ports.ports[portName{name, proto}]; i != 1 && !named {
				ports.ports[portName{name, proto}] = uint16(port)
			}
		}
	}
	return ports
}

// Printable refuses names with anything but visible ASCII: host names come
// from whoever runs the reverse zone.
func Printable(name string) string {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return name
}
