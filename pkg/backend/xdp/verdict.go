package xdp

import "github.com/lvx-lb/lvx/loader"

// verdictTexts name every verdict of bpf/types.h, in its order; a test keeps
// them complete. The sentences are for people who ask where a packet went.
var verdictTexts = [...]struct{ name, meaning string }{
	loader.RawVerdictVERDICT_NOT_OUR_MAC:          {"not_our_mac", "passed: the frame is for another host"},
	loader.RawVerdictVERDICT_NOT_IPV4:             {"not_ipv4", "passed: ARP, IPv6 or anything else that is not IPv4"},
	loader.RawVerdictVERDICT_NOT_OURS:             {"not_ours", "passed: the destination is no VIP of a service"},
	loader.RawVerdictVERDICT_MALFORMED:            {"malformed", "passed: headers are cut short or contradict each other"},
	loader.RawVerdictVERDICT_STANDBY:              {"standby", "passed: another director owns the VIP now"},
	loader.RawVerdictVERDICT_NO_LISTENER:          {"no_listener", "passed: a VIP, but no service on this port"},
	loader.RawVerdictVERDICT_OTHER_PROTOCOL:       {"other_protocol", "passed: a VIP, but not TCP, UDP or an ICMP error"},
	loader.RawVerdictVERDICT_NO_FLOW:              {"no_flow", "passed: not a SYN and no connection is known; the kernel answers with a reset"},
	loader.RawVerdictVERDICT_FORWARDED:            {"forwarded", "sent to a real server on the same interface"},
	loader.RawVerdictVERDICT_REDIRECTED:           {"redirected", "sent to a real server on another interface"},
	loader.RawVerdictVERDICT_LOCAL:                {"local", "passed: this host is the real or the sorry server"},
	loader.RawVerdictVERDICT_FROM_PEER:            {"from_peer", "passed: another director has chosen this host as the real server"},
	loader.RawVerdictVERDICT_REAL_GONE:            {"real_gone", "passed: the connection's real server was removed; the kernel answers with a reset"},
	loader.RawVerdictVERDICT_REAL_AWAY:            {"real_away", "dropped: the connection's real server was removed and expire_nodest_conn is off"},
	loader.RawVerdictVERDICT_DENIED:               {"denied", "dropped: a deny or allow list"},
	loader.RawVerdictVERDICT_NO_REAL:              {"no_real", "dropped: no usable real server, and no answer could be built"},
	loader.RawVerdictVERDICT_LEASE_OVER:           {"lease_over", "dropped: the daemon that owns the VIP has stopped renewing its lease"},
	loader.RawVerdictVERDICT_TABLE_BUSY:           {"table_busy", "dropped: no place in the flow table could be claimed"},
	loader.RawVerdictVERDICT_ICMP_FORWARDED:       {"icmp_forwarded", "an ICMP error sent to the real server of the connection it quotes"},
	loader.RawVerdictVERDICT_ICMP_NO_FLOW:         {"icmp_no_flow", "passed: an ICMP error that quotes no connection of ours"},
	loader.RawVerdictVERDICT_FRAGMENT_HELD:        {"fragment_held", "held by the daemon until the datagram's first fragment is there"},
	loader.RawVerdictVERDICT_FRAGMENT_LOST:        {"fragment_lost", "dropped: the first fragment is not there and the daemon cannot hold more"},
	loader.RawVerdictVERDICT_ANSWERED_UNREACHABLE: {"answered_unreachable", "answered with ICMP port unreachable: no usable real server"},
	loader.RawVerdictVERDICT_ANSWERED_TTL:         {"answered_ttl", "answered with ICMP time exceeded: TTL 1"},
	loader.RawVerdictVERDICT_ANSWERED_TOO_BIG:     {"answered_too_big", "answered with ICMP fragmentation needed: the way out has a smaller MTU"},
	loader.RawVerdictVERDICT_ANSWER_LIMITED:       {"answer_limited", "dropped: an ICMP answer was due, but the rate limit was reached"},
	loader.RawVerdictVERDICT_TTL_SILENT:           {"ttl_silent", "dropped: TTL 1 on an ICMP error, which must not be answered"},
	loader.RawVerdictVERDICT_ARP_SILENCED:         {"arp_silenced", "dropped: ARP for a VIP that another director owns, or whose lease is over"},
	loader.RawVerdictVERDICT_TOO_BIG:              {"too_big", "dropped: larger than the way out's MTU and allowed to be fragmented, which XDP cannot"},
}
