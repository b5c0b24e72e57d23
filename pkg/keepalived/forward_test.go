package keepalived_test

import (
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/keepalived"
)

// TestTunnels: what keepalived and ipvsadm say of tunnels is what lvx makes.
func TestTunnels(t *testing.T) {
	for method, want := range map[string]string{
		"TUN":                            "forward: tunnel",
		"TUN type ipip":                  "forward: tunnel",
		"TUN type gue port 6080 nocsum":  "forward: gue\n    tunnel: {port: 6080, checksum: nocsum}",
		"TUN type gue port 5555 remcsum": "forward: gue\n    tunnel: {port: 5555, checksum: remcsum}",
		"TUN type gue":                   "forward: gue\n    tunnel: {port: 6080, checksum: nocsum}",
		"TUN type gre":                   "forward: gre\n    tunnel: {checksum: nocsum}",
		"TUN type gre csum":              "forward: gre\n    tunnel: {checksum: csum}",
		"TUN type gre port 5 remcsum":    "forward: gre\n    tunnel: {checksum: csum}",
		"DR":                             "forward: dr",
	} {
		text := "virtual_server 192.0.2.1 80 {\n protocol TCP\n lvs_method " + method + "\n real_server 192.0.2.11 80 {\n }\n}\n"
		res, err := keepalived.Import(oneFile([]byte(text)), "a.conf", keepalived.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(res.YAML), "    "+want+"\n") || strings.Count(string(res.YAML), "tunnel:") != strings.Count(want, "tunnel:") {
			t.Errorf("%s: want %q in\n%s", method, want, res.YAML)
		}
	}
	rules := "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 192.0.2.11:80 -i --tun-type gue --tun-port 6080 --tun-csum\n-a -t 192.0.2.1:80 -r 192.0.2.12:80 -i\n"
	res, err := keepalived.ImportRules(oneFile([]byte(rules)), "a.conf", numericHost{}, keepalived.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"    forward: gue\n    tunnel: {port: 6080, checksum: csum}\n", "forward: tunnel"} {
		if !strings.Contains(string(res.YAML), want) {
			t.Errorf("rules: want %q in\n%s", want, res.YAML)
		}
	}
}

// TestTunnelsOfTheOtherFamily: by a tunnel alone keepalived takes a real server of
// another family than the VIP's.
func TestTunnelsOfTheOtherFamily(t *testing.T) {
	for method, isKept := range map[string]bool{"TUN": true, "TUN type gue": true, "DR": false, "NAT": false} {
		text := "virtual_server 192.0.2.1 80 {\n protocol TCP\n lvs_method " + method + "\n real_server 2001:db8::11 80 {\n }\n}\n"
		res, err := keepalived.Import(oneFile([]byte(text)), "a.conf", keepalived.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(res.YAML), "2001:db8::11") != isKept {
			t.Errorf("%s: kept %v, want %v:\n%s", method, !isKept, isKept, res.YAML)
		}
	}
}
