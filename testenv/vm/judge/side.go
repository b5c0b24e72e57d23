package judge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// A side is one backend on a network of its own, and the thread that lives
// there.
type side struct {
	name    string
	net     *onearm.Net
	backend lb.Backend
	apply   func(lb.State) error // backend's, as long as the run lasts
	work    chan func()
}

// newSide makes the network, and the backend in it.
func newSide(ctx context.Context, name string, open func() (lb.Backend, error)) (*side, error) {
	s := &side{name: name, work: make(chan func())}
	s.apply = func(state lb.State) error { return s.backend.Apply(ctx, state) }
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // onearm's lock is nested in this one: the thread ends with the goroutine
		n, err := onearm.New(slices.Concat(ipv4.vips, ipv6.vips)...)
		if err == nil {
			s.net = n
			err = settle()
		}
		if err == nil {
			s.backend, err = open()
		}
		ready <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), s.close())
	}
	return s, nil
}

// do runs f on the side's thread.
func (s *side) do(f func() error) error {
	errc := make(chan error, 1)
	s.work <- func() { errc <- f() }
	if err := <-errc; err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

func (s *side) close() error {
	err := s.do(func() error {
		var errs []error
		if s.backend != nil {
			errs = append(errs, s.backend.Close(false))
		}
		if s.net != nil {
			errs = append(errs, s.net.Close())
		}
		return errors.Join(errs...)
	})
	close(s.work)
	return err
}

// settle lifts the kernel's limits on ICMP, which would make answers depend on
// how fast the guest is, has answers of IPv6 carry no random flow labels, and
// has the kernel forward what reals send, without telling them of a shorter way.
func settle() error {
	for _, knob := range [][2]string{
		{"ipv4/icmp_ratemask", "0"}, {"ipv4/ip_forward", "1"},
		{"ipv4/conf/" + onearm.Wire + "/forwarding", "0"}, // behind ip_forward, which sets them all
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/" + onearm.Device + "/send_redirects", "0"},
		{"ipv6/icmp/ratemask", "0"}, // a list of types, of which 0 is none
		{"ipv6/auto_flowlabels", "0"},
	} {
		if err := os.WriteFile("/proc/sys/net/"+knob[0], []byte(knob[1]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func newKernel(ctx context.Context, dir string) (*side, error) {
	return newSide(ctx, "kernel", func() (lb.Backend, error) {
		return ipvs.Open(ctx, ipvs.Options{StateDir: filepath.Join(dir, "ipvs")})
	})
}

// Table sizes of the XDP side: far more than a case has connections, and
// little to sweep.
const (
	flowPlaces     = 256
	templatePlaces = 256
)

func newXDP(ctx context.Context) (*side, error) {
	return newSide(ctx, "xdp", func() (lb.Backend, error) {
		wire, err := netlink.LinkByName(onearm.Wire)
		if err != nil {
			return nil, err
		}
		// Without it veth drops what XDP sends back.
		if err := testenv.PassXDP(wire); err != nil {
			return nil, err
		}
		dev, err := netlink.LinkByName(onearm.Device)
		if err != nil {
			return nil, err
		}
		b, err := xdp.Open(ctx, xdp.Options{
			Interfaces: []string{onearm.Device}, Mode: loader.Native, PinDir: fmt.Sprintf("/sys/fs/bpf/lvx-judge-%d", os.Getpid()),
			Flows: flowPlaces, Templates: templatePlaces, IPv6: true, Neighbors: segment(dev.Attrs().Index),
		})
		if err != nil {
			return nil, err
		}
		b.Datapath().Settings.Answers = 1 << 30 // as settle does for the kernel
		return b, nil
	})
}

// empty empties the tables of the XDP side.
func (s *side) empty() error {
	b, ok := s.backend.(*xdp.Backend)
	if !ok {
		return errors.New("no tables to empty")
	}
	clear(b.Datapath().Flows)
	clear(b.Datapath().Templates)
	clear(b.Datapath().Flows6)
	clear(b.Datapath().Templates6)
	clear(b.Datapath().Loads)
	clear(b.Datapath().Shares)
	return nil
}

// A segment knows the neighbours that onearm has entries for, by the index of
// the interface.
type segment int

// Version implements xdp.Neighbors: nothing changes.
func (s segment) Version() uint64 { return 1 }

// Routes implements xdp.Neighbors: all clients are behind the router.
func (s segment) Routes() []xdp.Route {
	return []xdp.Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: onearm.Router}}
}

// Lookup implements xdp.Neighbors.
func (s segment) Lookup(a netip.Addr) xdp.Neighbor {
	n := xdp.Neighbor{IfIndex: int(s), Device: onearm.Device, MTU: 1500, From: onearm.Director}
	if a.Is6() {
		n.From = onearm.Director6
	}
	copy(n.Source[:], onearm.DirectorMAC)
	if number := realNumber(a); number > 0 {
		copy(n.MAC[:], onearm.RealMAC(number))
		return n
	}
	if a == onearm.Router {
		copy(n.MAC[:], onearm.RouterMAC)
		return n
	}
	if a.IsLoopback() || a == onearm.Director {
		return xdp.Neighbor{Local: true}
	}
	n.Err = "no such host"
	return n
}
