package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/cloudflare/ipvs"
)

// errNoService is what the kernel says about a real of a service that is not
// there (ip_vs_ctl.c: ESRCH).
var errNoService = syscall.ESRCH

// Available returns why kernel IPVS cannot be used here, nil if it can. It
// loads nothing.
func Available() error {
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "modprobe", "-D", "ip_vs").CombinedOutput(); err != nil {
		return missingModule("ip_vs", fmt.Errorf("modprobe: %w: %.200s", err, strings.TrimSpace(string(out))))
	}
	return nil
}

// dial opens the netlink connection. The kernel may load the module by
// itself when it is asked for the family; if not, modprobe does.
func dial(ctx context.Context) (tables, error) {
	c, err := ipvs.New()
	if err == nil {
		return client{c}, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("kernel IPVS: netlink: %w (needs CAP_NET_ADMIN)", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "modprobe", "ip_vs").CombinedOutput(); err != nil {
		return nil, missingModule("ip_vs", fmt.Errorf("modprobe: %w: %.200s", err, strings.TrimSpace(string(out))))
	}
	if c, err = ipvs.New(); err != nil {
		return nil, missingModule("ip_vs", err)
	}
	return client{c}, nil
}

// client is a netlink connection with the Close that its interface lacks.
type client struct{ ipvs.Client }

func (c client) Close() error {
	if closer, ok := c.Client.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

func missingModule(name string, err error) error {
	return fmt.Errorf("kernel IPVS: module %s for kernel %s: %w (install the package with the kernel's network modules, or use backend: xdp)", name, release(), err)
}

// release is the running kernel's, for messages.
func release() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

// explainErr turns the kernel's number for an unknown scheduler into what is
// missing: it has tried to load ip_vs_NAME by itself (ip_vs_scheduler_get).
func explainErr(err error, v virtual) error {
	if errors.Is(err, os.ErrNotExist) {
		return missingModule("ip_vs_"+v.svc.Scheduler, err)
	}
	return err
}

func netipPort(d ipvs.Destination) netip.AddrPort { return netip.AddrPortFrom(d.Address, d.Port) }
