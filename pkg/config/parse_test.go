package config_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

var addresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("lvx.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// What holds when the file says nothing.
func TestDefaults(t *testing.T) {
	cfg := parse(t, `
interface: eth0
services:
  - name: web
    listen: 192.0.2.1:80/tcp
    reals: {address: 192.0.2.11}
    check: {type: http}
vrrp:
  - name: VI_1
    virtual_router_id: 51
    addresses: 192.0.2.1
`)
	want := &config.Config{
		Interfaces: []string{"eth0"},
		Backend:    config.BackendAuto,
		XDPMode:    config.XDPAuto,
		Services: []config.Service{{
			Service: lb.Service{
				Name:      "web",
				Listeners: []lb.Listener{{Addr: addr("192.0.2.1"), Proto: lb.TCP, First: 80, Last: 80}},
				Scheduler: lb.WLC,
				Reals:     []lb.Real{{Addr: addr("192.0.2.11"), Weight: 1}},
			},
			Checks: [][]health.Spec{{{
				Type: health.HTTP, Interval: 6 * time.Second, Timeout: 3 * time.Second, RetryDelay: 6 * time.Second,
				Fall: 3, Rise: 2, Jitter: 0.1, Method: "GET", Path: "/", Status: "200-299",
			}}},
			OnDown: config.Remove,
			Quorum: 1,
			Line:   4,
		}},
		VRRP: []vrrp.Instance{{
			Name: "VI_1", Interface: "eth0", VRID: 51, Version: 2, Priority: 100, AdvertInterval: time.Second,
			Addresses: []netip.Prefix{prefix("192.0.2.1/32")},
		}},
		Admin:            config.Admin{Socket: "/run/lvx/lvx.sock"},
		Tables:           config.Tables{Flows: 1_000_000, Templates: 65_536},
		Timeouts:         lb.Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second},
		ExpireNodestConn: true,
		StateDir:         "/var/lib/lvx",
		PinDir:           "/sys/fs/bpf/lvx",
		StopGrace:        10 * time.Second,
		RuntimeEdits:     config.AllowEdits,
	}
	if diff := cmp.Diff(want, cfg, addresses); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The example that documentation promises.
func TestExample(t *testing.T) {
	cfg := parse(t, `
interface: eth0                 # the VIPs' segment; the XDP program is attached here
backend: auto                   # auto | xdp | ipvs
xdp_mode: auto                  # auto (native, else generic) | native | generic

services:
  - name: web
    listen: ["172.25.0.100:80/tcp", "172.25.0.100:443/tcp"]
    mark: 10
    scheduler: wrr
    persistence: {timeout: 360s, netmask: 255.255.255.255}
    reals:
      - {address: 172.25.0.12, weight: 1}
      - {address: 172.25.0.13, weight: 2, check: {type: http, path: /health}}
    check: {type: tcp, port: 80, interval: 6s, timeout: 3s, fall: 3, rise: 2}
    sorry_server: 127.0.0.1
    deny: [198.51.100.0/24]

vrrp:
  - name: VI_1
    interface: eth0
    virtual_router_id: 51
    version: 2                  # 2 | 3
    priority: 100
    advert_interval: 1s
    auth_pass: "1111"           # version 2; 8 characters on the wire
    preempt: true
    preempt_delay: 0s
    unicast_peers: []
    track_interfaces: []
    addresses: [172.25.0.100/24]

notify: {exec: [/usr/local/bin/on-change], smtp: {server: "127.0.0.1:25", from: lvx@localhost, to: [root@localhost]}, webhook: ""}
admin: {socket: /run/lvx/lvx.sock, listen: ""}    # listen: address for /metrics and the status page
`)
	web := cfg.Services[0]
	if web.Mark != 10 || web.Persistence != (lb.Persistence{Timeout: 360 * time.Second}) || web.Checks[0][0].Type != health.TCP || web.Checks[1][0].Path != "/health" {
		t.Errorf("%+v", web)
	}
	if len(cfg.Warnings) > 0 {
		t.Errorf("warnings %q", cfg.Warnings)
	}
}

// The smallest file there is: a director that does nothing yet.
func TestInterfaceAlone(t *testing.T) {
	for text, want := range map[string][]string{
		"interface: eth0":                     {"eth0"},
		"\ufeffinterface: eth0":               {"eth0"},
		"interface: eth0\r\nservices: []\r\n": {"eth0"},
		"---\ninterface: eth0\n...\n":         {"eth0"},
		"interfaces: [eth0, bond0.100]":       {"eth0", "bond0.100"},
		"interfaces: eth0":                    {"eth0"},
		"{interface: \"0\"}":                  {"0"},
		"interface: 0":                        {"0"},
	} {
		cfg := parse(t, text)
		if !slices.Equal(cfg.Interfaces, want) || cfg.Services != nil || cfg.VRRP != nil || cfg.Warnings != nil {
			t.Errorf("%q: %+v", text, cfg)
		}
	}
}

func TestGlobalKeys(t *testing.T) {
	cfg := parse(t, `
interfaces: [eth0, eth1]
backend: ipvs
xdp_mode: generic
timeouts: {tcp: 8h, tcp_fin: 1s, udp: 1m30s}
sloppy_tcp: true
expire_nodest_conn: false
expire_quiescent_template: true
tables: {flows: 16_777_216, templates: 0x40}
deny: [198.51.100.7, 2001:db8::/32]
allow: 0.0.0.0/0
peers: [192.0.2.3, "2001:db8::3"]
state_dir: /var/lib/other/
pin_dir: /sys/fs/bpf/other
stop_grace: 3s
runtime: refuse
notify:
  exec: ["/usr/local/bin/on-change  --verbose", /bin/true]
  smtp: {server: mail, from: lvx@localhost, to: root@localhost}
  webhook: http://[2001:db8::9]:8080/hook?x=1
admin: {socket: /run/other.sock, listen: ":9100"}
`)
	want := &config.Config{
		Interfaces: []string{"eth0", "eth1"},
		Backend:    config.BackendIPVS,
		XDPMode:    config.XDPGeneric,
		Notify: config.Notify{
			Exec:    []string{"/usr/local/bin/on-change --verbose", "/bin/true"},
			SMTP:    config.SMTP{Server: "mail:25", From: "lvx@localhost", To: []string{"root@localhost"}},
			Webhook: "http://[2001:db8::9]:8080/hook?x=1",
		},
		Admin:                config.Admin{Socket: "/run/other.sock", Listen: ":9100"},
		Tables:               config.Tables{Flows: 1 << 24, Templates: 64},
		Timeouts:             lb.Timeouts{TCP: 8 * time.Hour, TCPFin: time.Second, UDP: 90 * time.Second},
		SloppyTCP:            true,
		ExpireQuiescentTempl: true,
		Deny:                 []netip.Prefix{prefix("198.51.100.7/32"), prefix("2001:db8::/32")},
		Allow:                []netip.Prefix{prefix("0.0.0.0/0")},
		Peers:                []netip.Addr{addr("192.0.2.3"), addr("2001:db8::3")},
		StateDir:             "/var/lib/other",
		PinDir:               "/sys/fs/bpf/other",
		StopGrace:            3 * time.Second,
		RuntimeEdits:         config.RefuseEdits,
	}
	if diff := cmp.Diff(want, cfg, addresses); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestServiceKeys(t *testing.T) {
	cfg := parse(t, `
interface: eth0
services:
  - name: shop.example-1_a
    listen: ["192.0.2.1:80/tcp", "192.0.2.1:8000-8100/tcp", 192.0.2.2]
    mark: 4294967295
    scheduler: mh
    flags: [mh-port, mh-fallback]
    persistence: {netmask: 255.255.255.0}
    on_down: quiesce
    quorum: 3
    hysteresis: 2
    sorry_server: 127.0.0.1
    deny: 203.0.113.0/24
    allow: 0.0.0.0/0
    forward: tunnel
    reals:
      - {address: 192.0.2.11, weight: 65535, upper_threshold: 4294967295, lower_threshold: 7}
      - {address: 192.0.2.12, weight: 0, forward: nat, port: 8080}
      - {address: 192.0.2.12, forward: dr}
`)
	ip, other := addr("192.0.2.1"), addr("192.0.2.2")
	want := lb.Service{
		Name: "shop.example-1_a",
		Listeners: []lb.Listener{
			{Addr: ip, Proto: lb.TCP, First: 80, Last: 80}, {Addr: ip, Proto: lb.TCP, First: 8000, Last: 8100},
			{Addr: other, Proto: lb.TCP}, {Addr: other, Proto: lb.UDP},
		},
		Mark:        1<<32 - 1,
		Scheduler:   lb.MH,
		Flags:       lb.MHPort | lb.MHFallback,
		Persistence: lb.Persistence{Timeout: 360 * time.Second, Prefix: 24},
		Reals: []lb.Real{
			{Addr: addr("192.0.2.11"), Weight: 65535, Forward: lb.Tunnel, Upper: 1<<32 - 1, Lower: 7},
			{Addr: addr("192.0.2.12"), Weight: 0, Forward: lb.NAT, Port: 8080},
			{Addr: addr("192.0.2.12"), Weight: 1},
		},
		Sorry: addr("127.0.0.1"),
		Deny:  []netip.Prefix{prefix("203.0.113.0/24")},
		Allow: []netip.Prefix{prefix("0.0.0.0/0")},
	}
	got := cfg.Services[0]
	if diff := cmp.Diff(want, got.Service, addresses); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.OnDown != config.Quiesce || got.Quorum != 3 || got.Hysteresis != 2 || got.Line != 4 || len(got.Checks) != 3 {
		t.Errorf("%+v", got)
	}
}

// Keys of services that are short for something (ipvs-facts/08 section 11).
func TestServiceShorthands(t *testing.T) {
	of := func(lines string) lb.Service {
		return parse(t, "interface: eth0\nservices:\n- name: s\n"+lines).Services[0].Service
	}
	for text, want := range map[string]lb.Persistence{
		"true":                         {Timeout: 360 * time.Second},
		"false":                        {},
		"{}":                           {Timeout: 360 * time.Second},
		"{timeout: 50s}":               {Timeout: 50 * time.Second},
		"{timeout: 596h31m23s}":        {Timeout: 2147483 * time.Second},
		"{netmask: 255.255.255.255}":   {Timeout: 360 * time.Second},
		"{netmask: 32}":                {Timeout: 360 * time.Second},
		"{netmask: /24}":               {Timeout: 360 * time.Second, Prefix: 24},
		"{netmask: 24, timeout: 1m0s}": {Timeout: time.Minute, Prefix: 24},
	} {
		if got := of("  listen: 192.0.2.1:80/tcp\n  reals: []\n  persistence: " + text).Persistence; got != want {
			t.Errorf("persistence: %s: %+v, want %+v", text, got, want)
		}
	}
	if got := of("  listen: '[2001:db8::1]:80/tcp'\n  reals: []\n  persistence: {netmask: 64}").Persistence.Prefix; got != 64 {
		t.Errorf("netmask of IPv6: %d, want 64", got)
	}
	if got := of("  listen: 192.0.2.1:53/udp\n  reals: []\n  ops: true"); !got.OnePacket {
		t.Errorf("ops: %+v", got)
	}
	if got := of("  listen: 192.0.2.1:80/tcp\n  reals: []\n  scheduler: mh\n  stateless: true"); !got.KeepsNoFlows() {
		t.Errorf("stateless: %+v", got)
	}
	if got := of("  listen: 192.0.2.1:80/tcp\n  reals: [{address: 192.0.2.11, port: 80}]").Reals[0].Port; got != 0 {
		t.Errorf("a real server's port that is the listener's: %d, want 0", got)
	}
}

func TestChecks(t *testing.T) {
	cfg := parse(t, `
interface: eth0
services:
  - name: web
    listen: 192.0.2.1:443/tcp
    check:
      - {type: icmp, interval: 1s, jitter: 0}
      - {type: tcp, port: 8443, via: real, source: 192.0.2.2, retry_delay: 100ms, timeout: 10ms, fall: 1, rise: 1000, jitter: 0.5}
    reals:
      - address: 192.0.2.11
      - address: 192.0.2.12
        check: []
      - address: 192.0.2.13
        check:
          type: https
          method: HEAD
          path: /health?full
          host: www.example.com:443
          sni: www.example.com
          status: 200
          match: "^ok\n"
          skip_verify: true
      - address: 192.0.2.14
        check:
          - {type: exec, argv: [/bin/check, "two words", ""], env: {B: 2, A_1: "x=y"}}
          - {type: udp, port: 53, send: "a\0b", expect: "\x01"}
          - {type: dns, query: example.com., qtype: MX, expect: mail}
`)
	base := health.Spec{Interval: 6 * time.Second, Timeout: 3 * time.Second, RetryDelay: 6 * time.Second, Fall: 3, Rise: 2, Jitter: 0.1}
	spec := func(edit func(*health.Spec)) health.Spec {
		s := base
		edit(&s)
		return s
	}
	want := [][]health.Spec{
		{
			{Type: health.ICMP, Interval: time.Second, Timeout: 3 * time.Second, RetryDelay: time.Second, Fall: 3, Rise: 2, Jitter: 1e-9},
			{
				Type: health.TCP, Port: 8443, Via: health.ViaReal, Source: addr("192.0.2.2"), Interval: 6 * time.Second,
				RetryDelay: 100 * time.Millisecond, Timeout: 10 * time.Millisecond, Fall: 1, Rise: 1000, Jitter: 0.5,
			},
		},
		nil,
		{spec(func(s *health.Spec) {
			s.Type, s.Method, s.Path, s.Host, s.SNI = health.HTTPS, "HEAD", "/health?full", "www.example.com:443", "www.example.com"
			s.Status, s.Match, s.SkipVerify = "200", "^ok\n", true
		})},
		{
			spec(func(s *health.Spec) {
				s.Type, s.Argv, s.Env = health.Exec, "/bin/check\ntwo words\n", "A_1=x=y\nB=2"
			}),
			spec(func(s *health.Spec) { s.Type, s.Port, s.Send, s.Expect = health.UDP, 53, "a\x00b", "\x01" }),
			spec(func(s *health.Spec) { s.Type, s.Query, s.QType, s.Expect = health.DNS, "example.com.", "MX", "mail" }),
		},
	}
	if diff := cmp.Diff(want, cfg.Services[0].Checks, addresses); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRouters(t *testing.T) {
	cfg := parse(t, `
interface: eth0
services:
  - {name: web, listen: 192.0.2.1:80/tcp, reals: {address: 192.0.2.11}}
vrrp:
  - name: VI_1
    interface: eth1
    virtual_router_id: 255
    version: 3
    priority: 255
    advert_interval: 40.95s
    preempt: false
    preempt_delay: 1000s
    startup_delay: 1500ms
    unicast_peers: ["2001:db8::3"]
    track_interfaces: [eth0, {interface: eth2, weight: 253}]
    track_services: web
    track_weight: 20
    sync_group: G
    addresses: ["2001:db8::1/64", 192.0.2.1/24]
  - {name: VI_2, virtual_router_id: 1, sync_group: G, auth_pass: 0123, addresses: 192.0.2.9}
`)
	want := []vrrp.Instance{
		{
			Name: "VI_1", Interface: "eth1", VRID: 255, Version: 3, Priority: 255, AdvertInterval: 40950 * time.Millisecond,
			NoPreempt: true, PreemptDelay: 1000 * time.Second, StartupDelay: 1500 * time.Millisecond,
			UnicastPeers: []netip.Addr{addr("2001:db8::3")}, Track: []vrrp.Track{{Interface: "eth0"}, {Interface: "eth2", Weight: 253}},
			TrackServices: []string{"web"}, TrackWeight: 20, SyncGroup: "G",
			Addresses: []netip.Prefix{prefix("2001:db8::1/64"), prefix("192.0.2.1/24")},
		},
		{
			Name: "VI_2", Interface: "eth0", VRID: 1, Version: 2, Priority: 100, AdvertInterval: time.Second, AuthPass: "0123",
			SyncGroup: "G", Addresses: []netip.Prefix{prefix("192.0.2.9/32")},
		},
	}
	if diff := cmp.Diff(want, cfg.VRRP, addresses); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAnchorsAndMerges(t *testing.T) {
	cfg := parse(t, `
interface: eth0
services:
  - &web
    name: web
    listen: 192.0.2.1:80/tcp
    scheduler: rr
    reals: &reals
      - {address: 192.0.2.11}
    check: &check {type: tcp, fall: 5}
  - {<<: *web, name: alt, listen: 192.0.2.1:8080/tcp}
  - name: both
    listen: 192.0.2.1:81/tcp
    reals: *reals
    check: {<<: [{rise: 7}, *check, {rise: 8, timeout: 1s}], fall: 6}
`)
	alt, both := cfg.Services[1], cfg.Services[2]
	if alt.Scheduler != lb.RR || len(alt.Reals) != 1 || alt.Listeners[0].First != 8080 || alt.Checks[0][0].Fall != 5 {
		t.Errorf("merged service: %+v", alt)
	}
	c := both.Checks[0][0]
	if c.Type != health.TCP || c.Fall != 6 || c.Rise != 7 || c.Timeout != time.Second {
		t.Errorf("merged check: %+v (a map's own keys win, then the first merged one's)", c)
	}
}

// A narrower listener beside a wider one is no mistake.
func TestListenersThatShareAnAddress(t *testing.T) {
	parse(t, `
interface: eth0
services:
  - {name: one, listen: ["192.0.2.1:80/tcp", "192.0.2.1:80/udp"], reals: []}
  - {name: range, listen: ["192.0.2.1:1-100/tcp", "192.0.2.1:50-200/tcp"], reals: []}
  - {name: next, listen: ["192.0.2.1:101-200/tcp"], reals: []}
  - {name: every, listen: ["192.0.2.1"], reals: []}
  - {name: other, listen: ["192.0.2.2:80/tcp"], reals: []}
  - {name: six, listen: ["[2001:db8::1]:80/tcp"], reals: []}
`)
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"services:\n- {name: s, listen: 192.0.2.1:80/tcp, reals: []}", "lvx.yaml:3: services[0].reals: no real servers"},
		{
			"services:\n- {name: s, listen: 192.0.2.1:80/tcp, quorum: 4, hysteresis: 1, reals: {address: 192.0.2.2, weight: 4}}",
			"lvx.yaml:3: services[0].reals: the weights add up to 4, which is less than quorum + hysteresis, 5",
		},
		{
			"services:\n- {name: s, listen: 192.0.2.1:80/tcp, reals: {address: 192.0.2.2}, persistence: {netmask: 4}}",
			"lvx.yaml:3: services[0].persistence.netmask: netmask /4 binds more than 24 bits of clients to one real server",
		},
		{
			"vrrp:\n- {name: V, virtual_router_id: 1, addresses: 192.0.2.1, sync_group: G}",
			`lvx.yaml:3: vrrp[0].sync_group: "G" has one member only`,
		},
	} {
		cfg := parse(t, "interface: eth0\n"+c.text)
		if diff := cmp.Diff([]string{c.want}, cfg.Warnings); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.text, diff)
		}
	}
}

// A password in a file that everybody can read is worth a word.
func TestLoadWarnsOfReadablePassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lvx.yaml")
	for _, c := range []struct {
		mode os.FileMode
		pass string
		want []string
	}{
		{0o644, `"1111"`, []string{path + ": holds auth_pass and everybody can read it, mode 0644 (want chmod o-r)"}},
		{0o640, `"1111"`, nil},
		{0o644, `""`, nil},
	} {
		text := fmt.Sprintf("interface: eth0\nvrrp: {name: V, virtual_router_id: 1, addresses: 192.0.2.1, auth_pass: %s}\n", c.pass)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, cfg.Warnings); diff != "" {
			t.Errorf("mode %#o, password %s (-want +got)\n%s", c.mode, c.pass, diff)
		}
	}
}

// Errors of Load name the path that it was given.
func TestLoadNamesThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lvx.yaml")
	if err := os.WriteFile(path, []byte("interface: eth0\nbackend: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":2: backend: ") {
		t.Error(err)
	}
}

// manyServices is a file of a size that a reload has to cope with.
func manyServices(services, reals int) []byte {
	var b strings.Builder
	b.WriteString("interface: eth0\nservices:\n")
	for i := range services {
		fmt.Fprintf(&b, "  - name: s%d\n    listen: [\"10.1.%d.%d:80/tcp\", \"10.1.%d.%d:443/tcp\"]\n    scheduler: wrr\n    check: {type: tcp, interval: 6s}\n    reals:\n",
			i, i>>8, i&255, i>>8, i&255)
		for j := range reals {
			fmt.Fprintf(&b, "      - {address: 10.2.%d.%d, weight: %d}\n", i&255, j, j+1)
		}
	}
	return []byte(b.String())
}

func TestManyServices(t *testing.T) {
	cfg, err := config.Parse("lvx.yaml", manyServices(2000, 5))
	if err != nil || len(cfg.Services) != 2000 || len(cfg.Services[1999].Reals) != 5 {
		t.Error(err)
	}
}

func BenchmarkParse(b *testing.B) {
	data := manyServices(1000, 10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := config.Parse("lvx.yaml", data); err != nil {
			b.Fatal(err)
		}
	}
}
