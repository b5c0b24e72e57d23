//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Health checks through a VIP. A probe's socket is connected to a real
 * server's own address and carries a mark. On the way out (probe_out) the
 * destination becomes the VIP, so that the frame still goes to this real's
 * MAC; on the way in (probe_in) the VIP becomes the real's address again,
 * before the stack sees the packet: with the VIP on this host it would be a
 * martian. The real answers only if it has the VIP. To a real behind a tunnel
 * the probe goes inside another packet, as the clients' packets do (tunnel.h).
 *
 * IPv4 only. Probes are never fragmented; fragments of a reply after the
 * first are not recognized.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#define PROBES 65536
#define REPLIES 65536
#define FRAGMENT 0x3fff /* more fragments, or an offset */
#define DONT_FRAGMENT 0x4000

/* Checksum offsets and the ICMP types that matter. */
#define TCP_CHECK 16
#define UDP_CHECK 6
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_LEN 8

/* Where the probes of one mark go. */
struct probe {
	__be32 real;
	__be32 vip;
	__u32 tunnel; /* protocol of the outer header's contents; 0 = no outer header */
};

/* What identifies a reply: the probe's packet, seen from the real. */
struct reply {
	__be32 vip;
	__be32 local;
	__be16 port; /* of the service; 0 for an echo */
	__be16 local_port; /* the identifier of an echo */
	__u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PROBES);
	__type(key, __u32);
	__type(value, struct probe);
} probes SEC(".maps");

/* Probes on their way, and the real that each asks. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, REPLIES);
	__type(key, struct reply);
	__type(value, __be32);
} replies SEC(".maps");

struct ports {
	__be16 source;
	__be16 destination;
};

struct icmp {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 id;
	__be16 sequence;
};

/* The IPv4 header at offset `at`; returns the offset behind it, 0 if it is
 * none or its packet is a fragment.
 */
static __always_inline __u32 load_ipv4(struct __sk_buff *skb, __u32 at, struct iphdr *ip)
{
	if (bpf_skb_load_bytes(skb, at, ip, sizeof(*ip)) < 0)
		return 0;
	if (ip->version != 4 || ip->ihl < 5 || ip->frag_off & bpf_htons(FRAGMENT))
		return 0;
	return at + ip->ihl * 4;
}

/* Where the IP header of a received frame is. After XDP in generic mode the
 * kernel may hand on a copy of the packet whose mac_len is 0
 * (skb_pp_cow_data): then the frame begins with it.
 */
static __always_inline __u32 network_offset(struct __sk_buff *skb)
{
	struct iphdr rel, abs;

	if (bpf_skb_load_bytes_relative(skb, 0, &rel, sizeof(rel), BPF_HDR_START_NET) < 0 ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &abs, sizeof(abs)) < 0)
		return ETH_HLEN;
	return rel.check == abs.check && rel.id == abs.id && rel.saddr == abs.saddr &&
			       rel.daddr == abs.daddr ?
		       ETH_HLEN :
		       0;
}

/* Replaces the address at offset `field` of the IP header at `at`, and mends
 * the header's checksum.
 */
static __always_inline int replace_address(struct __sk_buff *skb, __u32 at, __u32 field, __be32 from,
					   __be32 to)
{
	if (bpf_l3_csum_replace(skb, at + offsetof(struct iphdr, check), from, to, sizeof(to)) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, at + field, &to, sizeof(to), 0);
}

/* The addresses are part of the checksums of TCP and UDP. */
static __always_inline int replace_in_l4_checksum(struct __sk_buff *skb, __u8 protocol, __u32 l4, __be32 from,
						  __be32 to)
{
	__u64 flags = BPF_F_PSEUDO_HDR | sizeof(to);

	if (protocol == IPPROTO_TCP)
		return bpf_l4_csum_replace(skb, l4 + TCP_CHECK, from, to, flags);
	if (protocol == IPPROTO_UDP)
		return bpf_l4_csum_replace(skb, l4 + UDP_CHECK, from, to,
					   flags | BPF_F_MARK_MANGLED_0);
	return 0;
}

/* Puts the packet, whose header is inner, into one for the real. */
static __always_inline int encapsulate(struct __sk_buff *skb, const struct iphdr *inner, __be32 real)
{
	struct iphdr outer = {
		.version = 4,
		.ihl = 5,
		.tos = inner->tos,
		.tot_len = bpf_htons(bpf_ntohs(inner->tot_len) + sizeof(outer)),
		.frag_off = inner->frag_off & bpf_htons(DONT_FRAGMENT),
		.ttl = inner->ttl,
		.protocol = IPPROTO_IPIP,
		.saddr = inner->saddr,
		.daddr = real,
	};
	__u32 sum = bpf_csum_diff(0, 0, (__be32 *)&outer, sizeof(outer), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	outer.check = ~((sum & 0xffff) + (sum >> 16));
	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), BPF_F_INVALIDATE_HASH);
}

SEC("tc")
int probe_out(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;
	struct reply key = {};
	struct probe *probe;
	struct ports ports;
	struct icmp icmp;
	struct iphdr ip;
	__be32 real, vip;
	__u32 l4, tunnel;

	if (!mark || skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	probe = bpf_map_lookup_elem(&probes, &mark);
	if (!probe)
		return TC_ACT_UNSPEC;
	real = probe->real;
	vip = probe->vip;
	tunnel = probe->tunnel;
	l4 = load_ipv4(skb, ETH_HLEN, &ip);
	if (!l4 || ip.daddr != real)
		return TC_ACT_UNSPEC;

	key.vip = vip;
	key.local = ip.saddr;
	key.protocol = ip.protocol;
	if (ip.protocol == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, l4, &icmp, sizeof(icmp)) < 0 || icmp.type != ICMP_ECHO)
			return TC_ACT_UNSPEC;
		key.local_port = icmp.id;
	} else {
		if (bpf_skb_load_bytes(skb, l4, &ports, sizeof(ports)) < 0)
			return TC_ACT_UNSPEC;
		key.port = ports.destination;
		key.local_port = ports.source;
	}
	/* A probe that could not be rewritten must not pass for one that was. */
	if (bpf_map_update_elem(&replies, &key, &real, BPF_ANY) < 0 ||
	    replace_in_l4_checksum(skb, ip.protocol, l4, real, vip) < 0 ||
	    replace_address(skb, ETH_HLEN, offsetof(struct iphdr, daddr), real, vip) < 0)
		return TC_ACT_SHOT;
	if (tunnel && encapsulate(skb, &ip, real) < 0)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* An ICMP error that quotes a probe. The quoted destination becomes the
 * real's, so that the error finds the socket. Its address and its header
 * checksum change by opposite amounts: the ICMP checksum stays right.
 */
static __always_inline int restore_quoted(struct __sk_buff *skb, struct iphdr *ip, __u32 at, __u32 l4)
{
	__u32 quoted = l4 + ICMP_LEN, quoted_l4;
	struct reply key = {};
	struct ports ports;
	struct iphdr inner;
	__be32 *real;

	quoted_l4 = load_ipv4(skb, quoted, &inner);
	if (!quoted_l4 || bpf_skb_load_bytes(skb, quoted_l4, &ports, sizeof(ports)) < 0)
		return TC_ACT_UNSPEC;
	key.vip = inner.daddr;
	key.local = inner.saddr;
	key.port = ports.destination;
	key.local_port = ports.source;
	key.protocol = inner.protocol;
	real = bpf_map_lookup_elem(&replies, &key);
	if (!real)
		return TC_ACT_UNSPEC;
	if (replace_address(skb, quoted, offsetof(struct iphdr, daddr), inner.daddr, *real) < 0)
		return TC_ACT_SHOT;
	if (ip->saddr == inner.daddr &&
	    replace_address(skb, at, offsetof(struct iphdr, saddr), ip->saddr, *real) < 0)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int probe_in(struct __sk_buff *skb)
{
	struct reply key = {};
	struct ports ports;
	struct icmp icmp;
	struct iphdr ip;
	__be32 *real;
	__u32 at, l4;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	at = network_offset(skb);
	l4 = load_ipv4(skb, at, &ip);
	if (!l4)
		return TC_ACT_UNSPEC;

	key.vip = ip.saddr;
	key.local = ip.daddr;
	key.protocol = ip.protocol;
	if (ip.protocol == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, l4, &icmp, sizeof(icmp)) < 0)
			return TC_ACT_UNSPEC;
		if (icmp.type == ICMP_UNREACHABLE || icmp.type == ICMP_TIME_EXCEEDED)
			return restore_quoted(skb, &ip, at, l4);
		if (icmp.type != ICMP_ECHO_REPLY)
			return TC_ACT_UNSPEC;
		key.local_port = icmp.id;
	} else {
		if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		if (bpf_skb_load_bytes(skb, l4, &ports, sizeof(ports)) < 0)
			return TC_ACT_UNSPEC;
		key.port = ports.source;
		key.local_port = ports.destination;
	}
	real = bpf_map_lookup_elem(&replies, &key);
	if (!real)
		return TC_ACT_UNSPEC;
	if (replace_in_l4_checksum(skb, ip.protocol, l4, ip.saddr, *real) < 0 ||
	    replace_address(skb, at, offsetof(struct iphdr, saddr), ip.saddr, *real) < 0)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
