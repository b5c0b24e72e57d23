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
 * A VIP may be of another family than its real. The socket is of the real's, so
 * that routes and neighbours are those of the outer packet; the probe becomes a
 * packet of the VIP's family before it is encapsulated, and the reply one of the
 * real's.
 *
 * Probes are never fragmented; fragments of a reply
 * after the first, and replies of IPv6 with extension headers, are not
 * recognized. Nor are, between families, replies with options and ICMP errors.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#define PROBES 65536
#define REPLIES 65536
#define FRAGMENT 0x3fff /* more fragments, or an offset */
#define DONT_FRAGMENT 0x4000
#define SPREAD_PORTS 0xc000 /* that GUE comes from: 49152 to 65535 */
#define PROTOCOL_GRE 47

/* Checksum offsets and the ICMP types that matter. */
#define TCP_CHECK 16
#define UDP_CHECK 6
#define ICMP6_CHECK 2
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP6_UNREACHABLE 1
#define ICMP6_TIME_EXCEEDED 3
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ICMP_LEN 8

/* An address; one of IPv4 is ::ffff:a.b.c.d. */
struct address {
	__be32 word[4];
};

/* Where the probes of one mark go. */
struct probe {
	struct address real;
	struct address vip;
	struct address source; /* of the VIP's family, where the real's is another one */
	__u32 tunnel; /* protocol of the outer header's contents; 0 = no outer header */
	__u32 port; /* of the real, for GUE; in network order */
};

/* UDP's header and GUE's, and GRE's (tunnel.h). */
struct gue {
	__be16 source;
	__be16 port;
	__be16 length;
	__u16 check; /* none */
	__u8 control;
	__u8 protocol;
	__be16 flags;
};

struct gre {
	__be16 flags;
	__be16 type;
};

/* What identifies a reply: the probe's packet, seen from the real. */
struct reply {
	struct address vip;
	struct address local;
	__be16 port; /* of the service; 0 for an echo */
	__be16 local_port; /* the identifier of an echo */
	__u32 protocol;
};

/* What the socket of a probe has. */
struct ends {
	struct address real;
	struct address local;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PROBES);
	__type(key, __u32);
	__type(value, struct probe);
} probes SEC(".maps");

/* Probes on their way, and whose each is. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, REPLIES);
	__type(key, struct reply);
	__type(value, struct ends);
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

/* An IP header. */
struct packet {
	struct address from, to;
	__u32 at; /* its offset */
	__u32 l4; /* the offset behind it */
	__be16 dont_fragment;
	__u16 length; /* of the packet */
	__u8 protocol;
	__u8 tos;
	__u8 ttl;
	__u8 is_ipv6;
};

/* What a checksum of TCP, UDP or ICMP sums, as far as it differs between families. */
struct sum {
	struct address from, to; /* that ::ffff:a.b.c.d and a.b.c.d have the same sum serves */
	__be32 length;
	__be32 protocol;
	__be32 type;
};

static __always_inline int is_same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline int is_ipv4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline struct address from_ipv4(__be32 a)
{
	return (struct address){ { 0, 0, bpf_htonl(0xffff), a } };
}

static __always_inline int load_ipv4(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0)
		return 0;
	if (ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(FRAGMENT))
		return 0;
	p->from = from_ipv4(ip.saddr);
	p->to = from_ipv4(ip.daddr);
	p->l4 = at + ip.ihl * 4;
	p->dont_fragment = ip.frag_off & bpf_htons(DONT_FRAGMENT);
	p->length = bpf_ntohs(ip.tot_len);
	p->protocol = ip.protocol;
	p->tos = ip.tos;
	p->ttl = ip.ttl;
	return 1;
}

static __always_inline int load_ipv6(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || ip.version != 6)
		return 0;
	__builtin_memcpy(&p->from, &ip.saddr, sizeof(p->from));
	__builtin_memcpy(&p->to, &ip.daddr, sizeof(p->to));
	p->l4 = at + sizeof(ip);
	p->dont_fragment = 0;
	p->length = bpf_ntohs(ip.payload_len) + sizeof(ip);
	p->protocol = ip.nexthdr;
	p->tos = bpf_ntohs(*(__be16 *)&ip) >> 4;
	p->ttl = ip.hop_limit;
	return 1;
}

/* Reads the IP header at offset `at`; reports whether it is one, of a packet
 * that is no fragment.
 */
static __always_inline int load_packet(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	p->at = at;
	p->is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (p->is_ipv6)
		return load_ipv6(skb, at, p);
	return skb->protocol == bpf_htons(ETH_P_IP) && load_ipv4(skb, at, p);
}

/* Where the IP header of a received frame is. After XDP in generic mode the
 * kernel may hand on a copy of the packet whose mac_len is 0
 * (skb_pp_cow_data): then the frame begins with it.
 */
static __always_inline __u32 network_offset(struct __sk_buff *skb)
{
	__u32 rel[5], abs[5]; /* the first 20 bytes, which each family has */

	if (bpf_skb_load_bytes_relative(skb, 0, rel, sizeof(rel), BPF_HDR_START_NET) < 0 ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, abs, sizeof(abs)) < 0)
		return ETH_HLEN;
	return rel[0] == abs[0] && rel[1] == abs[1] && rel[2] == abs[2] && rel[3] == abs[3] &&
			       rel[4] == abs[4] ?
		       ETH_HLEN :
		       0;
}

/* Replaces the source or the destination of an IP header. IPv4's own checksum
 * is mended. IPv6 has none: there skb->csum, where a NIC summed the packet, is
 * mended, from which replace_in_l4_checksum takes the change away again.
 */
static __always_inline int replace_address(struct __sk_buff *skb, const struct packet *p, int is_source,
					   const struct address *from, const struct address *to)
{
	__u32 field;

	if (p->is_ipv6) {
		field = is_source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
		return bpf_skb_store_bytes(skb, p->at + field, to, sizeof(*to), BPF_F_RECOMPUTE_CSUM);
	}
	field = is_source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	if (bpf_l3_csum_replace(skb, p->at + offsetof(struct iphdr, check), from->word[3], to->word[3],
				sizeof(__be32)) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, p->at + field, &to->word[3], sizeof(__be32), 0);
}

/* The addresses are part of the checksums of TCP, UDP and ICMPv6. */
static __always_inline int replace_in_l4_checksum(struct __sk_buff *skb, const struct packet *p,
						  const struct address *from, const struct address *to)
{
	__u64 flags = BPF_F_PSEUDO_HDR;
	__u32 check;
	__s64 diff;

	switch (p->protocol) {
	case IPPROTO_TCP:
		check = p->l4 + TCP_CHECK;
		break;
	case IPPROTO_UDP:
		check = p->l4 + UDP_CHECK;
		flags |= BPF_F_MARK_MANGLED_0;
		break;
	case IPPROTO_ICMPV6:
		check = p->l4 + ICMP6_CHECK;
		break;
	default:
		return 0;
	}
	if (!p->is_ipv6)
		return bpf_l4_csum_replace(skb, check, from->word[3], to->word[3], flags | sizeof(__be32));
	diff = bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)to, sizeof(*to), 0);
	return bpf_l4_csum_replace(skb, check, 0, diff, flags);
}

static __always_inline int replace_both(struct __sk_buff *skb, const struct packet *p, int is_source,
					const struct address *from, const struct address *to)
{
	if (replace_in_l4_checksum(skb, p, from, to) < 0)
		return -1;
	return replace_address(skb, p, is_source, from, to);
}

/* Writes the IP header of a packet, over what is there. */
static __always_inline int store_ipv4(struct __sk_buff *skb, const struct packet *p, __u64 flags)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = p->tos,
		.tot_len = bpf_htons(p->length),
		.frag_off = p->dont_fragment,
		.ttl = p->ttl,
		.protocol = p->protocol,
		.saddr = p->from.word[3],
		.daddr = p->to.word[3],
	};
	__u32 sum = bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	ip.check = ~((sum & 0xffff) + (sum >> 16));
	return bpf_skb_store_bytes(skb, p->at, &ip, sizeof(ip), flags);
}

static __always_inline int store_ipv6(struct __sk_buff *skb, const struct packet *p, __u64 flags)
{
	struct ipv6hdr ip = {}; /* no flow label */

	*(__be32 *)&ip = bpf_htonl(0x60000000 | p->tos << 20);
	ip.payload_len = bpf_htons(p->length - sizeof(ip));
	ip.nexthdr = p->protocol;
	ip.hop_limit = p->ttl;
	__builtin_memcpy(&ip.saddr, &p->from, sizeof(p->from));
	__builtin_memcpy(&ip.daddr, &p->to, sizeof(p->to));
	return bpf_skb_store_bytes(skb, p->at, &ip, sizeof(ip), flags);
}

/* Puts the packet into one between an address of this host and the real. */
static __always_inline int encapsulate(struct __sk_buff *skb, const struct probe *probe, struct packet *p,
				       const struct address *from, __be16 local_port)
{
	int is_ipv6 = !is_ipv4(&probe->real);
	__u32 base = is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr), room = base;
	__u64 flags = is_ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	struct gre gre = { .type = p->is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP) };
	struct gue gue = {
		.source = local_port | bpf_htons(SPREAD_PORTS),
		.port = probe->port,
		.length = bpf_htons(p->length + sizeof(gue)),
		.protocol = p->is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP,
	};

	if (probe->tunnel == IPPROTO_UDP) {
		room += sizeof(gue);
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	} else if (probe->tunnel == PROTOCOL_GRE) {
		room += sizeof(gre);
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	}
	if (bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, flags) < 0)
		return -1;
	if (probe->tunnel == IPPROTO_UDP && bpf_skb_store_bytes(skb, ETH_HLEN + base, &gue, sizeof(gue), 0) < 0)
		return -1;
	if (probe->tunnel == PROTOCOL_GRE && bpf_skb_store_bytes(skb, ETH_HLEN + base, &gre, sizeof(gre), 0) < 0)
		return -1;
	if (p->is_ipv6 != is_ipv6)
		p->dont_fragment = 0;
	p->from = *from;
	p->to = probe->real;
	p->length += room;
	p->protocol = probe->tunnel;
	if (is_ipv6)
		return store_ipv6(skb, p, BPF_F_INVALIDATE_HASH);
	return store_ipv4(skb, p, BPF_F_INVALIDATE_HASH);
}

static __always_inline int is_icmp(const struct packet *p)
{
	return p->protocol == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* An echo of the other family (RFC 7915, sections 4.2 and 5.2). */
static __always_inline __u8 translate_type(__u8 type)
{
	switch (type) {
	case ICMP_ECHO:
		return ICMP6_ECHO;
	case ICMP_ECHO_REPLY:
		return ICMP6_ECHO_REPLY;
	case ICMP6_ECHO:
		return ICMP_ECHO;
	default:
		return ICMP_ECHO_REPLY;
	}
}

static __always_inline void sum_of(struct sum *sum, const struct packet *p, __u8 type)
{
	if (!is_icmp(p) || p->is_ipv6) {
		sum->from = p->from;
		sum->to = p->to;
	}
	if (!is_icmp(p))
		return;
	sum->type = bpf_htonl(type << 24);
	if (p->is_ipv6) {
		sum->length = bpf_htonl(p->length - sizeof(struct ipv6hdr));
		sum->protocol = bpf_htonl(IPPROTO_ICMPV6);
	}
}

static __always_inline int store_translated(struct __sk_buff *skb, const struct packet *p)
{
	if (p->is_ipv6)
		return bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0) < 0 ||
				       store_ipv6(skb, p, BPF_F_RECOMPUTE_CSUM) < 0 ?
			       -1 :
			       0;
	return bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0) < 0 ||
			       store_ipv4(skb, p, BPF_F_RECOMPUTE_CSUM) < 0 ?
		       -1 :
		       0;
}

/* Makes a packet, an echo if it is one of ICMP, one of the other family, from and
 * to these addresses. What p says is then true of it.
 */
static __always_inline int translate(struct __sk_buff *skb, struct packet *p, const struct address *from,
				     const struct address *to)
{
	const __u32 more = sizeof(struct ipv6hdr) - sizeof(struct iphdr);
	struct sum before = {}, after = {};
	__u64 flags = BPF_F_PSEUDO_HDR;
	__u8 type = 0, other = 0;
	__u32 l4 = p->l4, check;
	int icmp = is_icmp(p);

	if (!p->is_ipv6 && l4 - p->at != sizeof(struct iphdr))
		return -1;
	if (icmp && bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) < 0)
		return -1;
	other = translate_type(type);
	sum_of(&before, p, type);
	p->from = *from;
	p->to = *to;
	p->is_ipv6 = !p->is_ipv6;
	p->length += p->is_ipv6 ? more : -more;
	p->dont_fragment = bpf_htons(DONT_FRAGMENT);
	p->l4 += p->is_ipv6 ? more : -more;
	if (icmp)
		p->protocol = p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	sum_of(&after, p, other);
	if (icmp && bpf_skb_store_bytes(skb, l4, &other, sizeof(other), BPF_F_RECOMPUTE_CSUM) < 0)
		return -1;
	if (icmp) {
		check = l4 + ICMP6_CHECK;
	} else if (p->protocol == IPPROTO_TCP) {
		check = l4 + TCP_CHECK;
	} else {
		check = l4 + UDP_CHECK;
		flags |= BPF_F_MARK_MANGLED_0;
	}
	if (bpf_l4_csum_replace(
		    skb, check, 0,
		    bpf_csum_diff((__be32 *)&before, sizeof(before), (__be32 *)&after, sizeof(after), 0), flags) < 0)
		return -1;
	return store_translated(skb, p);
}

SEC("tc")
int probe_out(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;
	struct packet p = {};
	struct reply key = {};
	struct ends ends;
	struct probe *probe;
	struct ports ports;
	struct icmp icmp;
	int crosses, err;

	if (!mark)
		return TC_ACT_UNSPEC;
	probe = bpf_map_lookup_elem(&probes, &mark);
	if (!probe)
		return TC_ACT_UNSPEC;
	if (!load_packet(skb, ETH_HLEN, &p) || !is_same(&p.to, &probe->real))
		return TC_ACT_UNSPEC;
	crosses = p.is_ipv6 == is_ipv4(&probe->vip);

	ends.real = p.to;
	ends.local = p.from;
	key.vip = probe->vip;
	key.local = crosses ? probe->source : p.from;
	key.protocol = p.protocol;
	if (is_icmp(&p)) {
		if (bpf_skb_load_bytes(skb, p.l4, &icmp, sizeof(icmp)) < 0 ||
		    icmp.type != (p.is_ipv6 ? ICMP6_ECHO : ICMP_ECHO))
			return TC_ACT_UNSPEC;
		key.local_port = icmp.id;
		if (crosses)
			key.protocol = p.is_ipv6 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	} else {
		if (bpf_skb_load_bytes(skb, p.l4, &ports, sizeof(ports)) < 0)
			return TC_ACT_UNSPEC;
		key.port = ports.destination;
		key.local_port = ports.source;
	}
	/* A probe that could not be rewritten must not pass for one that was. */
	if (bpf_map_update_elem(&replies, &key, &ends, BPF_ANY) < 0)
		return TC_ACT_SHOT;
	err = crosses ? translate(skb, &p, &key.local, &key.vip) : replace_both(skb, &p, 0, &ends.real, &key.vip);
	if (err < 0)
		return TC_ACT_SHOT;
	if (probe->tunnel && encapsulate(skb, probe, &p, &ends.local, key.local_port) < 0)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* An ICMP error that quotes a probe. The quoted destination becomes the
 * real's, so that the error finds the socket. IPv4's quoted header checksum
 * changes by the opposite amount, so that the ICMP checksum stays right.
 */
static __always_inline int restore_quoted(struct __sk_buff *skb, const struct packet *p)
{
	struct packet quoted = {};
	struct reply key = {};
	struct ends *ends;
	struct ports ports;

	if (!load_packet(skb, p->l4 + ICMP_LEN, &quoted) ||
	    bpf_skb_load_bytes(skb, quoted.l4, &ports, sizeof(ports)) < 0)
		return TC_ACT_UNSPEC;
	key.vip = quoted.to;
	key.local = quoted.from;
	key.port = ports.destination;
	key.local_port = ports.source;
	key.protocol = quoted.protocol;
	ends = bpf_map_lookup_elem(&replies, &key);
	if (!ends || p->is_ipv6 == is_ipv4(&ends->real))
		return TC_ACT_UNSPEC;
	if (replace_in_l4_checksum(skb, p, &quoted.to, &ends->real) < 0 ||
	    replace_address(skb, &quoted, 0, &quoted.to, &ends->real) < 0)
		return TC_ACT_SHOT;
	if (is_same(&p->from, &quoted.to) && replace_both(skb, p, 1, &quoted.to, &ends->real) < 0)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

static __always_inline int is_error(const struct packet *p, __u8 type)
{
	if (p->is_ipv6)
		return type >= ICMP6_UNREACHABLE && type <= ICMP6_TIME_EXCEEDED;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED;
}

SEC("tc")
int probe_in(struct __sk_buff *skb)
{
	struct packet p = {};
	struct reply key = {};
	struct ends *ends;
	struct ports ports;
	struct icmp icmp;
	int err;

	if (!load_packet(skb, network_offset(skb), &p))
		return TC_ACT_UNSPEC;
	key.vip = p.from;
	key.local = p.to;
	key.protocol = p.protocol;
	if (is_icmp(&p)) {
		if (bpf_skb_load_bytes(skb, p.l4, &icmp, sizeof(icmp)) < 0)
			return TC_ACT_UNSPEC;
		if (is_error(&p, icmp.type))
			return restore_quoted(skb, &p);
		if (icmp.type != (p.is_ipv6 ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY))
			return TC_ACT_UNSPEC;
		key.local_port = icmp.id;
	} else {
		if (p.protocol != IPPROTO_TCP && p.protocol != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		if (bpf_skb_load_bytes(skb, p.l4, &ports, sizeof(ports)) < 0)
			return TC_ACT_UNSPEC;
		key.port = ports.source;
		key.local_port = ports.destination;
	}
	ends = bpf_map_lookup_elem(&replies, &key);
	if (!ends)
		return TC_ACT_UNSPEC;
	if (p.is_ipv6 == is_ipv4(&ends->real))
		err = translate(skb, &p, &ends->real, &ends->local);
	else
		err = replace_both(skb, &p, 1, &p.from, &ends->real);
	return err < 0 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
