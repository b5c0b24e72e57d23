package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
)

// Program is a VRRP implementation that can be started on a host.
type Program interface {
	// Start runs it with these virtual routers and does not wait for it.
	Start(h *testenv.Host, routers ...vrrp.Instance) (*Daemon, error)
	String() string
}

// Daemon is a program that runs.
type Daemon struct {
	*testenv.Process
	ended bool // on purpose
}

// Kill ends the daemon, its children too, without a chance to react.
func (d *Daemon) Kill() {
	d.ended = true
	// Nobody may see another die: it would say farewell.
	_ = d.Signal(syscall.SIGSTOP)
	pids := children(d.Pid())
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range pids {
			_ = syscall.Kill(pid, s)
		}
	}
	d.Process.Kill()
}

// Stop ends the daemon as an operator does.
func (d *Daemon) Stop() error {
	d.ended = true
	return d.Process.Stop()
}

// children are the processes that a process has started (proc(5)).
func children(pid int) (pids []int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for word := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(word); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// LVX is the whole of lvx: Self is the program, Body what its configuration
// says besides the virtual routers.
type LVX struct {
	Self string
	Body string
}

// String implements [Program].
func (LVX) String() string { return "lvx" }

// Start implements [Program].
func (p LVX) Start(h *testenv.Host, routers ...vrrp.Instance) (*Daemon, error) {
	file := filepath.Join(h.Dir(), "lvx.yaml")
	if err := os.WriteFile(file, []byte(p.config(h, routers)), 0o600); err != nil {
		return nil, err
	}
	proc, err := h.Start(p.Self, "run", "-c", file)
	return &Daemon{Process: proc}, err
}

func socket(h *testenv.Host) string { return filepath.Join(h.Dir(), "lvx.sock") }

// metricsAt is where a daemon answers for its metrics, within its host.
const metricsAt = "127.0.0.1:9099"

// Run runs a command of lvx on a host whose daemon runs, and gives what it
// printed.
func (p LVX) Run(ctx context.Context, h *testenv.Host, args ...string) (string, error) {
	return h.Run(ctx, append(append([]string{p.Self}, args...), "--socket", socket(h))...)
}

func (p LVX) config(h *testenv.Host, routers []vrrp.Instance) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("interface: eth0\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s, listen: %q}", h.PinDir(), h.Dir(), socket(h), metricsAt)
	if len(routers) > 0 {
		line("vrrp:")
	}
	for _, r := range routers {
		line("  - name: %s\n    interface: %s\n    virtual_router_id: %d\n    version: %d\n    priority: %d\n    advert_interval: %s",
			r.Name, r.Interface, r.VRID, r.Version, r.Priority, r.AdvertInterval)
		if r.AuthPass != "" {
			line("    auth_pass: %q", r.AuthPass)
		}
		if r.NoPreempt {
			line("    preempt: false")
		}
		line("    unicast_peers: [%s]\n    addresses: [%s]", list(r.UnicastPeers), list(r.Addresses))
	}
	return b.String() + p.Body
}

func list[T fmt.Stringer](items []T) string {
	var words []string
	for _, i := range items {
		words = append(words, fmt.Sprintf("%q", i))
	}
	return strings.Join(words, ", ")
}

// Keepalived is keepalived's VRRP.
type Keepalived struct{}

// String implements [Program].
func (Keepalived) String() string { return "keepalived" }

// Start implements [Program].
func (Keepalived) Start(h *testenv.Host, routers ...vrrp.Instance) (*Daemon, error) {
	conf := filepath.Join(h.Dir(), "keepalived.conf")
	if err := os.WriteFile(conf, []byte(keepalivedConfig(routers, Addr(h.Name))), 0o600); err != nil {
		return nil, err
	}
	pid := func(s string) string {
		file := filepath.Join(h.Dir(), "keepalived-"+s+".pid")
		_ = os.Remove(file) // with that of a child that is still dying it would not start
		return file
	}
	p, err := h.Start("keepalived", "-n", "-l", "-D", "-P", "-f", conf, "-p", pid("p"), "-r", pid("r"), "-c", pid("c"))
	return &Daemon{Process: p}, err
}

func keepalivedConfig(routers []vrrp.Instance, self netip.Addr) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("global_defs {\n vrrp_version %d\n}", routers[0].Version)
	for _, r := range routers {
		line("vrrp_instance %s {", r.Name)
		line(" state BACKUP\n interface %s\n virtual_router_id %d\n priority %d\n advert_int %g",
			r.Interface, r.VRID, r.Priority, r.AdvertInterval.Seconds())
		if r.AuthPass != "" {
			line(" authentication {\n  auth_type PASS\n  auth_pass %s\n }", r.AuthPass)
		}
		if len(r.UnicastPeers) > 0 {
			line(" unicast_src_ip %s\n unicast_peer {\n  %s\n }", self, r.UnicastPeers[0])
		}
		line(" virtual_ipaddress {")
		for _, a := range r.Addresses {
			line("  %s", a)
		}
		line(" }\n}")
	}
	return b.String()
}

// Patience bounds every wait for something that must come.
const Patience = 30 * time.Second

// Await polls f until it returns nil, at most for a while. A daemon that has
// ended by itself is reason enough to give up.
func Await(ctx context.Context, what string, f func() error, daemons ...*Daemon) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	err := testenv.Poll(ctx, func() error {
		for _, d := range daemons {
			if d.ended {
				continue
			}
			select {
			case <-d.Done():
				return testenv.Final(errors.New("a daemon has ended: " + d.Output()))
			default:
			}
		}
		return f()
	})
	if err != nil {
		return fmt.Errorf("waiting until %s: %w", what, err)
	}
	return nil
}
