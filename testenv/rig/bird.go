package rig

import (
	"fmt"
	"os"
	"path/filepath"
)

// birdConfig is what a router of directors does: flows are spread over all that
// announce a VIP, and a director that hangs is given up after 300 ms. What it
// imports is filled in.
const birdConfig = `
router id 172.25.0.1;
protocol device {}
protocol kernel { merge paths on; ipv4 { export where source = RTS_BGP; }; }
protocol bfd { interface "eth0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
template bgp director {
  local 172.25.0.1 as 65000;
  hold time 9;
  direct;
  bfd on;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import %s; export none; };
}
`

// StartBIRD runs BIRD on the router of a routed cluster, as 65000, with directors
// as its neighbours, as 65010. imports is BIRD's word for what it takes from them:
// "all", or a filter.
func (r *Rig) StartBIRD(imports string, directors ...string) error {
	conf := fmt.Sprintf(birdConfig, imports)
	for _, d := range directors {
		conf += fmt.Sprintf("protocol bgp %s from director { neighbor %s as 65010; }\n", d, r.Cluster.Host(d).Addr("eth0"))
	}
	return r.RunBIRD("bird", conf)
}

// RunBIRD runs BIRD on the router of a routed cluster with a configuration, which
// is NAME.conf in the router's directory, beside NAME.ctl, its socket.
func (r *Rig) RunBIRD(name, conf string) error {
	router := r.Cluster.Host("router")
	in := func(ending string) string { return filepath.Join(router.Dir(), name+ending) }
	if err := os.WriteFile(in(".conf"), []byte(conf), 0o600); err != nil {
		return err
	}
	_, err := router.Start("bird", "-f", "-c", in(".conf"), "-s", in(".ctl"), "-P", in(".pid"))
	return err
}
