package keepalived

import "maps"

// keyword is a word that keepalived knows at one place.
type keyword struct {
	block  map[string]keyword // the words of its block; nil: no block
	values bool               // a block of values
	words  bool               // of which every word is one
	level  Level              // what becomes of it where the mapping says nothing else
	text   string
}

// Texts that many keywords share.
const (
	textProcess = "about keepalived's own processes, which lvx does not have"
	textGARP    = "lvx announces its VIPs in its own rhythm (docs/ha.md)"
	textSNMP    = "lvx has no SNMP and no D-Bus: ask `lvx status --json` or /metrics"
	textLenient = "lvx is as strict as RFC 5798 here"
	textOwner   = "keepalived tracks nothing by weight with priority 255"
	textLog     = "about keepalived's log"
	textMail    = "about mail that lvx does not send"
	textReload  = "about keepalived's reload; lvx reloads as a whole or not at all"
)

// same makes keywords of one kind.
func same(l Level, text string, words ...string) map[string]keyword {
	all := map[string]keyword{}
	for _, w := range words {
		all[w] = keyword{level: l, text: text}
	}
	return all
}

// merge puts tables into one.
func merge(tables ...map[string]keyword) map[string]keyword {
	all := map[string]keyword{}
	for _, t := range tables {
		maps.Copy(all, t)
	}
	return all
}

// blocks makes a keyword with a block.
func blocks(words map[string]keyword) keyword { return keyword{block: words} }

// values makes a keyword with a block of values.
func values(l Level, text string) keyword { return keyword{values: true, level: l, text: text} }

// words makes a keyword with a block of words, as many in a line as one likes.
func words(l Level, text string) keyword {
	return keyword{values: true, words: true, level: l, text: text}
}

var timingWords = same(Mapped, "", "retry", "delay_before_retry", "warmup", "delay_loop", "alpha", "connect_timeout")

// checkCommon are the words of every checker, connection those of the ones
// that connect.
var (
	checkCommon = merge(timingWords, same(Harmless, textLog, "log_all_failures"))
	connection  = same(Mapped, "", "connect_ip", "connect_port", "bindto", "bind_port", "bind_if", "fwmark")
)

var webCheck = blocks(merge(checkCommon, connection,
	same(Mapped, "", "nb_get_retry", "virtualhost", "enable_sni", "sni_name"),
	same(Harmless, "lvx speaks HTTP/1.1 and takes any version in the answer", "http_protocol"),
	same(Harmless, "about how TLS connections are closed", "tls_compliant"),
	same(Changed, "lvx counts passes as `rise` says", "fast_recovery"),
	map[string]keyword{"url": blocks(merge(
		same(Mapped, "", "path", "digest", "status_code", "virtualhost", "regex", "regex_no_match"),
		same(Lost, "lvx looks at the first 64 KiB of the body, by RE2's rules", "regex_options", "regex_min_offset", "regex_max_offset"),
		same(Harmless, "about the stack of PCRE; lvx matches with RE2", "regex_stack"),
		same(Harmless, "about how TLS connections are closed", "tls_compliant"),
	))}))

// checkers are the blocks that check a real server.
var checkers = map[string]keyword{
	"TCP_CHECK":  blocks(merge(checkCommon, connection)),
	"HTTP_GET":   webCheck,
	"SSL_GET":    webCheck,
	"PING_CHECK": blocks(merge(checkCommon, connection)),
	"DNS_CHECK":  blocks(merge(checkCommon, connection, same(Mapped, "", "type", "name"))),
	"UDP_CHECK": blocks(merge(checkCommon, connection,
		same(Mapped, "", "payload", "require_reply", "min_reply_length", "max_reply_length"))),
	"SMTP_CHECK": blocks(merge(checkCommon, connection, same(Mapped, "", "helo_name"),
		map[string]keyword{"host": blocks(merge(checkCommon, connection))})),
	"MISC_CHECK": blocks(merge(checkCommon, same(Mapped, "", "misc_path", "misc_timeout", "misc_dynamic", "user"))),
	"FILE_CHECK": blocks(same(Mapped, "", "track_file", "weight")),
	"BFD_CHECK":  blocks(same(Mapped, "", "name", "alpha")),
}

var realServer = blocks(merge(checkers, timingWords,
	same(Mapped, "", "weight", "lvs_method", "uthreshold", "lthreshold", "inhibit_on_failure",
		"notify_up", "notify_down", "virtualhost"),
	same(Harmless, textMail, "smtp_alert"), same(Harmless, textSNMP, "snmp_name")))

var virtualServer = blocks(merge(timingWords,
	same(Mapped, "", "ip_family", "inhibit_on_failure", "lb_algo", "lvs_sched", "hashed", "ops", "flag-1", "flag-2", "flag-3",
		"sh-port", "sh-fallback", "mh-port", "mh-fallback", "lb_kind", "lvs_method", "persistence_engine",
		"persistence_timeout", "persistence_granularity", "protocol", "virtualhost", "omega", "quorum_up", "quorum_down",
		"quorum", "hysteresis", "weight", "sorry_server", "sorry_server_inhibit", "sorry_server_lvs_method"),
	same(Changed, "lvx checks real servers whatever the VIP's role", "ha_suspend"),
	same(Harmless, textMail, "smtp_alert"), same(Harmless, textSNMP, "snmp_name"),
	map[string]keyword{"real_server": realServer}))

var notifyWords = merge(
	same(Mapped, "", "notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"),
	same(Lost, "lvx runs no hook for this", "notify_deleted", "notify_master_rx_lower_pri"),
	same(Changed, "lvx tells of roles, not of priorities", "notify_priority_changes"),
	same(Mapped, "", "smtp_alert"))

var trackWords = map[string]keyword{
	"track_interface": values(Mapped, ""),
	"track_script":    values(Mapped, ""),
	"track_file":      values(Mapped, ""),
	"track_process":   values(Mapped, ""),
	"track_bfd":       values(Mapped, ""),
}

var syncGroup = blocks(merge(notifyWords, trackWords,
	map[string]keyword{"group": words(Mapped, "")},
	same(Harmless, "lvx counts what is tracked in every member", "global_tracking", "sync_group_tracking_weight")))

var authentication = blocks(same(Mapped, "", "auth_type", "auth_pass"))

// vrrpTuning are words of a VRRP instance that change nothing that lvx has.
var vrrpTuning = merge(
	same(Harmless, textGARP, "garp_master_delay", "garp_master_refresh", "garp_master_repeat", "garp_master_refresh_repeat",
		"garp_lower_prio_delay", "garp_lower_prio_repeat", "garp_extra_if", "vmac_garp_intvl"),
	same(Harmless, textLenient, "lower_prio_no_advert", "higher_prio_send_advert", "owner_ignore_adverts", "strict_mode",
		"check_unicast_src", "skip_check_adv_addr", "accept", "no_accept", "old_unicast_checksum", "v3_checksum_as_v2"),
	same(Harmless, textProcess, "debug", "kernel_rx_buf_size", "down_timer_adverts", "timer_expired_backup", "thread_timer_expired"),
	same(Harmless, "lvx watches the interface by netlink and sets no option of it", "linkbeat_use_polling", "promote_secondaries",
		"track_src_ip", "unicast_fault_no_peer"),
	same(Changed, "lvx uses the interface's own MAC; clients learn it by gratuitous ARP", "use_vmac", "use_vmac_addr", "use_ipvlan"),
	same(Changed, "lvx sends from the interface itself", "vmac_xmit_base", "vrf", "native_ipv6"),
	same(Changed, "lvx sends with TTL 255, as RFC 5798 asks", "unicast_ttl"),
	same(Changed, "the interface of a VRRP instance is always tracked", "dont_track_primary"))

var vrrpInstance = blocks(merge(notifyWords, trackWords, vrrpTuning,
	same(Mapped, "", "state", "interface", "mcast_src_ip", "unicast_src_ip", "mcast_dst_ip", "virtual_router_id", "version",
		"priority", "advert_int", "preempt", "nopreempt", "preempt_delay"),
	same(Lost, "the sync daemon of IPVS is not run", "lvs_sync_daemon_interface"),
	same(Lost, "a VRRP instance of lvx has an address", "no_virtual_ipaddress"),
	map[string]keyword{
		"unicast_peer":               values(Mapped, ""),
		"virtual_ipaddress":          values(Mapped, ""),
		"virtual_ipaddress_excluded": values(Mapped, ""),
		"virtual_routes":             values(Mapped, ""),
		"virtual_rules":              values(Mapped, ""),
		"authentication":             authentication,
		"auth_hmac":                  blocks(same(Lost, "", "key", "active_key", "time_window", "anti_replay", "mode")),
	}))

var vrrpScript = blocks(same(Mapped, "", "script", "interval", "timeout", "weight", "rise", "fall", "user", "init_fail"))

var trackProcess = blocks(same(Mapped, "", "process", "param_match", "weight", "quorum", "quorum_max", "delay", "terminate_delay",
	"fork_delay", "full_command"))

var trackFile = blocks(same(Mapped, "", "file", "weight", "init_file"))

var globalDefs = blocks(merge(
	same(Mapped, "", "notification_email_from", "smtp_server", "smtp_alert", "smtp_alert_vrrp", "smtp_alert_checker",
		"no_email_faults", "default_interface", "lvs_timeouts", "vrrp_mcast_group4", "vrrp_mcast_group6", "vrrp_version",
		"vrrp_startup_delay", "vrrp_delay_after_boot", "lvs_sync_daemon"),
	map[string]keyword{"notification_email": words(Mapped, "")},
	same(Harmless, "mail names the host", "router_id", "smtp_helo_name"),
	same(Harmless, textMail, "smtp_connect_timeout", "no_checker_emails", "rs_init_notifies"),
	same(Changed, "checks run as nobody, hooks as root", "script_user"),
	same(Harmless, "lvx always asks that programs belong to root", "enable_script_security"),
	same(Lost, "lvx runs no program at its own start and stop: use the unit's ExecStartPre and ExecStopPost",
		"startup_script", "shutdown_script"),
	same(Harmless, textProcess, "startup_script_timeout", "shutdown_script_timeout", "process_names", "process_name",
		"vrrp_process_name", "checker_process_name", "lvs_process_name", "bfd_process_name", "use_symlink_paths",
		"set_supplementary_groups", "max_auto_priority", "min_auto_priority_delay", "vrrp_priority", "vrrp_no_swap",
		"vrrp_rt_priority", "vrrp_cpu_affinity", "vrrp_rlimit_rttime", "vrrp_rlimit_rtime", "checker_priority",
		"checker_no_swap", "checker_rt_priority", "checker_cpu_affinity", "checker_rlimit_rttime", "checker_rlimit_rtime",
		"bfd_priority", "bfd_no_swap", "bfd_rt_priority", "bfd_cpu_affinity", "bfd_rlimit_rttime", "bfd_rlimit_rtime",
		"vrrp_netlink_cmd_rcv_bufs", "vrrp_netlink_cmd_rcv_bufs_force", "vrrp_netlink_monitor_rcv_bufs",
		"vrrp_netlink_monitor_rcv_bufs_force", "process_monitor_rcv_bufs", "process_monitor_rcv_bufs_force",
		"lvs_netlink_cmd_rcv_bufs", "lvs_netlink_cmd_rcv_bufs_force", "lvs_netlink_monitor_rcv_bufs",
		"lvs_netlink_monitor_rcv_bufs_force", "vrrp_rx_bufs_policy", "vrrp_rx_bufs_multiplier", "umask", "random_seed",
		"use_pid_dir", "child_wait_time", "tmp_config_directory", "config_save_dir", "data_use_instance", "json_version",
		"iproute_usr_dir", "iproute_etc_dir", "state_dump_file", "stats_dump_file", "json_dump_file", "process_monitor_rcv_bufs",
		"disable_local_igmp", "vmac_prefix", "vmac_addr_prefix"),
	same(Harmless, textLog, "checker_log_all_failures", "log_unknown_vrids"),
	same(Harmless, textReload, "reload_check_config", "reload_time_file", "reload_repeat", "reload_file", "include_check",
		"lvs_flush", "lvs_flush_on_stop", "lvs_flush_onstop"),
	same(Harmless, "interfaces may come and go", "dynamic_interfaces"),
	same(Harmless, textGARP, "vrrp_garp_master_delay", "vrrp_garp_master_repeat", "vrrp_garp_master_refresh",
		"vrrp_garp_master_refresh_repeat", "vrrp_garp_lower_prio_delay", "vrrp_garp_lower_prio_repeat", "vrrp_garp_interval",
		"vrrp_gna_interval", "vrrp_min_garp", "vrrp_garp_extra_if", "vrrp_vmac_garp_intvl"),
	same(Harmless, textLenient, "vrrp_down_timer_adverts", "vrrp_lower_prio_no_advert", "vrrp_higher_prio_send_advert",
		"vrrp_check_unicast_src", "vrrp_skip_check_adv_addr", "v3_checksum_as_v2", "vrrp_owner_ignore_adverts"),
	same(Harmless, textLenient+"; the firewall rules that keepalived makes in strict mode do not exist here", "vrrp_strict"),
	same(Harmless, "lvx answers ARP and ND for a VIP only where it owns it, without firewall rules", "vrrp_iptables", "vrrp_ipsets",
		"nftables", "nftables_priority", "nftables_ifindex", "nftables_counters", "namespace_with_ipsets",
		"nftables_ipvs", "nftables_ipvs_priority", "nftables_ipvs_start_fwmark"),
	same(Lost, "lvx writes to no FIFO: notify.exec gets every event", "notify_fifo", "vrrp_notify_fifo", "lvs_notify_fifo"),
	same(Lost, "a program that reads a FIFO is not started: notify.exec gets every event", "notify_fifo_script",
		"vrrp_notify_fifo_script", "lvs_notify_fifo_script"),
	same(Harmless, "about a FIFO", "vrrp_notify_priority_changes", "fifo_write_vrrp_states_on_reload"),
	same(Harmless, textSNMP, "snmp_socket", "enable_traps", "enable_snmp_vrrp", "enable_snmp_keepalived", "enable_snmp_rfc",
		"enable_snmp_rfcv2", "enable_snmp_rfcv3", "enable_snmp_checker", "snmp_vs_stats_update_interval",
		"snmp_rs_stats_update_interval", "enable_dbus", "dbus_service_name", "dbus_no_interface_name"),
	same(Changed, "start lvx itself in that namespace (ip netns exec, or NetworkNamespacePath= of its unit)",
		"net_namespace", "net_namespace_ipvs"),
	same(Harmless, textProcess, "instance"),
))

// grammar is what keepalived knows at the top of a file.
var grammar = merge(
	same(Changed, "start lvx itself in that namespace (ip netns exec, or NetworkNamespacePath= of its unit)",
		"net_namespace", "net_namespace_ipvs"),
	same(Harmless, textProcess, "use_pid_dir", "instance", "child_wait_time", "namespace_with_ipsets"),
	same(Harmless, "lvx watches interfaces by netlink", "linkbeat_use_polling", "interface_up_down_delays"),
	map[string]keyword{
		"global_defs":          globalDefs,
		"virtual_server":       virtualServer,
		"virtual_server_group": values(Mapped, ""),
		"vrrp_instance":        vrrpInstance,
		"vrrp_sync_group":      syncGroup,
		"vrrp_script":          vrrpScript,
		"vrrp_track_process":   trackProcess,
		"vrrp_track_file":      trackFile,
		"track_file":           trackFile,
		"static_ipaddress":     values(Lost, "lvx sets no addresses but VIPs: leave this to the host's network configuration"),
		"static_routes":        values(Lost, "lvx sets no routes: leave this to the host's network configuration"),
		"static_rules":         values(Lost, "lvx sets no rules: leave this to the host's network configuration"),
		"track_group":          blocks(map[string]keyword{"group": words(Harmless, "")}),
		"garp_group": blocks(merge(same(Harmless, textGARP, "garp_interval", "gna_interval", "interface"),
			map[string]keyword{"interfaces": words(Harmless, textGARP)})),
		"linkbeat_interfaces":      values(Harmless, "lvx watches interfaces by netlink"),
		"interface_up_down_delays": values(Changed, "lvx believes an interface at once"),
		"bfd_instance": blocks(merge(same(Mapped, "", "neighbor_ip", "neighbour_ip", "source_ip", "min_rx", "min_tx", "idle_tx", "multiplier",
			"passive", "ttl", "hoplimit", "max_hops", "weight"),
			same(Harmless, "checks and virtual routers may both name a session", "vrrp", "checker"))),
		"SSL": blocks(same(Lost, "lvx's checks show no certificate and trust any", "password", "ca", "certificate", "key")),
	})
