package ipvs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cloudflare/ipvs"
)

// tables are the kernel's services and reals. [ipvs.Client] is one.
type tables interface {
	Info() (ipvs.Info, error)
	Config() (ipvs.Config, error)
	SetConfig(ipvs.Config) error
	Services() ([]ipvs.ServiceExtended, error)
	CreateService(ipvs.Service) error
	UpdateService(ipvs.Service) error
	RemoveService(ipvs.Service) error
	Destinations(ipvs.Service) ([]ipvs.DestinationExtended, error)
	CreateDestination(ipvs.Service, ipvs.Destination) error
	UpdateDestination(ipvs.Service, ipvs.Destination) error
	RemoveDestination(ipvs.Service, ipvs.Destination) error
	Close() error
}

// firewall is the nftables table that is ours.
type firewall interface {
	// Set makes the table hold r and nothing else, at once. It changes
	// nothing if the table holds it already.
	Set(r ruleset) error
	// Denied is how many packets were dropped since the table was made.
	Denied() (uint64, error)
	// Remove takes the table away, if it is there.
	Remove() error
}

// knobs are the files below /proc/sys/net. A knob that the kernel lacks is
// fs.ErrNotExist.
type knobs interface {
	Get(name string) (string, error)
	Set(name, value string) error
}

// expireNodest decides what becomes of the connections of a removed real.
const expireNodest = "ipv4/vs/expire_nodest_conn"

// procKnobs are the kernel's.
type procKnobs struct{}

func (procKnobs) path(name string) string { return filepath.Join("/proc/sys/net", name) }

func (k procKnobs) Get(name string) (string, error) {
	b, err := os.ReadFile(k.path(name))
	return strings.TrimSpace(string(b)), err
}

func (k procKnobs) Set(name, value string) error {
	return os.WriteFile(k.path(name), []byte(value), 0o644)
}

// openConnections opens the kernel's list of connections in the network
// namespace of the calling thread.
func openConnections() (io.ReadCloser, error) {
	return os.Open("/proc/thread-self/net/ip_vs_conn")
}

// listServices is Services without its error for an empty table.
func listServices(t tables) ([]ipvs.ServiceExtended, error) {
	list, err := t.Services()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list of services: %w", err)
	}
	return list, nil
}

// listReals is Destinations without its error for an empty service.
func listReals(t tables, s ipvs.Service) ([]ipvs.DestinationExtended, error) {
	list, err := t.Destinations(s)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list of reals of %s: %w", keyOf(s), err)
	}
	return list, nil
}
