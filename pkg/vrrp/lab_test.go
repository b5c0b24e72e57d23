package vrrp_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/vishvananda/netns"
)

// vrrpd is the test daemon, built once.
var vrrpd = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("vrrpd-test-%d", os.Getpid()))
	out, err := exec.Command("go", "build", "-o", path, "./internal/vrrpd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("vrrpd: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	os.Remove(filepath.Join(os.TempDir(), fmt.Sprintf("vrrpd-test-%d", os.Getpid())))
	os.Exit(code)
}

var labs atomic.Int64

// lab is a bridge with hosts on it, each in a network namespace: routers a
// (10.99.0.1) and b (10.99.0.2), a client c (10.99.0.10) and an attacker d
// (10.99.0.66). Inside, every host's interface is eth0; on the bridge it
// has the host's name.
type lab struct {
	t  testing.TB
	id string
}

var hostAddrs = map[string]string{"a": "10.99.0.1", "b": "10.99.0.2", "c": "10.99.0.10", "d": "10.99.0.66"}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	l := &lab{t, fmt.Sprintf("vr%dx%d", os.Getpid(), labs.Add(1))}
	l.ip("netns", "add", l.ns("br"))
	t.Cleanup(func() { l.quietly("netns", "del", l.ns("br")) })
	l.in("br", "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
	l.in("br", "ip", "link", "set", "br0", "up")
	for host := range hostAddrs {
		l.ip("netns", "add", l.ns(host))
		t.Cleanup(func() { l.quietly("netns", "del", l.ns(host)) })
		l.in(host, "ip", "link", "set", "lo", "up")
		l.plug(host)
	}
	return l
}

// plug gives a host its eth0, on the bridge.
func (l *lab) plug(host string) {
	l.t.Helper()
	l.in("br", "ip", "link", "add", "name", host, "type", "veth", "peer", "name", "eth0", "netns", l.ns(host))
	l.in("br", "ip", "link", "set", "dev", host, "master", "br0", "up")
	l.in(host, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
	l.in(host, "ip", "link", "set", "eth0", "up")
	l.in(host, "ip", "addr", "add", hostAddrs[host]+"/24", "dev", "eth0")
}

func (l *lab) ns(host string) string { return l.id + host }

func (l *lab) ip(args ...string) string {
	l.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *lab) quietly(args ...string) { _ = exec.Command("ip", args...).Run() }

// in runs a command on a host.
func (l *lab) in(host string, args ...string) string {
	l.t.Helper()
	return l.ip(append([]string{"netns", "exec", l.ns(host)}, args...)...)
}

// inside runs f on a thread in a host's namespace; sockets that f opens
// stay there.
func (l *lab) inside(host string, f func() error) {
	l.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never undone: the thread is spoilt
		h, err := netns.GetFromName(l.ns(host))
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		l.t.Fatalf("in %s: %v", host, err)
	}
}

// has reports whether a host has an address.
func (l *lab) has(host, addr string) bool {
	l.t.Helper()
	return strings.Contains(l.in(host, "ip", "-o", "addr", "show"), " "+addr+"/")
}

// onDevice reports whether a host has an address on an interface.
func (l *lab) onDevice(host string, addr netip.Addr, device string) error {
	l.t.Helper()
	if out := l.in(host, "ip", "-o", "addr", "show", "dev", device); !strings.Contains(out, " "+addr.String()+"/") {
		return fmt.Errorf("%s on %s: %s", addr, device, out)
	}
	return nil
}

// eventually waits for something, generously.
func (l *lab) eventually(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	l.t.Fatalf("waited 30 s for: %s", what)
}

// daemon is a running lvx or keepalived.
type daemon struct {
	l    *lab
	cmd  *exec.Cmd
	conf string
	out  lockedBuffer
	pids []string // files with the process ids of its children
	done chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (l *lab) start(host, conf string, pids []string, args ...string) *daemon {
	l.t.Helper()
	d := &daemon{l: l, conf: conf, pids: pids, done: make(chan struct{})}
	d.cmd = exec.Command("ip", append([]string{"netns", "exec", l.ns(host)}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	if err := d.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() { defer close(d.done); _ = d.cmd.Wait() }()
	l.t.Cleanup(func() {
		d.kill()
		if l.t.Failed() {
			l.t.Logf("%s on %s:\n%s", filepath.Base(args[0]), host, d.out.String())
		}
	})
	return d
}

// lvx starts the test daemon.
func (l *lab) lvx(host string, instances ...vrrp.Instance) *daemon {
	return l.lvxWith(host, nil, instances...)
}

func (l *lab) lvxWith(host string, flags []string, instances ...vrrp.Instance) *daemon {
	l.t.Helper()
	path, err := vrrpd()
	if err != nil {
		l.t.Fatal(err)
	}
	conf := filepath.Join(l.t.TempDir(), host+".json")
	writeInstances(l.t, conf, instances)
	return l.start(host, conf, nil, append([]string{path, "-conf", conf}, flags...)...)
}

func writeInstances(t testing.TB, path string, instances []vrrp.Instance) {
	t.Helper()
	b, err := json.Marshal(instances)
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// keepalived starts keepalived with what it calls the same instance.
func (l *lab) keepalived(host string, i vrrp.Instance) *daemon {
	l.t.Helper()
	dir := l.t.TempDir()
	conf := filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(conf, []byte(keepalivedConf(i, hostAddrs[host])), 0o644); err != nil {
		l.t.Fatal(err)
	}
	pid := func(s string) string { return filepath.Join(dir, s+".pid") }
	return l.start(host, conf, []string{pid("r"), pid("c")},
		"keepalived", "-n", "-l", "-D", "-P", "-f", conf, "-p", pid("p"), "-r", pid("r"), "-c", pid("c"))
}

func keepalivedConf(i vrrp.Instance, self string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("global_defs {\n vrrp_version %d\n}", i.Version)
	line("vrrp_instance %s {", i.Name)
	line(" state BACKUP\n interface eth0\n virtual_router_id %d\n priority %d\n advert_int %g", i.VRID, i.Priority, i.AdvertInterval.Seconds())
	if i.AuthPass != "" {
		line(" authentication {\n  auth_type PASS\n  auth_pass %s\n }", i.AuthPass)
	}
	if len(i.UnicastPeers) > 0 {
		line(" unicast_src_ip %s\n unicast_peer {\n  %s\n }", self, i.UnicastPeers[0])
	}
	for _, block := range []string{"virtual_ipaddress", "virtual_ipaddress_excluded"} {
		line(" %s {", block)
		for _, a := range i.Addresses {
			if slices.Contains(i.Unadvertised, a.Addr()) != (block == "virtual_ipaddress_excluded") {
				continue
			}
			dev := i.Devices[a.Addr()]
			if dev == "" {
				dev = i.Interface
			}
			line("  %s dev %s", a, dev)
		}
		line(" }")
	}
	line("}")
	return b.String()
}

// stop asks for an orderly end and waits for it.
func (d *daemon) stop() {
	d.signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		d.l.t.Error("daemon does not stop")
		d.kill()
	}
}

// kill ends the daemon and its children without a chance to react.
func (d *daemon) kill() {
	pids := []int{d.cmd.Process.Pid}
	for _, file := range d.pids {
		var pid int
		if b, err := os.ReadFile(file); err == nil {
			if _, err := fmt.Sscan(string(b), &pid); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
	}
	select {
	case <-d.done:
		return
	default:
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-d.done
}

func (d *daemon) signal(s syscall.Signal) { _ = d.cmd.Process.Signal(s) }

// says reports whether the daemon has logged a text.
func (d *daemon) says(text string) bool { return strings.Contains(d.out.String(), text) }

// instance is the virtual router of the measured baseline.
func instance(version int, interval time.Duration, priority uint8, edits ...func(*vrrp.Instance)) vrrp.Instance {
	i := vrrp.Instance{
		Name: "VI_1", Interface: "eth0", VRID: 51, Version: version, Priority: priority, AdvertInterval: interval,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.99.0.100/24")},
	}
	if version == 2 {
		i.AuthPass = "s3cr3t12"
	}
	for _, e := range edits {
		e(&i)
	}
	return i
}
