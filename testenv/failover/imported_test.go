package failover

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pairFiles are the bodies of a vrrp_instance that keepalived and lvx read
// alike; PEER and SELF stand for the addresses of the two hosts.
var pairFiles = map[string]struct {
	globals, body string
	vips          []string
}{
	"plain":              {"", "advert_int 1\n virtual_ipaddress { 10.99.0.100 }", nil},
	"password":           {"", "authentication {\n auth_type PASS\n auth_pass longer-than-eight }\n virtual_ipaddress { 10.99.0.100/16 }", nil},
	"version 3":          {"", "version 3\n advert_int 0.25\n virtual_ipaddress { 10.99.0.100/16 dev eth0 }", nil},
	"version by default": {"vrrp_version 3", "advert_int 0.5\n virtual_ipaddress { 10.99.0.100/16\n 10.99.0.101/16 }", []string{"10.99.0.101"}},
	"unicast":            {"", "unicast_src_ip SELF\n unicast_peer { PEER }\n virtual_ipaddress { 10.99.0.100 }", nil},
	"unicast, version 3": {"", "version 3\n advert_int 0.3\n unicast_src_ip SELF\n unicast_peer { PEER }\n virtual_ipaddress { 10.99.0.100 }", nil},
	"excluded":           {"", "virtual_ipaddress { 10.99.0.100 }\n virtual_ipaddress_excluded { 10.99.0.102/16\n 2001:db8::102/64 }", []string{"10.99.0.102", "2001:db8::102"}},
	"many addresses":     {"", "virtual_ipaddress { 10.99.0.103\n 10.99.0.100\n 10.99.0.104 label eth0:4 }", []string{"10.99.0.103", "10.99.0.104"}},
	"tracked interface":  {"", "track_interface { lo weight 5 }\n virtual_ipaddress { 10.99.0.100 }", nil},
	"rounded interval":   {"", "advert_int 1.4\n virtual_ipaddress { 10.99.0.100 }", nil},
	"script":             {"}\nvrrp_script ok {\n script /bin/true\n interval 1\n weight 3", "track_script { ok }\n virtual_ipaddress { 10.99.0.100 }", nil},
	"IPv6":               {"", "advert_int 0.5\n virtual_ipaddress { fe80::99:100/64 dev eth0\n 2001:db8::100/64 }", []string{"fe80::99:100", "2001:db8::100"}},
}

// keepalived and lvx, each from the same file, are a pair whichever of them is
// the better one: the better one alone has every address, and the other takes
// over when it stops.
func TestPairsFromOneFile(t *testing.T) {
	t.Parallel()
	if len(pairFiles) < 10 {
		t.Errorf("%d files (want at least 10)", len(pairFiles))
	}
	for name, file := range pairFiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSegment(t)
			conf := func(host, peer string, priority int) string {
				body := strings.NewReplacer("SELF", Addr(host).String(), "PEER", Addr(peer).String()).Replace(file.body)
				text := fmt.Sprintf("global_defs {\n %s\n}\nvrrp_instance VI {\n state BACKUP\n interface eth0\n virtual_router_id 99\n priority %d\n %s\n}\n",
					file.globals, priority, body)
				path := filepath.Join(s.Host(host).Dir(), fmt.Sprintf("keepalived-%d.conf", priority))
				must(t, os.WriteFile(path, []byte(text), 0o600))
				return path
			}
			vips := []netip.Addr{VIP}
			if name == "IPv6" {
				vips = nil
			}
			for _, v := range file.vips {
				vips = append(vips, netip.MustParseAddr(v))
			}
			alone := func(with, without string, daemons ...*Daemon) {
				t.Helper()
				must(t, Await(t.Context(), with+" alone has "+fmt.Sprint(vips), func() error {
					for _, v := range vips {
						if err := s.Alone(with, without, v); err != nil {
							return err
						}
					}
					return nil
				}, daemons...))
			}
			k, l := startKeepalivedFrom(t, s, "a", conf("a", "b", 150)), startImported(t, s, "b", conf("b", "a", 100))
			alone("a", "b", k, l)
			must(t, k.Stop())
			alone("b", "a", l)
			must(t, l.Stop())
			l, k = startImported(t, s, "b", conf("b", "a", 150)), startKeepalivedFrom(t, s, "a", conf("a", "b", 100))
			alone("b", "a", k, l)
			must(t, l.Stop())
			alone("a", "b", k)
			must(t, k.Stop())
		})
	}
}

// routed has a route and a rule that move with the VIP.
const routed = `vrrp_instance VI {
 interface eth0
 virtual_router_id 97
 priority PRIORITY
 version 3
 advert_int 0.2
 virtual_ipaddress { 10.99.0.100/16 }
 virtual_routes {
  198.51.100.0/24 via 10.99.0.66 dev eth0
  default via 10.99.0.66 dev eth0 table 100
 }
 virtual_rules { from 10.99.0.100 table 100 priority 1000 }
}
`

// Routes and rules are where the VIP is, with lvx as with keepalived, and
// nowhere else; lvx takes off at its start what a killed one left.
func TestRoutesMoveWithTheVIP(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	conf := func(host string, priority string) string {
		path := filepath.Join(s.Host(host).Dir(), "keepalived.conf")
		must(t, os.WriteFile(path, []byte(strings.ReplaceAll(routed, "PRIORITY", priority)), 0o600))
		return path
	}
	has := func(host string) (all []bool) {
		for _, ask := range [][2]string{{"ip route", "198.51.100.0/24 via 10.99.0.66"}, {"ip route show table 100", "default via 10.99.0.66"}, {"ip rule", "from 10.99.0.100 lookup 100"}} {
			out, _ := s.Host(host).Run(t.Context(), strings.Fields(ask[0])...) // a table that is empty is an error
			all = append(all, strings.Contains(out, ask[1]))
		}
		return all
	}
	at := func(with, without string, daemons ...*Daemon) {
		t.Helper()
		must(t, Await(t.Context(), "VIP, routes and rule are on "+with, func() error {
			if a, b := fmt.Sprint(has(with)), fmt.Sprint(has(without)); a != "[true true true]" || b != "[false false false]" {
				return fmt.Errorf("%s has %s, %s has %s", with, a, without, b)
			}
			return s.Alone(with, without, VIP)
		}, daemons...))
	}
	k, l := startKeepalivedFrom(t, s, "a", conf("a", "100")), startImported(t, s, "b", conf("b", "150"))
	at("b", "a", k, l)
	must(t, l.Stop())
	at("a", "b", k)
	l = startImported(t, s, "b", conf("b", "150"))
	at("b", "a", k, l)
	l.Kill()
	l = startImported(t, s, "b", conf("b", "50"))
	at("a", "b", k, l)
	must(t, k.Stop())
	at("b", "a", l)
	must(t, l.Stop())
}

func startKeepalivedFrom(t *testing.T, s *Segment, host, conf string) *Daemon {
	t.Helper()
	h := s.Host(host)
	pid := func(kind string) string {
		file := filepath.Join(h.Dir(), "keepalived-"+kind+".pid")
		_ = os.Remove(file)
		return file
	}
	p, err := h.Start("keepalived", "-n", "-l", "-D", "-P", "-f", conf, "-p", pid("p"), "-r", pid("r"), "-c", pid("c"))
	must(t, err)
	return &Daemon{Process: p}
}

// startImported runs lvx with what lvx import makes of a file; nothing of it
// may be lost.
func startImported(t *testing.T, s *Segment, host, conf string) *Daemon {
	t.Helper()
	h := s.Host(host)
	file := filepath.Join(h.Dir(), "imported.yaml")
	if out, err := h.Run(t.Context(), self, "import", conf, "-o", file); err != nil {
		t.Fatalf("lvx import: %v\n%s", err, out)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(f, "\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\nstop_grace: 0s\n", h.PinDir(), h.Dir(), socket(h))
	must(t, err)
	must(t, f.Close())
	p, err := h.Start(self, "run", "-c", file)
	must(t, err)
	return &Daemon{Process: p}
}

// The scripts of a file are run with keepalived's arguments: for the role at
// the start, for the one it takes, and at the stop.
func TestImportedNotifyScripts(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	h := s.Host("a")
	out := filepath.Join(h.Dir(), "roles")
	script := filepath.Join(h.Dir(), "on-role")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$*\" >>"+out+"\n"), 0o755))
	conf := filepath.Join(h.Dir(), "keepalived.conf")
	must(t, os.WriteFile(conf, []byte("vrrp_instance VI {\n interface eth0\n virtual_router_id 98\n priority 77\n version 3\n advert_int 0.2\n"+
		" virtual_ipaddress { 10.99.0.100 }\n notify \""+script+" all\"\n notify_master \""+script+" 'to master'\"\n}\n"), 0o600))
	d := startImported(t, s, "a", conf)
	must(t, Await(t.Context(), "a has the VIP", func() error { return s.Alone("a", "b", VIP) }, d))
	must(t, d.Stop())
	text, err := os.ReadFile(out)
	want := "all INSTANCE VI BACKUP 77\nto master\nall INSTANCE VI MASTER 77\nall INSTANCE VI STOP 77\n"
	if err != nil || string(text) != want {
		t.Errorf("%v, the scripts were run with:\n%swant:\n%s", err, text, want)
	}
}
