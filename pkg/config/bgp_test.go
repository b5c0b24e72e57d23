package config_test

import (
	"strings"
	"testing"
)

// What several directors announce and cannot carry on for one another is said.
func TestWarningsOfAnnouncedServices(t *testing.T) {
	const (
		header = "interface: eth0\nbgp: {asn: 65010, peers: [{address: 192.0.2.254, asn: 65000}]}\n"
		sync   = "sync: {peers: [192.0.2.1, 192.0.2.2], key_file: /etc/lvx/sync.key}\n"
		sloppy = "sloppy_tcp: true\n"
		room   = "tables: {flows: 3_000_000}\n"
	)
	service := func(listen, keys string) string {
		return "services: [{name: web, listen: [" + listen + "], " + keys + ", reals: [{address: 192.0.2.11}]}]\n"
	}
	const tcp, udp = `"198.51.100.100:80/tcp"`, `"198.51.100.100:53/udp"`
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"mh, any packet opens":         {header + sloppy + service(tcp, "scheduler: mh"), nil},
		"mh, UDP":                      {header + service(udp, "scheduler: mh"), nil},
		"mh, a SYN opens":              {header + service(tcp, "scheduler: mh"), []string{"service web: connections go on at another director only with sloppy_tcp"}},
		"mh, persistent":               {header + sloppy + service(tcp, "scheduler: mh, persistence: {}"), []string{"service web: clients are bound to a real"}},
		"rr":                           {header + sloppy + service(tcp, "scheduler: rr"), []string{"service web: connections of rr go on at another director"}},
		"wlc":                          {header + sloppy + service(tcp, "scheduler: wlc"), []string{"service web: connections of wlc go on"}},
		"no scheduler is named":        {header + sloppy + service(tcp, "quorum: 1"), []string{"go on at another director"}},
		"rr, sync, room said":          {header + sync + room + service(tcp, "scheduler: rr"), nil},
		"rr, sync, room not said":      {header + sync + service(tcp, "scheduler: rr"), []string{"room for 1000000 here"}},
		"rr, sync with kernel IPVS":    {header + "sync: {syncid: 51}\n" + service(tcp, "scheduler: rr"), []string{"only with sync"}},
		"rr, other VIP of a listener":  {header + service(`"192.0.2.1:80/tcp", `+tcp, "scheduler: rr") + "vrrp: [{name: VI_1, virtual_router_id: 51, addresses: [192.0.2.1/24]}]\n", []string{"service web: connections of rr"}},
		"rr, VIP of a virtual router":  {header + service(tcp, "scheduler: rr") + "vrrp: [{name: VI_1, virtual_router_id: 51, addresses: [198.51.100.100/24]}]\n", nil},
		"rr, nothing is announced":     {"interface: eth0\n" + service(tcp, "scheduler: rr"), nil},
		"templates alone have no word": {header + sync + "tables: {templates: 1000}\n" + service(tcp, "scheduler: rr"), []string{"set tables.flows"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := parse(t, test.text).Warnings
			if len(got) != len(test.want) {
				t.Fatalf("warnings %q, want %q", got, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("warning %q, want %q", got[i], want)
				}
			}
		})
	}
}
