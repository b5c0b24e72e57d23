package config_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
)

func TestOuterSource(t *testing.T) {
	const (
		own      = "lvx.yaml:2: outer_source: outer_source has no effect with backend: ipvs, whose tunnels come from this host's own address"
		checksum = "lvx.yaml:7: services[0].reals: tunnels with a checksum come from this host's own address, not from outer_source: the kernel's IPVS makes them"
		services = `
services:
  - name: web
    listen: ["192.0.2.100:80/tcp"]
    reals:
`
	)
	for name, test := range map[string]struct {
		text     string
		want     []netip.Prefix
		warnings []string
	}{
		"an address":            {"outer_source: 192.0.2.10", []netip.Prefix{prefix("192.0.2.10/32")}, nil},
		"a network":             {"outer_source: 192.0.2.64/26", []netip.Prefix{prefix("192.0.2.64/26")}, nil},
		"one of each family":    {`outer_source: ["2001:db8::/64", 192.0.2.10]`, []netip.Prefix{prefix("2001:db8::/64"), prefix("192.0.2.10/32")}, nil},
		"none":                  {"outer_source: []", nil, nil},
		"a tunnel in XDP":       {"outer_source: 192.0.2.10" + services + "      - {address: 192.0.2.11, forward: gue}", []netip.Prefix{prefix("192.0.2.10/32")}, nil},
		"a tunnel of IPVS":      {"outer_source: 192.0.2.10" + services + "      - {address: 192.0.2.11, forward: gue, tunnel: {checksum: csum}}", []netip.Prefix{prefix("192.0.2.10/32")}, []string{checksum}},
		"no XDP":                {"outer_source: 192.0.2.10\nbackend: ipvs", []netip.Prefix{prefix("192.0.2.10/32")}, []string{own}},
		"IPVS without the key":  {"backend: ipvs", nil, nil},
		"a checksum without it": {services + "      - {address: 192.0.2.11, forward: gue, tunnel: {checksum: csum}}", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse("lvx.yaml", []byte("interface: eth0\n"+test.text+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(cfg.OuterSources, test.want) {
				t.Errorf("%v, want %v", cfg.OuterSources, test.want)
			}
			if !slices.Equal(cfg.Warnings, test.warnings) {
				t.Errorf("warnings %q, want %q", cfg.Warnings, test.warnings)
			}
		})
	}
}
