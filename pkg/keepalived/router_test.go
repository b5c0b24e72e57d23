package keepalived_test

import (
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/keepalived"
)

// importText imports a file.
func importText(t *testing.T, text string) *keepalived.Result {
	t.Helper()
	res, err := keepalived.Import(oneFile(text), "a.conf", keepalived.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// holds compares the output and the account with what they must and, behind
// "no ", must not hold.
func holds(t *testing.T, res *keepalived.Result, all ...string) {
	t.Helper()
	text := string(res.YAML) + account(res.Report)
	for _, want := range all {
		banned, isBanned := strings.CutPrefix(want, "no ")
		if strings.Contains(text, banned) == isBanned {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}

// TestRoutersAsKeepalivedReadsThem: keepalived 2.2.7 sends and does this with
// the same words.
func TestRoutersAsKeepalivedReadsThem(t *testing.T) {
	const pass = " authentication { auth_type PASS\n auth_pass hunter22 }\n"
	for _, c := range []struct {
		name, global, words string
		want                []string
	}{
		{"strict mode has no password", "vrrp_strict", pass, []string{`no auth_pass: "`, "auth_pass: keepalived sends no password in strict mode (harmless)"}},
		{"strict mode off", "vrrp_strict", "strict_mode off\n" + pass, []string{`auth_pass: "hunter22"`}},
		{"strict mode of one", "", "strict_mode\n" + pass, []string{`no auth_pass: "`}},
		{"an unknown type", "", "authentication { auth_type pass\n auth_pass hunter22 }\n", []string{`no auth_pass: "`, `type "pass"`}},
		{"no type", "", "authentication { auth_pass hunter22 }\n", []string{`no auth_pass: "`}},
		{"AH in version 3", "vrrp_version 3", "authentication { auth_type AH\n auth_pass hunter22 }\n", []string{`no auth_pass: "`, "no (lost)"}},

		{"MASTER without a priority", "", "state MASTER\n", []string{"priority: 255\n"}},
		{"BACKUP without a priority", "", "state BACKUP\n", []string{"priority: 100\n"}},
		{"an unknown state", "", "state MASTER\n state SLAVE\n", []string{"priority: 100\n"}},
		{"MASTER with a priority", "", "state MASTER\n state BACKUP\n priority 150\n", []string{"priority: 150\n"}},

		{"what is tracked before the priority", "", "track_interface { eth1 weight 20 }\n priority 150\n", []string{"priority: 170\n"}},
		{"its own interface", "", "interface eth0\n track_interface { eth0 weight 20\n eth1 }\n", []string{"priority: 100\n", `no "eth0", weight`, `"eth1", weight: 0`, "no (changed)"}},
		{"the owner tracks nothing", "", "priority 255\n track_interface { eth1 weight -20\n eth2 }\n", []string{"priority: 255\n", `no "eth1"`, `"eth2"`}},

		{"MASTER waits for nothing", "", "state MASTER\n priority 150\n preempt_delay 60\n", []string{"no preempt_delay: 1m"}},
		{"a delay of MASTER in strict mode", "vrrp_strict", "state MASTER\n priority 150\n nopreempt\n preempt_delay 60\n", []string{"preempt: false", "no preempt_delay: 1m"}},
		{"a delay beside nopreempt", "", "state BACKUP\n nopreempt\n preempt_delay 60\n", []string{"preempt: false", "no preempt_delay: 1m"}},
		{"a delay", "", "state BACKUP\n preempt_delay 60\n", []string{"preempt_delay: 1m"}},
		{"too long a delay", "", "preempt_delay 1800\n", []string{"no preempt_delay: 16m", "preempt_delay: keepalived ignores"}},
		{"preempt after nopreempt", "", "nopreempt\n preempt\n", []string{"no preempt: false"}},

		{"milliseconds", "", "advert_int 1000\n", []string{"advert_interval: 1s\n", "advert_int: keepalived ignores"}},
		{"the longest", "", "advert_int 255\n", []string{"advert_interval: 4m15s\n"}},

		{"version 2 for IPv6", "", "version 2\n virtual_ipaddress { 2001:db8::1/64 }\n", []string{"version: 3\n", "(changed)"}},
		{"version 2 behind IPv6", "", "virtual_ipaddress { 2001:db8::1/64 }\n version 2\n", []string{"version: 3\n", "no (changed)"}},
		{"both families", "", "unicast_peer { 192.0.2.2\n 2001:db8::2 }\n virtual_ipaddress { 192.0.2.1/24\n 2001:db8::1/64 }\n",
			[]string{`unicast_peers: ["192.0.2.2"]`, "2001:db8::1/64: keepalived ignores", "no (lost)"}},
		{"lengths behind hosts", "", "unicast_src_ip 192.0.2.9/24\n unicast_peer { 192.0.2.2/24\n 192.0.2.3-7 }\n", []string{`unicast_peers: ["192.0.2.2", "192.0.2.3"]`, `unicast_source: "192.0.2.9"`}},
		{"a mask behind a VIP", "", "virtual_ipaddress { 192.0.2.1/255.255.255.0\n 192.0.2.256/24 }\n", []string{`addresses: ["192.0.2.1/32"]`, "192.0.2.256/24: keepalived ignores"}},
		{"the first notify counts", "", "notify_master /a\n notify_master /b\n", []string{`hooks: {master: [["/a"]]}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := "global_defs {\n " + c.global + "\n}\nvrrp_instance VI {\n virtual_router_id 51\n " + c.words
			if !strings.Contains(text, "virtual_ipaddress") {
				text += " virtual_ipaddress { 192.0.2.1/24 }\n"
			}
			holds(t, importText(t, text+"}\n"), c.want...)
		})
	}
}

// TestSyncGroups: members stand in one line or in several, and an instance is
// a member of its first group only.
func TestSyncGroups(t *testing.T) {
	text := ""
	for _, n := range []string{"1", "2", "3"} {
		text += "vrrp_instance VI_" + n + " {\n virtual_router_id " + n + "\n virtual_ipaddress { 192.0.2.10" + n + " }\n" +
			" track_script { chk\n chk0 }\n}\n"
	}
	text = "vrrp_script chk {\n script /bin/true\n weight 5\n}\nvrrp_script chk0 { script /bin/true }\n" + text
	groups := "vrrp_sync_group A {\n group { VI_1 VI_2\n VI_3 }\n%}\nvrrp_sync_group B {\n group { VI_3 VI_1 }\n}\n"
	res := importText(t, text+strings.Replace(groups, "%", "", 1))
	holds(t, res, `no sync_group: "B"`, "VI_2: (mapped)", "VI_1: keepalived takes the first group")
	if n := strings.Count(string(res.YAML), `sync_group: "A"`); n != 3 {
		t.Errorf("%d members, want 3:\n%s", n, res.YAML)
	}
	const ignored = "chk: keepalived ignores a weight in a member"
	if n := strings.Count(account(res.Report), ignored); n != 3 {
		t.Errorf("%d weights that keepalived ignores, want 3:\n%s", n, account(res.Report))
	}
	holds(t, importText(t, text+strings.Replace(groups, "%", " sync_group_tracking_weight\n", 1)), "no "+ignored)
}

// TestSecondInstance: keepalived ignores an instance whose name another has.
func TestSecondInstance(t *testing.T) {
	const text = "vrrp_instance VI {\n virtual_router_id 1\n virtual_ipaddress { 192.0.2.1 }\n}\n" +
		"vrrp_instance VI {\n virtual_router_id 2\n virtual_ipaddress { 192.0.2.2 }\n}\n"
	holds(t, importText(t, text), "virtual_router_id: 1", "no virtual_router_id: 2", "line 1 has it (harmless)")
}
