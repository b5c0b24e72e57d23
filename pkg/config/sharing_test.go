package config_test

import (
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
)

// Which services' connections sync: leaves out.
func TestWarningOfMixedFamilies(t *testing.T) {
	const services = `
services:
  - name: web
    listen: ["192.0.2.100:80/tcp"]
    forward: ipip
    reals:
      - {address: 192.0.2.11}
`
	const sync = "sync: {interface: eth0, peers: [192.0.2.2], key_file: /etc/lvx/sync.key}"
	const warning = `lvx.yaml:8: services[0].reals: connections to 2001:db8::11, which is of another family than the VIP, are not told to other directors (sync: an entry has one family), and kernel IPVS starts no sync daemon beside such a real`
	mixed := services + "      - {address: \"2001:db8::11\"}\n"
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"one family":           {sync + services, nil},
		"mixed":                {sync + mixed, []string{warning}},
		"mixed, without sync:": {mixed[1:], nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse("lvx.yaml", []byte("interface: eth0\n"+test.text))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(cfg.Warnings, test.want) {
				t.Errorf("warnings %q, want %q", cfg.Warnings, test.want)
			}
		})
	}
}
