package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A VIP that a live host has is not taken from it: it alone is withheld, with
// the host's MAC in log and status, and served once the host has let go of it.
func TestVIPOfAnotherHost(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	taken := netip.MustParsePrefix("172.25.0.102/32")
	must(t, r.Client.AddAddr("eth0", taken))
	second := "  - name: other\n    listen: [\"172.25.0.102:80/tcp\"]\n    reals: [{address: 172.25.0.12}]\n"
	must(t, r.Direct(t.Context(), "d1", service("")+second))
	d1 := r.Cluster.Host("d1")
	if out := run(t, d1, "ip", "addr", "show"); strings.Contains(out, "172.25.0.102") || !strings.Contains(out, rig.VIP) {
		t.Errorf("the address of a live host was taken, or the other VIP was not:\n%s", out)
	}
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("the other VIP: %s", got)
	}
	says := "withheld: another host (" + r.Client.MAC("eth0").String() + ") has it"
	out, err := r.LVX(t.Context(), "d1", "status")
	must(t, err)
	for what, text := range map[string]string{"status": out, "log": r.Daemons["d1"].Output()} {
		if !strings.Contains(text, says) {
			t.Errorf("%s does not say %q:\n%s", what, says, text)
		}
	}
	must(t, r.Client.DelAddr("eth0", taken))
	eventually(t, func() error {
		if out := run(t, d1, "ip", "addr", "show"); !strings.Contains(out, "172.25.0.102/32") {
			return fmt.Errorf("the host let go of the VIP, and it is not here:\n%s", out)
		}
		return nil
	})
	out, err = r.LVX(t.Context(), "d1", "status")
	must(t, err)
	if strings.Contains(out, says) {
		t.Errorf("the warning outlives its cause:\n%s", out)
	}
}

// A real server that answers ARP for the VIP is named, and does not keep the
// VIP from serving.
func TestVIPThatARealAnswersFor(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	r1 := r.Cluster.Host("r1")
	for _, key := range []string{"all", "eth0"} {
		must(t, r1.Sysctl("net.ipv4.conf."+key+".arp_ignore", "0"))
	}
	must(t, r.Direct(t.Context(), "d1", service("")))
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", "status")
		if err != nil || !strings.Contains(out, "172.25.0.12 ("+r1.MAC("eth0").String()+") answers ARP for it") {
			return fmt.Errorf("status does not name the real: %v\n%s", err, out)
		}
		return nil
	})
	if out := run(t, r.Cluster.Host("d1"), "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, rig.VIP+"/32") {
		t.Errorf("the VIP is withheld:\n%s", out)
	}
}

// Two interfaces: each VIP goes where its network is, and is announced there.
func TestVIPsInterface(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	run(t, d1, "ip", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
	run(t, d1, "ip", "link", "set", "veth7", "up")
	run(t, d1, "ip", "link", "set", "veth8", "up")
	must(t, d1.AddAddr("veth7", netip.MustParsePrefix("10.77.0.1/24")))
	body := strings.Replace(service(""), "listen: [\"", "listen: [\"10.77.0.100:80/tcp\", \"", 1)
	r.Interfaces = []string{"eth0", "veth7"}
	_, err := r.Config("d1", body)
	must(t, err)
	must(t, r.Start(t.Context(), "d1"))
	for nic, want := range map[string]string{"eth0": rig.VIP + "/32", "veth7": "10.77.0.100/32"} {
		out := run(t, d1, "ip", "addr", "show", "dev", nic)
		if !strings.Contains(out, want) || strings.Count(out, "/32") != 1 {
			t.Errorf("%s, want %s alone:\n%s", nic, want, out)
		}
	}
	// An interface that is made anew gets its VIP back by the event.
	run(t, d1, "ip", "link", "del", "veth7")
	run(t, d1, "ip", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
	run(t, d1, "ip", "link", "set", "veth7", "up")
	must(t, d1.AddAddr("veth7", netip.MustParsePrefix("10.77.0.1/24")))
	eventually(t, func() error {
		if out := run(t, d1, "ip", "addr", "show", "dev", "veth7"); !strings.Contains(out, "10.77.0.100/32") {
			return fmt.Errorf("the VIP is not back:\n%s", out)
		}
		return nil
	})
}
