package keepalived_test

import "testing"

// TestWhatStandsFurtherDown: keepalived looks for what is tracked when it reads
// who tracks it, so that the order counts.
func TestWhatStandsFurtherDown(t *testing.T) {
	const router = "vrrp_instance VI {\n virtual_router_id 51\n virtual_ipaddress { 192.0.2.1/24 }\n" +
		" track_script { s }\n track_file { f }\n track_process { p }\n track_bfd { b }\n}\n" +
		"virtual_server 192.0.2.1 80 {\n protocol TCP\n real_server 192.0.2.11 80 {\n FILE_CHECK { track_file f }\n BFD_CHECK { name b }\n }\n}\n"
	const blocks = "vrrp_script s { script /bin/true }\ntrack_file f { file /run/f }\nvrrp_track_process p { process sshd }\nbfd_instance b { neighbor_ip 192.0.2.9 }\n"
	holds(t, importText(t, blocks+router), "track_exec: [", "track_file: [", "track_process: [", "track_bfd: [", "type: file", "type: bfd", "no further down")
	holds(t, importText(t, router+blocks), "no track_exec: [", "no track_file: [", "no track_process: [", "no track_bfd: [", "no type: file", "no type: bfd",
		`s: keepalived ignores it: the vrrp_script "s" stands further down, in line 16 (harmless)`,
		`b: keepalived ignores it: the bfd_instance "b" stands further down`, `track_file "f" stands further down`, `vrrp_track_process "p" stands further down`)
	const second = "vrrp_script s { script /bin/false }\n"
	holds(t, importText(t, blocks+second+router), "/bin/true", `no ["/bin/false"`, "vrrp_script: nothing uses it")
}

// TestSecondSyncDaemon: keepalived takes the first lvs_sync_daemon.
func TestSecondSyncDaemon(t *testing.T) {
	const text = "global_defs {\n lvs_sync_daemon eth0 VI id 7\n lvs_sync_daemon eth1 VI id 8\n}\n" +
		"vrrp_instance VI {\n virtual_router_id 51\n virtual_ipaddress { 192.0.2.1/24 }\n}\n"
	holds(t, importText(t, text), `sync: {syncid: 7, interface: "eth0"}`, "a.conf:3: lvs_sync_daemon: keepalived takes the first one only")
}
