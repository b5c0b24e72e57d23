package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// Every metric that a document names is there once a director has what it is of:
// a virtual router, other directors, routers, sessions of BFD, and packets.
func TestFault09DocumentedMetrics(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 2})
	d1 := r.Cluster.Host("d1")
	key := filepath.Join(d1.Dir(), "sync.key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("ab", 32)), 0o600))
	body := checked("type: tcp") + `vrrp:
  - {name: VI_1, virtual_router_id: 51, version: 3, advert_interval: 100ms, addresses: [172.25.0.101/24]}
  - {name: VI_2, virtual_router_id: 52, version: 3, advert_interval: 100ms, addresses: [172.25.0.103/24]}
sync: {peers: [172.25.0.11, 172.25.0.14], key_file: ` + key + `}
bgp: {asn: 65010, peers: [{address: 172.25.0.50, asn: 65000}]}
bfd: [{name: router, neighbour: 172.25.0.51}]
`
	must(t, r.Direct(t.Context(), "d1", body))
	must(t, r.Direct(t.Context(), "d2", `vrrp:
  - {name: VI_1, virtual_router_id: 51, version: 3, advert_interval: 100ms, priority: 200, addresses: [172.25.0.101/24]}
  - {name: VI_2, virtual_router_id: 52, version: 2, auth_pass: other, priority: 200, addresses: [172.25.0.103/24]}
`+strings.Replace(service(""), rig.VIP, "172.25.0.104", 1)))
	says(t, r, "status", "VI_1  BACKUP")
	says(t, r, "metrics", "lvx_vrrp_adverts_rejected_total")
	realsUp(t, r, "r1", "r2")
	run(t, d1, "env", "LVX_SOCKET="+r.Socket("d1"), lvx, "ipvsadm", "-A", "-t", "172.25.0.102:80")
	doc, err := os.ReadFile("../../docs/metrics.md")
	must(t, err)
	out, err := r.LVX(t.Context(), "d1", "metrics")
	must(t, err)
	rows := regexp.MustCompile("(?m)^\\| `(lvx_[a-z0-9_]+)` \\|").FindAllStringSubmatch(string(doc), -1)
	if len(rows) < 30 {
		t.Errorf("%d metrics are documented", len(rows))
	}
	for _, row := range rows {
		if !regexp.MustCompile(`(?m)^` + row[1] + `[ {]`).MatchString(out) {
			t.Errorf("%s is documented, and not there", row[1])
		}
	}
}
