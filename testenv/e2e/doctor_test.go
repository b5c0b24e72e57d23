package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/pkg/warnings"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// examine runs lvx doctor on d1: what is wrong, as "kind subject".
func examine(t *testing.T, r *rig.Rig) []string {
	t.Helper()
	d1 := r.Cluster.Host("d1")
	out, err := d1.Run(t.Context(), lvx, "doctor", "--json", "--socket", r.Socket("d1"), "-c", d1.Dir()+"/lvx.yaml")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var found []warnings.Warning
	must(t, json.Unmarshal([]byte(out), &found))
	var wrong []string
	for _, w := range found {
		if !w.Note {
			wrong = append(wrong, w.Kind+" "+w.Subject)
		}
	}
	if failed := err != nil; failed != (len(wrong) > 0) {
		t.Errorf("exit status %v with %q", err, wrong)
	}
	return wrong
}

// Each mistake is planted, named with its subject, and cured.
func TestDoctor(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1, r1, client, sw := r.Cluster.Host("d1"), r.Cluster.Host("r1"), r.Client, r.Cluster.Switch()
	healthy := service("sorry_server: 127.0.0.1")
	must(t, r.Direct(t.Context(), "d1", healthy))
	if found := examine(t, r); len(found) > 0 {
		t.Fatalf("a healthy director: %q", found)
	}

	vip := netip.PrefixFrom(testenv.VIP, 32)
	arp := func(value string) error {
		return errors.Join(r1.Sysctl("net.ipv4.conf.all.arp_ignore", value), r1.Sysctl("net.ipv4.conf.eth0.arp_ignore", value))
	}
	cmd := func(h *testenv.Host, line string) error {
		_, err := h.Run(t.Context(), strings.Fields(line)...)
		return err
	}
	const port = "d1" // of the switch
	for _, m := range []mistake{
		{
			"a real answers ARP for the VIP", func() error { return arp("0") }, func() error { return arp("1") },
			"real-answers-arp real 172.25.0.12",
		},
		{
			"another host has the VIP", func() error { return client.AddAddr("eth0", vip) }, func() error { return client.DelAddr("eth0", vip) },
			"vip-elsewhere VIP 172.25.0.100",
		},
		{
			"a rule marks packets too late",
			func() error {
				return cmd(d1, "iptables -t mangle -A PREROUTING -d 172.25.0.100 -p tcp --dport 80 -j MARK --set-mark 10")
			},
			func() error { return cmd(d1, "iptables -t mangle -F") },
			"bypassed-mark firewall",
		},
		{
			"the way to a real is narrow",
			func() error { return cmd(d1, "ip route add 172.25.0.13/32 dev eth0 mtu 1400") },
			func() error { return cmd(d1, "ip route del 172.25.0.13/32 dev eth0") },
			"small-mtu real 172.25.0.13",
		},
		{
			"a gateway is before a real",
			func() error { return cmd(d1, "ip route add 172.25.0.13/32 via 172.25.0.12") },
			func() error { return cmd(d1, "ip route del 172.25.0.13/32") },
			"real-off-segment real 172.25.0.13",
		},
		{
			"the other end of the veth has no program",
			func() error { return cmd(sw, "ip link set dev "+port+" xdp off") },
			func() error {
				return sw.Do(func() error {
					link, err := netlink.LinkByName(port)
					if err != nil {
						return err
					}
					return testenv.PassXDP(link)
				})
			},
			"lost-frames interface eth0",
		},
		{
			"the kernel refuses clients of the sorry server",
			func() error {
				return errors.Join(cmd(d1, "ip route add default dev lo"), d1.Sysctl("net.ipv4.conf.all.rp_filter", "1"))
			},
			func() error {
				return errors.Join(cmd(d1, "ip route del default dev lo"), d1.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
			},
			"rp-filter interface eth0",
		},
	} {
		m.check(t, r)
	}
}

// mistake is one that the doctor knows, and how it is made and mended.
type mistake struct {
	name        string
	plant, cure func() error
	want        string // "kind subject"
}

// check expects the mistake to be named while it is there, and nothing after.
func (m mistake) check(t *testing.T, r *rig.Rig) {
	t.Helper()
	t.Run(m.name, func(t *testing.T) {
		must(t, m.plant())
		eventually(t, func() error {
			if found := examine(t, r); !slices.Contains(found, m.want) {
				return fmt.Errorf("%q, want %s", found, m.want)
			}
			return nil
		})
		must(t, m.cure())
		eventually(t, func() error {
			if found := examine(t, r); len(found) > 0 {
				return fmt.Errorf("%q are left after the cure", found)
			}
			return nil
		})
	})
}

// On a veth whose other end has no program, native mode would forward nothing:
// lvx serves in generic mode, and says so.
func TestVethWithoutPeerProgram(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	run(t, r.Cluster.Switch(), "ip", "link", "set", "dev", "d1", "xdp", "off")
	file, err := r.Config("d1", service(""))
	must(t, err)
	if out := run(t, r.Cluster.Host("d1"), lvx, "check", "-c", file); !strings.Contains(out, "generic on eth0 (the other end of this veth has no XDP program") {
		t.Errorf("lvx check does not say how it will serve:\n%s", out)
	}
	must(t, r.Direct(t.Context(), "d1", service("")))
	realsUp(t, r, "r1", "r2")
	out, err := r.LVX(t.Context(), "d1", "status")
	must(t, err)
	if !strings.Contains(out, "generic") || !strings.Contains(out, "the other end of this veth has no XDP program") {
		t.Errorf("lvx status does not say why:\n%s", out)
	}
	if found := examine(t, r); len(found) > 0 {
		t.Errorf("generic mode loses nothing, yet lvx doctor finds %q", found)
	}
}
