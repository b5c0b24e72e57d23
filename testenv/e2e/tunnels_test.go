package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// crossing is a service whose packets come to r1 in a tunnel.
type crossing struct {
	name, vip, real, forward string
}

var crossings = []crossing{
	{"gue4in4", rig.VIP, "172.25.0.12", "gue"},
	{"gre4in4", rig.VIP, "172.25.0.12", "gre"},
	{"ipip4in6", rig.VIP, "fd25::12", "ipip"},
	{"gue4in6", rig.VIP, "fd25::12", "gue"},
	{"gre4in6", rig.VIP, "fd25::12", "gre"},
	{"ipip6in4", vip6, "172.25.0.12", "ipip"},
	{"gue6in4", vip6, "172.25.0.12", "gue"},
	{"gre6in4", vip6, "172.25.0.12", "gre"},
	{"ipip6in6", vip6, "fd25::12", "ipip"},
	{"gue6in6", vip6, "fd25::12", "gue"},
	{"gre6in6", vip6, "fd25::12", "gre"},
}

// Files, and connections that are open together, through every tunnel, of either family
// in either. What the client sends is
// first too long for the tunnel: the director says so in the client's family.
func TestTunnelsOfEveryKind(t *testing.T) {
	t.Parallel() // it waits most of its time
	size, together := tunnelBytes()/8, 30
	if os.Getenv("LVX_LOAD") != "" {
		size, together = big, 1000
	}
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig6(t)
			r1 := r.Cluster.Host("r1")
			must(t, r1.Decapsulate("eth0"))
			var config, listen strings.Builder
			for i, c := range crossings {
				fmt.Fprintf(&config, "  - name: %s\n    listen: [\"%s/tcp\", \"%s/tcp\"]\n    forward: %s\n    reals: [{address: \"%s\"}]\n    check: {type: tcp, interval: 1s}\n",
					c.name, c.at(i), c.web(i), c.forward, c.real)
				_, err := r1.ServeWeb(fmt.Sprintf(":%d", c.web(i).Port()))
				must(t, err)
				fmt.Fprintf(&listen, "[::]:%d ipv6only=off; listen ", c.at(i).Port())
			}
			dir := startNginx(t, r1, listen.String()+"127.0.0.1:7999")
			must(t, r.Direct(t.Context(), "d1", "backend: xdp\nxdp_mode: "+mode+"\nservices:\n"+config.String()))
			for i, c := range crossings {
				transferFiles(t, r.Client, "http://"+c.at(i).String()+"/", dir, size)
				askTogether(t, r, c.web(i).String(), together)
				out, err := r.LVX(t.Context(), "d1", "explain", "tcp", c.client(), c.at(i).String())
				must(t, err)
				if !strings.Contains(out, " to "+c.real) {
					t.Errorf("%s: explain does not name the tunnel:\n%s", c.name, out)
				}
			}
			wantCounted(t, r, "answered_too_big")
			// What does not decapsulate any more is down.
			run(t, r1, "ip", "link", "set", "eth0", "xdpgeneric", "off")
			eventually(t, func() error {
				out, err := r.LVX(t.Context(), "d1", "status")
				for _, c := range crossings {
					says := fmt.Sprintf("connects on %s but not through VIP %s in a tunnel", c.real, c.vip)
					if err == nil && !strings.Contains(out, says) {
						err = fmt.Errorf("%s: no %q in\n%s", c.name, says, out)
					}
				}
				return err
			})
		})
	}
}

// at is where the i-th crossing's service listens.
func (c crossing) at(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(c.vip), uint16(8081+i))
}

// web is where it has a web server that says its name.
func (c crossing) web(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(c.vip), uint16(9081+i))
}

// client is one of the VIP's family.
func (c crossing) client() string {
	if c.vip == vip6 {
		return "[fd25::50]:3000"
	}
	return "172.25.0.50:3000"
}
