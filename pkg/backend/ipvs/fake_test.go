package ipvs

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cloudflare/ipvs"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// fakeKernel is tables, firewall and knobs in memory, with the kernel's
// errors and its order of reals. It keeps a journal of every change.
type fakeKernel struct {
	books    *bookkeeper // of the latest backend
	config   ipvs.Config
	services []ipvs.Service
	reals    map[key][]ipvs.Destination // newest first
	rules    *ruleset
	sysctl   map[string]string
	conns    string
	journal  []string
	fail     func(change string) error
	closed   bool
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{
		config: ipvs.Config{TCPTimeout: 800, TCPFinTimeout: 70, UDPTimeout: 60},
		reals:  map[key][]ipvs.Destination{},
		sysctl: map[string]string{
			"ipv4/vs/expire_nodest_conn": "0", "ipv4/vs/expire_quiescent_template": "0", "ipv4/vs/sloppy_tcp": "0",
			"ipv4/vs/conntrack": "0", "ipv4/ip_forward": "0",
		},
	}
}

// note writes a change down, or refuses it.
func (k *fakeKernel) note(format string, args ...any) error {
	change := fmt.Sprintf(format, args...)
	if k.fail != nil {
		if err := k.fail(change); err != nil {
			return err
		}
	}
	k.journal = append(k.journal, change)
	return nil
}

func (k *fakeKernel) Info() (ipvs.Info, error) {
	return ipvs.Info{Version: [3]int{1, 2, 1}, ConnectionTableSize: 4096}, nil
}
func (k *fakeKernel) Config() (ipvs.Config, error) { return k.config, nil }
func (k *fakeKernel) Close() error                 { k.closed = true; return nil }

func (k *fakeKernel) SetConfig(c ipvs.Config) error {
	if err := k.note("timeouts %d %d %d", c.TCPTimeout, c.TCPFinTimeout, c.UDPTimeout); err != nil {
		return err
	}
	k.config = c
	return nil
}

func (k *fakeKernel) service(s ipvs.Service) int {
	return slices.IndexFunc(k.services, func(o ipvs.Service) bool { return keyOf(o) == keyOf(s) })
}

func (k *fakeKernel) Services() ([]ipvs.ServiceExtended, error) {
	if len(k.services) == 0 {
		return nil, fs.ErrNotExist
	}
	var out []ipvs.ServiceExtended
	for _, s := range k.services {
		s.Flags |= ipvs.ServiceHashed
		out = append(out, ipvs.ServiceExtended{Service: s, Stats64: ipvs.Stats{Connections: 3, IncomingPackets: 7, IncomingBytes: 300}})
	}
	return out, nil
}

func (k *fakeKernel) CreateService(s ipvs.Service) error {
	switch {
	case k.service(s) >= 0:
		return syscall.EEXIST
	case !slices.Contains(lb.Schedulers(), lb.Scheduler(s.Scheduler)):
		return syscall.ENOENT
	}
	if err := k.note("add service %s", keyOf(s)); err != nil {
		return err
	}
	k.services = append(k.services, s)
	return nil
}

func (k *fakeKernel) UpdateService(s ipvs.Service) error {
	i := k.service(s)
	if i < 0 {
		return syscall.ESRCH
	}
	if err := k.note("edit service %s", keyOf(s)); err != nil {
		return err
	}
	k.services[i] = s
	return nil
}

func (k *fakeKernel) RemoveService(s ipvs.Service) error {
	i := k.service(s)
	if i < 0 {
		return syscall.ESRCH
	}
	if err := k.note("remove service %s", keyOf(s)); err != nil {
		return err
	}
	k.services = slices.Delete(k.services, i, i+1)
	delete(k.reals, keyOf(s))
	return nil
}

func (k *fakeKernel) Destinations(s ipvs.Service) ([]ipvs.DestinationExtended, error) {
	if k.service(s) < 0 {
		return nil, syscall.ESRCH
	}
	if len(k.reals[keyOf(s)]) == 0 {
		return nil, fs.ErrNotExist
	}
	var out []ipvs.DestinationExtended
	for _, d := range k.reals[keyOf(s)] {
		out = append(out, ipvs.DestinationExtended{Destination: d, ActiveConnections: 2, InactiveConnections: 1, PersistentConnections: 1})
	}
	return out, nil
}

// at finds a real of a service that exists.
func (k *fakeKernel) at(s ipvs.Service, d ipvs.Destination) (list []ipvs.Destination, i int, err error) {
	if k.service(s) < 0 {
		return nil, -1, syscall.ESRCH
	}
	list = k.reals[keyOf(s)]
	return list, index(list, d), nil
}

func (k *fakeKernel) CreateDestination(s ipvs.Service, d ipvs.Destination) error {
	list, i, err := k.at(s, d)
	if err != nil {
		return err
	}
	if i >= 0 {
		return syscall.EEXIST
	}
	if err := k.note("add real %s %s w%d", keyOf(s), d.Address, d.Weight); err != nil {
		return err
	}
	k.reals[keyOf(s)] = slices.Insert(list, 0, d)
	return nil
}

func (k *fakeKernel) UpdateDestination(s ipvs.Service, d ipvs.Destination) error {
	list, i, err := k.at(s, d)
	if err != nil {
		return err
	}
	if i < 0 {
		return syscall.ENOENT
	}
	if err := k.note("edit real %s %s w%d", keyOf(s), d.Address, d.Weight); err != nil {
		return err
	}
	list[i] = d
	return nil
}

func (k *fakeKernel) RemoveDestination(s ipvs.Service, d ipvs.Destination) error {
	list, i, err := k.at(s, d)
	if err != nil {
		return err
	}
	if i < 0 {
		return syscall.ENOENT
	}
	if err := k.note("remove real %s %s", keyOf(s), d.Address); err != nil {
		return err
	}
	k.reals[keyOf(s)] = slices.Delete(list, i, i+1)
	return nil
}

// fakeFirewall and fakeKnobs are faces of a fakeKernel.
type (
	fakeFirewall struct{ *fakeKernel }
	fakeKnobs    struct{ *fakeKernel }
)

func (f fakeFirewall) Set(r ruleset) error {
	if r.empty() {
		return f.Remove()
	}
	if f.rules != nil && fmt.Sprint(*f.rules) == fmt.Sprint(r) {
		return nil
	}
	if err := f.note("rules"); err != nil {
		return err
	}
	f.rules = &r
	return nil
}

func (f fakeFirewall) Denied() (uint64, error) { return 5, nil }

func (f fakeFirewall) Remove() error {
	if f.rules == nil {
		return nil
	}
	f.rules = nil
	return f.note("no rules")
}

func (k fakeKnobs) Get(name string) (string, error) {
	v, ok := k.sysctl[name]
	if !ok {
		return "", fs.ErrNotExist
	}
	return v, nil
}

func (k fakeKnobs) Set(name, value string) error {
	if err := k.note("sysctl %s=%s", name, value); err != nil {
		return err
	}
	k.sysctl[name] = value
	return nil
}

// table prints the services with their reals in the order of the file.
func (k *fakeKernel) table() string {
	var b strings.Builder
	for _, s := range slices.SortedFunc(slices.Values(k.services), func(a, b ipvs.Service) int {
		return strings.Compare(keyOf(a).String(), keyOf(b).String())
	}) {
		fmt.Fprintf(&b, "%s %s:", keyOf(s), s.Scheduler)
		for _, d := range slices.Backward(k.reals[keyOf(s)]) {
			fmt.Fprintf(&b, " %s*%d", d.Address, d.Weight)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// changes takes the journal.
func (k *fakeKernel) changes() []string {
	j := k.journal
	k.journal = nil
	return j
}

// backend opens a backend on the fake; a second one on the same directory is
// a successor, which finds what the one before has handed to the disk.
func (k *fakeKernel) backend(t *testing.T, dir string) *Backend {
	t.Helper()
	conns := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(k.conns)), nil }
	if k.books != nil {
		k.books.close()
	}
	b := newBackend(Options{Log: slog.New(slog.DiscardHandler), StateDir: dir}, k, fakeFirewall{k}, fakeKnobs{k}, conns)
	k.books = b.books
	t.Cleanup(b.books.close)
	return b
}

var vip = netip.MustParseAddr("10.0.0.100")

// reals are 10.0.0.11 and up with the given weights.
func reals(weights ...uint16) []lb.Real {
	var rs []lb.Real
	for i, w := range weights {
		rs = append(rs, lb.Real{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)}), Weight: w})
	}
	return rs
}

func listener(s string) lb.Listener {
	host, proto, _ := strings.Cut(s, "/")
	l := lb.Listener{Proto: lb.TCP}
	if proto == "udp" {
		l.Proto = lb.UDP
	}
	i := strings.LastIndex(host, ":")
	l.Addr = netip.MustParseAddr(strings.Trim(host[:i], "[]"))
	if ports := host[i+1:]; ports != "*" {
		if n, _ := fmt.Sscanf(ports, "%d-%d", &l.First, &l.Last); n == 1 {
			l.Last = l.First
		}
	}
	return l
}

// web is a service on 10.0.0.100:80/tcp, or on the listeners given.
func web(rs []lb.Real, on ...string) lb.Service {
	if len(on) == 0 {
		on = []string{"10.0.0.100:80/tcp"}
	}
	s := lb.Service{Name: "web", Scheduler: lb.RR, Reals: rs}
	for _, l := range on {
		s.Listeners = append(s.Listeners, listener(l))
	}
	return s
}

func named(name string, s lb.Service) lb.Service { s.Name = name; return s }

func state(services ...lb.Service) lb.State {
	return lb.State{ExpireNodestConn: true, Services: services}
}
