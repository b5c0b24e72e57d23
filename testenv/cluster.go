package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
)

// DefaultSwitch is the switch that a [NIC] is plugged into if it names none.
const DefaultSwitch = "sw"

// Options describe a network.
type Options struct {
	Hosts []HostSpec // the switches follow from their NICs
}

// HostSpec describes one host, a network namespace of its own.
type HostSpec struct {
	Name    string // at most 15 bytes: it also names the switch's port
	NICs    []NIC
	Gateway netip.Addr        // default route; zero = none
	Routes  []Route           // further routes
	Forward bool              // route packets between the NICs
	Sysctls map[string]string // set last: "net.ipv4.conf.eth0.rp_filter": "1"
}

// Route is a static route of a host.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // zero = on-link
	NIC string     // "eth0"; needed if Via is zero or MTU is set
	MTU int        // path MTU that the host enforces on what it sends or forwards there; 0 = the NIC's
}

// NIC is one network interface of a host, a veth pair whose other end is a
// port of a switch. The n-th NIC of a host is named "eth<n>", from 0.
type NIC struct {
	Switch       string // default [DefaultSwitch]; the switches that are named are made
	Addrs        []netip.Prefix
	MAC          net.HardwareAddr // default 02:00 followed by the first IPv4 address
	MTU          int              // default 1500; the port gets the same
	XDPPeer      bool             // a pass program on the switch's port, which XDP_TX and XDP_REDIRECT out of this NIC need
	FullChecksum bool             // no TX checksum offload: needed where packets reach native XDP
}

// Cluster is a network that runs.
type Cluster struct {
	name  string // "lvxt-<owner>-<n>"
	dir   string
	hosts []*Host // in the order of creation, switches first
}

// serial numbers the clusters of this process.
var serial atomic.Uint32

// New builds the network that o describes, after it swept away what dead
// processes left behind. It returns an error that names the part which could
// not be built, with nothing left over.
func New(o Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces: permission denied (run as root)")
	}
	if err := Sweep(); err != nil {
		return nil, fmt.Errorf("sweep of a former run: %w", err)
	}
	if err := mountBPF(); err != nil {
		return nil, err
	}
	if err := shareNetnsDir(); err != nil {
		return nil, err
	}
	c := &Cluster{name: fmt.Sprintf("%s%s-%d", prefix, self(), serial.Add(1))}
	if err := c.build(o); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) build(o Options) error {
	c.dir = filepath.Join(os.TempDir(), c.name)
	// Searchable by all: nginx workers and unprivileged checks live in it.
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return fmt.Errorf("directory of the cluster: %w", err)
	}
	for _, h := range o.Hosts {
		for _, n := range h.NICs {
			if name := n.switchName(); c.Host(name) == nil {
				if err := c.addSwitch(name); err != nil {
					return fmt.Errorf("switch %s: %w", name, err)
				}
			}
		}
	}
	for _, spec := range o.Hosts {
		if err := c.addHost(spec); err != nil {
			return fmt.Errorf("host %s: %w", spec.Name, err)
		}
	}
	return nil
}

// Host finds a host or a switch by name; nil if there is none.
func (c *Cluster) Host(name string) *Host {
	i := slices.IndexFunc(c.hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return nil
	}
	return c.hosts[i]
}

// Hosts lists all hosts, switches first.
func (c *Cluster) Hosts() []*Host { return slices.Clone(c.hosts) }

// Switch returns the default switch. The switch's ports are named after the
// hosts; a host's second NIC is at port "<host>.1".
func (c *Cluster) Switch() *Host { return c.Host(DefaultSwitch) }

// Dir is the cluster's own directory. It is removed by Close.
func (c *Cluster) Dir() string { return c.dir }

// Name is unique among the clusters of this machine; the namespaces' names
// begin with it.
func (c *Cluster) Name() string { return c.name }

// Close ends every process that runs in the cluster, first with SIGTERM, and
// removes the namespaces, the directory and the pin directories. It may be
// called more than once.
func (c *Cluster) Close() error {
	var errs []error
	// What depends on the network goes first, all hosts at once.
	done := make(chan struct{}, len(c.hosts))
	for _, h := range c.hosts {
		go func() { h.stop(); done <- struct{}{} }()
	}
	for range c.hosts {
		<-done
	}
	for _, h := range slices.Backward(c.hosts) {
		errs = append(errs, h.close())
	}
	c.hosts = nil
	errs = append(errs, removeLeftovers(c.name))
	return errors.Join(errs...)
}
