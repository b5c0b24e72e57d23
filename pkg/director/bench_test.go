package director

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// large is a configuration of many services with five checked reals each.
func large(services int) (*config.Config, map[health.Target]health.Status) {
	cfg := &config.Config{Interfaces: []string{"eth0"}}
	for i := range services {
		svc := service(fmt.Sprintf("service-%05d", i), 1, 1, 1, 1, 1)
		svc.Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: uint16(i + 1), Last: uint16(i + 1)}}
		for n := range svc.Reals {
			svc.Reals[n].Addr = netip.AddrFrom4([4]byte{10, 1, byte(i / 50), byte(i%50*5 + n)})
		}
		cfg.Services = append(cfg.Services, svc)
	}
	up := map[health.Target]health.Status{}
	for _, t := range Targets(cfg, true) {
		up[t] = health.Status{Known: true, Up: true}
	}
	return cfg, up
}

// BenchmarkPlan is what every event of health, VRRP or an operator costs.
func BenchmarkPlan(b *testing.B) {
	cfg, up := large(2000)
	mem := Memory{}
	for b.Loop() {
		out := Plan(Input{Config: cfg, Health: up, Memory: mem, ProbeVIP: true})
		mem = out.Memory
	}
}

func BenchmarkTargets(b *testing.B) {
	cfg, _ := large(2000)
	for b.Loop() {
		_ = Targets(cfg, true)
	}
}
