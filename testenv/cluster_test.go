package testenv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv("TESTENV_OWNER") != "" {
		owner()
	}
	goleak.VerifyTestMain(m)
}

// owner is a process that builds a network, runs a process with a child in
// it, pins, says so and waits to be killed.
func owner() {
	c, err := testenv.New(testenv.Standard(testenv.Shape{Directors: 1, Reals: 1}))
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	d1 := c.Host("d1")
	if err := os.Mkdir(d1.PinDir(), 0o700); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	p, err := d1.Start("sh", "-c", "setsid sleep 1000 & echo $!; wait")
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for p.Output() == "" {
		time.Sleep(time.Millisecond)
	}
	fmt.Println(c.Name(), c.Dir(), p.Pid(), strings.TrimSpace(p.Output()))
	time.Sleep(time.Hour) // not for ever: a process whose threads all wait for ever ends as deadlocked
}

// leftovers lists what exists of a cluster.
func leftovers(cluster string) []string {
	var found []string
	for _, pattern := range []string{"/run/netns/", "/sys/fs/bpf/", os.TempDir() + "/"} {
		m, _ := filepath.Glob(pattern + cluster + "*")
		found = append(found, m...)
	}
	return found
}

// alive reports whether a process runs; one that has ended and that nobody has
// waited for does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestHostsReachEachOther(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Reals: 3})
	for _, to := range []string{"172.25.0.11", "172.25.0.14", "172.25.0.12", "172.25.0.13", "172.25.0.15"} {
		tb.Run(t, c.Host("client"), "ping", "-c", "1", "-W", "10", to)
	}
	if _, err := c.Host("client").Run(t.Context(), "ping", "-c", "1", "-W", "1", testenv.VIP.String()); err == nil {
		t.Error("the VIP answers, and nobody has it")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	c, err := testenv.New(testenv.Standard(testenv.Shape{}))
	if err != nil {
		t.Fatal(err)
	}
	d1 := c.Host("d1")
	stubborn, err := d1.Start("sh", "-c", "setsid sleep 1000 & echo $!; sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	tb.Eventually(t, patience, func() error {
		if stubborn.Output() == "" {
			return errors.New("no output yet")
		}
		return nil
	})
	child, err := strconv.Atoi(strings.TrimSpace(stubborn.Output()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d1.ServeWeb(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d1.PinDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(c.Name()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if alive(stubborn.Pid()) || alive(child) {
		t.Errorf("processes %d, %d live on", stubborn.Pid(), child)
	}
	after, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("the machine has %d interfaces, had %d", len(after), len(before))
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := d1.Start("true"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Start after Close: %v", err)
	}
}

func TestSweepAfterKill(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TESTENV_OWNER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var name, dir string
	var process, child int
	if _, err := fmt.Fscan(out, &name, &dir, &process, &child); err != nil {
		t.Fatalf("owner: %v", err)
	}

	if err := testenv.Sweep(); err != nil {
		t.Fatal(err)
	}
	if !alive(process) || len(leftovers(name)) != 6 { // sw, client, d1, r1, pins, directory
		t.Fatalf("Sweep took from the living: %v", leftovers(name))
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	tb.Eventually(t, patience, func() error {
		if alive(process) {
			return fmt.Errorf("process %d outlives its owner", process)
		}
		return nil
	})
	tb.Standard(t, testenv.Shape{}) // sweeps
	if left := leftovers(name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	tb.Eventually(t, patience, func() error {
		if alive(child) {
			return fmt.Errorf("process %d, which left its group, lives on", child)
		}
		return nil
	})
}

func TestProcesses(t *testing.T) {
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{{Name: "h"}}})
	h := c.Host("h")
	t.Run("own network", func(t *testing.T) {
		if out := tb.Run(t, h, "ip", "-br", "link"); !strings.HasPrefix(out, "lo ") || strings.Count(out, "\n") != 1 {
			t.Errorf("links: %q, want lo alone", out)
		}
	})
	t.Run("failure", func(t *testing.T) {
		_, err := h.Run(t.Context(), "sh", "-c", "echo why >&2; exit 3")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "why") {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := h.Run(ctx, "sh", "-c", "sleep 1000 & wait"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("stop", func(t *testing.T) {
		p := tb.Start(t, h, "sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
		if err := p.WaitOutput(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if !strings.HasSuffix(p.Output(), "bye\n") {
			t.Errorf("output %q", p.Output())
		}
	})
	t.Run("early end", func(t *testing.T) {
		p := tb.Start(t, h, "sh", "-c", "echo broken; exit 1")
		err := p.WaitOutput(t.Context(), "ready")
		if err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		if _, err := h.Start("no-such-program"); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("error: %v", err)
		}
	})
}

// The machine's bpffs must be the one that a process sees: nothing is gone
// when the next command runs.
func TestSharedMounts(t *testing.T) {
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{{Name: "a"}, {Name: "b"}}})
	dir := c.Host("a").PinDir()
	tb.Run(t, c.Host("a"), "mkdir", dir)
	tb.Run(t, c.Host("b"), "test", "-d", dir)
}

func TestSysctlsBelongToTheHost(t *testing.T) {
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "a", Sysctls: map[string]string{"net.ipv4.conf.lo.arp_ignore": "1"}},
		{Name: "b"},
	}})
	for host, want := range map[string]string{"a": "1", "b": "0"} {
		got, err := c.Host(host).ReadSysctl("net.ipv4.conf.lo.arp_ignore")
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", host, got, err, want)
		}
	}
	if err := c.Host("a").Sysctl("net.ipv4.conf.eth9.arp_ignore", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing interface: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]testenv.Options{
		"no name":     {Hosts: []testenv.HostSpec{{}}},
		"long name":   {Hosts: []testenv.HostSpec{{Name: "a-name-of-17-byte"}}},
		"twice":       {Hosts: []testenv.HostSpec{{Name: "a"}, {Name: "a"}}},
		"bad route":   {Hosts: []testenv.HostSpec{{Name: "a", Gateway: netip.MustParseAddr("10.0.0.1")}}},
		"bad sysctl":  {Hosts: []testenv.HostSpec{{Name: "a", Sysctls: map[string]string{"net.nope": "1"}}}},
		"bad address": {Hosts: []testenv.HostSpec{{Name: "a", NICs: []testenv.NIC{{Addrs: make([]netip.Prefix, 1)}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := testenv.New(o)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			t.Log(err)
		})
	}
	if left := leftovers("lvxt-" + strconv.Itoa(os.Getpid()) + "-"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRoutedHop(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1, Routed: true})
	big := []string{"ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1400", "172.25.0.12"}
	tb.Run(t, c.Host("client"), big...)
	if err := c.SetHopMTU(1280); err != nil {
		t.Fatal(err)
	}
	atReal := tb.Capture(t, c.Host("r1"), "eth0")
	out, err := c.Host("client").Run(t.Context(), big...)
	if err == nil || !strings.Contains(out, "mtu = 1280") {
		t.Errorf("client: %v, %q; want fragmentation needed", err, out)
	}
	// The way back: the real's own long packet meets the same hop.
	_, _ = c.Host("r1").Run(t.Context(), "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", "10.25.0.50")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = atReal.Wait(ctx, func(f testenv.Frame) bool {
		icmp, ok := f.Packet().Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		return ok && icmp.TypeCode == layers.CreateICMPv4TypeCode(3, 4) && icmp.Seq == 1280
	})
	if err != nil {
		t.Errorf("real: %v", err)
	}
	if err := c.SetHopMTU(0); err != nil {
		t.Fatal(err)
	}
	tb.Run(t, c.Host("client"), "ping", "-c", "1", "-W", "5", "-s", "1400", "172.25.0.12")
}

func TestLinkDown(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	if err := c.Host("r1").SetLink("eth0", false); err != nil {
		t.Fatal(err)
	}
	tb.Eventually(t, patience, func() error {
		port, err := c.Switch().Netlink.LinkByName("r1")
		if err != nil || port.Attrs().OperState == netlink.OperUp {
			return fmt.Errorf("port r1: %v, %v", port, err)
		}
		return nil
	})
	if err := c.Host("r1").SetLink("eth0", true); err != nil {
		t.Fatal(err)
	}
	tb.Run(t, c.Host("d1"), "ping", "-c", "1", "-W", "10", "172.25.0.12")
}

func TestDialAndListen(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	l, err := c.Host("r1").Listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Host("client").Dial(t.Context(), "tcp", "172.25.0.12:7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	again, err := c.Host("client").Dial(t.Context(), "tcp", "172.25.0.12:7")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if first, next := conn.LocalAddr().(*net.TCPAddr).Port, again.LocalAddr().(*net.TCPAddr).Port; next != first+1 {
		t.Errorf("connections come from ports %d and %d, want each port in turn", first, next)
	}
	if from := got.RemoteAddr().(*net.TCPAddr).IP.String(); from != "172.25.0.50" {
		t.Errorf("client is %s", from)
	}
	if a := c.Host("client").Addr("eth0"); a != netip.MustParseAddr("172.25.0.50") {
		t.Errorf("Addr = %s", a)
	}
	if m := c.Host("client").MAC("eth0").String(); m != "02:00:ac:19:00:32" {
		t.Errorf("MAC = %s", m)
	}
}
