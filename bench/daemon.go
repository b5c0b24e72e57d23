package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/testenv"
)

// The plant is a director and a host that is every real server.
var (
	plantNet   = netip.MustParsePrefix("10.242.0.0/16")
	plantReals = netip.MustParsePrefix("10.242.16.0/20")
	plantVIPs  = netip.MustParsePrefix("10.240.0.0/16")
)

type plant struct {
	*testenv.Cluster
	director *testenv.Host
	dir      string
	lvx      string // the binary
}

// newPlant builds lvx and the network.
func newPlant(ctx context.Context) (_ *plant, err error) {
	p := &plant{}
	if p.dir, err = os.MkdirTemp("", "lvx-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	p.lvx = filepath.Join(p.dir, "lvx")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", p.lvx, "github.com/lvx-lb/lvx/cmd/lvx")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build lvx: %w\n%s", err, out)
	}
	nic := func(last byte) testenv.NIC {
		a := plantNet.Addr().As4()
		a[3] = last
		return testenv.NIC{Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(a), plantNet.Bits())}, XDPPeer: true}
	}
	p.Cluster, err = testenv.New(testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "d", NICs: []testenv.NIC{nic(1)}}, {Name: "r", NICs: []testenv.NIC{nic(2)}},
	}})
	if err != nil {
		return nil, err
	}
	p.director = p.Host("d")
	return p, everyReal(p.Host("r"))
}

// everyReal makes a host answer for every real server: ARP and checks.
func everyReal(h *testenv.Host) error {
	lo, err := h.Netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("reals: %w", err)
	}
	to := &net.IPNet{IP: plantReals.Addr().AsSlice(), Mask: net.CIDRMask(plantReals.Bits(), 32)}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: to, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
	if err := h.Netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("reals: %w", err)
	}
	_, err = h.ServeWeb(":80")
	return err
}

func (p *plant) close() error {
	var err error
	if p.Cluster != nil {
		err = p.Close()
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

// daemon is lvx run, and the maps that it pins.
type daemon struct {
	*testenv.Process
	settings, services, labels *ebpf.Map
}

// start runs the daemon until it serves, and notes when packets would have
// found the configuration, and when it was all done.
func (p *plant) start(ctx context.Context, services []serviceConf, t *timings) (*daemon, error) {
	if err := p.write(services); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	process, err := p.director.Start(p.lvx, "run", "-c", p.file())
	if err != nil {
		return nil, err
	}
	d := &daemon{Process: process}
	steps := []func() (bool, error){
		func() (bool, error) { return d.open(p.director.PinDir()) },
		func() (bool, error) { // the first configuration comes into the second half
			half, err := d.half()
			return half == 1, err
		},
	}
	for _, step := range steps {
		if err := d.await(ctx, step); err != nil {
			return nil, errors.Join(err, d.stop())
		}
	}
	t.applied = append(t.applied, sinceMS(began))
	err = d.await(ctx, func() (bool, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", p.socket())
		if err == nil {
			return true, conn.Close()
		}
		return false, nil
	})
	if err != nil {
		return nil, errors.Join(err, d.stop())
	}
	t.serving = append(t.serving, sinceMS(began))
	return d, nil
}

// patience bounds every wait for the daemon.
const patience = time.Minute

func sinceMS(t time.Time) float64 { return float64(time.Since(t).Microseconds()) / 1000 }

// await asks every half millisecond.
func (d *daemon) await(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-d.Done():
			return fmt.Errorf("lvx run has ended: %s", d.Output())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond / 2):
		}
	}
}

// open opens the maps that tell what is in force, once they are there.
func (d *daemon) open(dir string) (bool, error) {
	for _, m := range []struct {
		name string
		at   **ebpf.Map
	}{{"settings", &d.settings}, {"services", &d.services}, {"labels", &d.labels}} {
		if *m.at != nil {
			continue
		}
		opened, err := ebpf.LoadPinnedMap(filepath.Join(dir, m.name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("pinned map %s: %w", m.name, err)
		}
		*m.at = opened
	}
	return true, nil
}

// half is which half of the tables is in force.
func (d *daemon) half() (uint32, error) {
	var s bpf.Settings
	if err := d.settings.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("settings: %w", err)
	}
	return s.Half & 1, nil
}

// until changes something, and returns after how many milliseconds packets
// found the service with a ring of that length, and after how many the change
// was reported to be done.
func (d *daemon) until(ctx context.Context, service string, length uint32, change func(context.Context) error) (seen, done float64, err error) {
	index, err := d.index(service)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	type answer struct {
		ms  float64
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		err := change(ctx)
		answers <- answer{sinceMS(began), err}
	}()
	err = d.await(ctx, func() (bool, error) {
		half, err := d.half()
		if err != nil {
			return false, err
		}
		var s bpf.Service
		err = d.services.Lookup(half*d.services.MaxEntries()/2+index, &s)
		return s.RingSize == length, err
	})
	seen = sinceMS(began)
	a := <-answers
	return seen, a.ms, errors.Join(err, a.err)
}

// index finds a service by its label.
func (d *daemon) index(service string) (uint32, error) {
	var l bpf.Label
	for i := range d.labels.MaxEntries() {
		if err := d.labels.Lookup(i, &l); err != nil {
			return 0, fmt.Errorf("labels: %w", err)
		}
		var b strings.Builder
		for _, c := range l.Name {
			if c != 0 {
				b.WriteByte(byte(c))
			}
		}
		if b.String() == service {
			return i, nil
		}
	}
	return 0, fmt.Errorf("service %s: no label", service)
}

// memory is what the daemon has allocated, in MiB.
func (d *daemon) memory() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		return 0, err
	}
	kb, err := field(string(text), "RssAnon:")
	return float64(kb) / 1024, err
}

// field reads a number behind a word.
func field(text, word string) (int, error) {
	_, rest, ok := strings.Cut(text, word)
	if !ok {
		return 0, fmt.Errorf("%s is missing in %q", word, text)
	}
	return strconv.Atoi(strings.Fields(rest + " ?")[0])
}

// busy is how many percent of a core the daemon takes for a while, once it
// has come to rest.
func (d *daemon) busy(ctx context.Context, length time.Duration) (float64, error) {
	var ticks [2]int
	for i, wait := range []time.Duration{3 * time.Second, length} {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid()))
		if err != nil {
			return 0, err
		}
		if ticks[i], err = cpuTicks(string(text)); err != nil {
			return 0, err
		}
	}
	const perSecond = 100 // USER_HZ, on every architecture that lvx runs on
	return 100 * float64(ticks[1]-ticks[0]) / perSecond / length.Seconds(), nil
}

// cpuTicks are utime and stime, fields 14 and 15 of /proc/PID/stat.
func cpuTicks(stat string) (int, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat of the daemon: %q", stat)
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return user + system, errors.Join(err, err2)
}

func (d *daemon) stop() error {
	var errs []error
	for _, m := range []*ebpf.Map{d.settings, d.services, d.labels} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(append(errs, d.Stop())...)
}
