package demo

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// vip6 is the VIP of IPv6, beside [vip].
const vip6 = "fd25::100"

// bothFamilies is a service of IPv4, and one of IPv6 with the same reals.
func bothFamilies() string {
	return twoReals("web", http80, "rr", "", 1, 1) + `  - name: web6
    listen: ["[` + vip6 + `]:80/tcp"]
    scheduler: rr
    reals:
      - {address: "fd25::12"}
      - {address: "fd25::13"}
`
}

// enableIPv6 gives every host an IPv6 address, and the reals the VIP.
func (s *stage) enableIPv6(ctx context.Context) error {
	for _, name := range []string{"client", "d1", "r1", "r2"} {
		h := s.Cluster.Host(name)
		if err := h.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0"); err != nil {
			return err
		}
		if err := h.AddAddr("eth0", address6(h)); err != nil {
			return err
		}
		if !strings.HasPrefix(name, "r") {
			continue
		}
		if _, err := h.Run(ctx, s.Self, "real", "up", "--vip", vip6, "--state", filepath.Join(h.Dir(), "real6.json")); err != nil {
			return fmt.Errorf("%s: lvx real up: %w", name, err)
		}
	}
	return nil
}

// address6 is the IPv6 address of a host, which ends as its IPv4 one does.
func address6(h *testenv.Host) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd25::%d/64", h.Addr("eth0").As4()[3]))
}

// viaIPv6 shows the IPv6 service that [roundRobin] has beside that of IPv4.
func viaIPv6(s *stage) error {
	s.check("4 requests by IPv6", s.Curl(4, "http://["+vip6+"]"), "r2 r1 r2 r1")
	client, err := s.Get("http://["+vip6+"]/client", rig.Patience)
	if err != nil {
		return err
	}
	s.check("address that a real's log shows", client, "fd25::50")
	return nil
}

const inGenericMode = "xdp_mode: generic\n"

// genericMode has both families served where a driver takes no XDP program.
func genericMode(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", inGenericMode+bothFamilies()); err != nil {
		return err
	}
	for _, v := range []struct{ family, url string }{{"IPv4", "http://" + vip}, {"IPv6", "http://[" + vip6 + "]"}} {
		got := s.Curl(2, v.url)
		s.verify("2 requests by "+v.family, got, "both reals", got == "r1 r2" || got == "r2 r1")
	}
	return nil
}
