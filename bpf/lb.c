//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * lvx: LVS direct routing in XDP. Table of contents:
 *
 *   types.h       what user space and the packet path share; enum verdict
 *   counts.h      what is counted
 *   window.h      what user space and pieces.h tell each other
 *   maps.h        every map and why it is of its kind
 *   mapsnat.h       those of NAT
 *   config.h      what is fixed at load time
 *   store.h       every store to a map
 *   record.h      how a packet is decided, for explain, trace and capture (recording.h)
 *   value.h       the bits of flows and templates
 *   packet.h      frame -> struct packet: Ethernet, TCP, UDP
 *   family.h      the family that the program is compiled for:
 *     ipv4.h        what is IPv4's own: header, keys, quoted packets, answers
 *     ipv6.h        what is IPv6's own (lb6.c), with discovery.h and maps6.h
 *   run.h         what the long way carries from step to step
 *   long.h        the long way, step by step
 *   admit.h       VIP, standby, peers, lease
 *   arp.h         ARP that must not be answered
 *   connection.h  the life of a connection: opened, continued, ended
 *   listen.h      VIP, port -> service
 *   set.h         the set-associative table, of which are
 *   flow.h          flows: which real a connection belongs to
 *   template.h      templates: which real a client belongs to (persistence)
 *   moved.h       tables that are left behind
 *   tcp.h         states of a connection that is seen one way
 *   select.h      schedulers
 *   filter.h      deny and allow lists
 *   fragment.h    fragments
 *   forward_dr.h  the frame's way out
 *   vlan.h        its tag
 *   tunnel.h      the outer header of what does not go by direct routing
 *   nat.h         addresses, ports and checksums of what goes by NAT
 *   reply.h       what comes back by NAT: whose it is,
 *   fastback.h      the short way of nearly every reply,
 *   longback.h      the long way of the others, and
 *   route.h         how they get to their clients
 *   answer.h      ICMP that we send ourselves
 *   news.h        which sets have changed, for connection sync
 *   absorb.h      a program of its own: what peer directors tell goes into the tables
 *   pieces.h      programs of their own: user space reads and changes a table in pieces
 *   stats.h       counting
 *   glance.h      the short way of nearly every packet: what both families have in common
 *   fast.h          IPv4's
 *   fast6.h         IPv6's
 *   fastrows.h      that of stateless services
 *
 * What an established packet reads, in order; each is at a fixed address (settings,
 * vips, verdicts) or an inlined array access, and what it costs is the cache line
 * behind it:
 *
 *   own_mac     frames for others are not touched                (hot)
 *   settings    which half is in force, timeouts, hash seeds     (hot)
 *   vips        is the address ours; its number in flow keys     (hot)
 *   flows       the flow and its real: the one line that misses  (cold: this is the price)
 *   reals       MAC, interface, generation                       (hot)
 *   counters    packets and bytes of the real, per CPU           (hot)
 *   verdicts    the packet's verdict, per CPU                    (hot)
 *
 * A new flow adds ports (and ranges), services, cursors, turns, rings, locks, loads,
 * shares and the second set.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "types.h"
#include "counts.h"
#include "maps.h"
#include "config.h"
#include "stats.h"
#include "long.h"
#include "absorb.h"
#include "pieces.h"
#include "fast.h"
#include "fastback.h"
#include "longback.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Asked when the short way did not take the packet: IPv4's own packets do not pay for it. */
static __always_inline int is_ipv6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return data + ETHER + 20 <= end && parse_ethernet(data, end, bpf_htons(ETH_P_IPV6));
}

SEC("xdp.frags")
int lb(struct xdp_md *ctx)
{
	/* What is recorded goes the long way, each step of which says so. */
	int outcome = RECORDS ? CONTINUE : short_way(ctx);

	/* Where IPv6 is not served no program is there, and the packet goes on here. */
	if (outcome == CONTINUE && is_ipv6(ctx))
		bpf_tail_call(ctx, &families, interface_slot);
	record_start(ctx);
	if (outcome == CONTINUE)
		outcome = long_way(ctx);
	if (outcome == MAYBE_REPLY) {
		outcome = RECORDS ? CONTINUE : way_back(ctx);
		if (outcome == CONTINUE)
			outcome = long_way_back(ctx);
	}
	record_end(ctx, outcome);
	count_verdict(outcome & 0xff);
	return outcome >> 8;
}

/*
 * What time is it? User space cannot read jiffies; leases and the heartbeat
 * are deadlines in them.
 */
SEC("syscall")
int clock(__u64 *now)
{
	*now = bpf_jiffies64();
	return 0;
}
