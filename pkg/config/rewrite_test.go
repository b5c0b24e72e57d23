package config_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

const rewritable = `# the director of the shop
interface: eth0   # the VIPs' segment
services:
  - name: web
    # one address
    listen: ["192.0.2.1:80/tcp"]
    scheduler: wrr # by weight
    reals: &reals
      - {address: 192.0.2.11, weight: 1} # the old one
      - {address: 192.0.2.12, weight: 2, check: {type: http}}
    check: {type: tcp}
  - name: ssl
    listen: ["192.0.2.1:443/tcp"]
    reals: *reals
  - name: dns
    listen: ["192.0.2.1:53/udp"]
    reals: [{address: 192.0.2.13}]
`

// What is edited is edited in one place; all else stays as it is written.
func TestRewrite(t *testing.T) {
	from := parse(t, rewritable)
	to := *from
	to.Timeouts.TCP = 100 * time.Second
	web := from.Services[0]
	web.Scheduler, web.Persistence = lb.RR, lb.Persistence{Timeout: time.Minute, Prefix: 24}
	web = web.WithReals([]lb.Real{
		{Addr: addr("192.0.2.11"), Weight: 7, Upper: 9, Lower: 3}, {Addr: addr("192.0.2.14"), Weight: 1, Forward: lb.NAT, Port: 8080},
		{Addr: addr("192.0.2.15"), Weight: 1, Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GUE, Port: 5555, Checksum: lb.WithChecksum}},
		{Addr: addr("192.0.2.16"), Weight: 1, Forward: lb.Tunnel, Encap: lb.Encap{Kind: lb.GRE}},
	}, []int{0, -1, -1, -1})
	added := config.Service{Service: lb.Service{
		Name: "tcp-2001-db8--1-80", Scheduler: lb.SH, Flags: lb.SHPort, Listeners: []lb.Listener{{Addr: addr("2001:db8::1"), Proto: lb.TCP, First: 80, Last: 80}},
		Reals: []lb.Real{{Addr: addr("2001:db8::11"), Weight: 1}},
	}, OnDown: config.Remove, Quorum: 1}
	to.Services = []config.Service{web, from.Services[1], added}
	got, err := config.Rewrite([]byte(rewritable), from, &to)
	if err != nil {
		t.Fatal(err)
	}
	want := `# the director of the shop
interface: eth0 # the VIPs' segment
services:
  - name: web
    # one address
    listen: ["192.0.2.1:80/tcp"]
    scheduler: rr # by weight
    reals:
      - {address: 192.0.2.11, weight: 7, upper_threshold: 9, lower_threshold: 3} # the old one
      - {address: 192.0.2.14, port: 8080, weight: 1, forward: nat, check: []}
      - {address: 192.0.2.15, weight: 1, forward: gue, tunnel: {port: 5555, checksum: csum}, check: []}
      - {address: 192.0.2.16, weight: 1, forward: gre, tunnel: {checksum: nocsum}, check: []}
    check: {type: tcp}
    persistence: {timeout: 60s, netmask: 24}
  - name: ssl
    listen: ["192.0.2.1:443/tcp"]
    reals:
      - {address: 192.0.2.11, weight: 1} # the old one
      - {address: 192.0.2.12, weight: 2, check: {type: http}}
  - name: tcp-2001-db8--1-80
    listen: ["[2001:db8::1]:80/tcp"]
    scheduler: sh
    flags: [sh-port]
    reals:
      - {address: "2001:db8::11", weight: 1}
timeouts: {tcp: 100s, tcp_fin: 120s, udp: 300s}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What a file cannot say is an error, not another configuration.
func TestRewriteRefuses(t *testing.T) {
	from := parse(t, rewritable)
	to := *from
	to.Services = append([]config.Service{}, from.Services...)
	to.Services[2].Listeners = nil
	if _, err := config.Rewrite([]byte(rewritable), from, &to); err == nil || !strings.Contains(err.Error(), "service dns cannot be written") {
		t.Errorf("other listeners: %v", err)
	}
	to.Services[2] = from.Services[2]
	to.Services = append(to.Services, config.Service{Service: lb.Service{Name: "mark-10", Mark: 10, Scheduler: lb.RR}})
	if _, err := config.Rewrite([]byte(rewritable), from, &to); err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("a service without listeners: %v", err)
	}
	if _, err := config.Rewrite([]byte("- list"), from, from); err == nil {
		t.Error("a list is a configuration")
	}
}

func TestServices(t *testing.T) {
	from := parse(t, rewritable)
	text, err := config.Services(from.Services)
	if err != nil {
		t.Fatal(err)
	}
	again := parse(t, "interface: eth0\n"+string(text))
	for i := range from.Services {
		same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		if diff := cmp.Diff(from.Services[i].Service, again.Services[i].Service, same); diff != "" {
			t.Errorf("-was +written:\n%s", diff)
		}
	}
}

// However the file is written, a rewrite of weights keeps its checks and hooks.
func TestRewriteKeepsWhatIsNotEdited(t *testing.T) {
	for name, text := range map[string]string{
		"lists": `
interface: eth0
services:
  - {name: web, listen: ["192.0.2.1:80/tcp"], reals: [{address: 192.0.2.11, check: {type: http}}, {address: 192.0.2.12}], check: {type: tcp}}
`,
		"a single real": `
interface: eth0
services:
  - name: web
    listen: 192.0.2.1:80/tcp
    reals: {address: 192.0.2.11, check: {type: http}}
`,
		"a single service": `
interface: eth0
services:
  name: web
  listen: 192.0.2.1:80/tcp
  reals: [{address: 192.0.2.11}, {address: 192.0.2.12}]
  check: {type: tcp}
  hooks: {real_down: [/bin/true]}
`,
		"merged maps": `
interface: eth0
services:
  - &web
    name: web
    listen: 192.0.2.1:80/tcp
    reals: [{address: 192.0.2.11, check: {type: http}}, {address: 192.0.2.12}]
    check: {type: tcp}
    hooks: {real_down: [/bin/true]}
  - <<: *web
    name: ssl
    listen: 192.0.2.1:443/tcp
`,
		"merged reals": `
interface: eth0
services:
  - name: web
    listen: 192.0.2.1:80/tcp
    reals:
      - &real {address: 192.0.2.11, weight: 5, check: {type: http}, on_down: quiesce}
      - {<<: *real, address: 192.0.2.12}
`,
	} {
		t.Run(name, func(t *testing.T) {
			from := parse(t, text)
			to := *from
			to.Services = nil
			for _, s := range from.Services {
				var reals []lb.Real
				var at []int
				for i, r := range s.Reals {
					r.Weight += uint16(i) + 1
					reals, at = append(reals, r), append(at, i)
				}
				to.Services = append(to.Services, s.WithReals(reals, at))
			}
			out, err := config.Rewrite([]byte(text), from, &to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(to.Services, parse(t, string(out)).Services,
				cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(config.Service{}, "Line")); diff != "" {
				t.Errorf("-want +got\n%s\n%s", diff, out)
			}
		})
	}
}

// A real of ipvsadm's has no checks, also where no real of the file has the service's.
func TestRewriteAddsRealsWithoutChecks(t *testing.T) {
	text := "interface: eth0\nservices:\n  - {name: web, listen: [\"192.0.2.1:80/tcp\"], check: {type: tcp}, reals: []}\n"
	from := parse(t, text)
	to := *from
	to.Services = []config.Service{from.Services[0].WithReals([]lb.Real{{Addr: addr("192.0.2.11"), Weight: 1}}, []int{-1})}
	out, err := config.Rewrite([]byte(text), from, &to)
	if err != nil {
		t.Fatal(err)
	}
	if checks := parse(t, string(out)).Services[0].Checks; len(checks) != 1 || len(checks[0]) != 0 {
		t.Errorf("checks %v of\n%s", checks, out)
	}
}
