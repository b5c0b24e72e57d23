/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is IPv6's own: its header with extensions, names of addresses, what
 * identifies a flow and a client in the tables, which flow an ICMP error
 * quotes, and the ICMP that we answer with.
 *
 * A key has a name of the client instead of its address: 32 bits of a sum that
 * is keyed with secret words, so that nobody outside can choose two clients of
 * one name. The address is in the set's second line, and every look at a flow
 * compares it. The set follows from the key: two clients of one name meet in
 * the same two sets, each in a place of its own.
 */
#pragma once

#include <linux/ipv6.h>

#include "answer.h"
#include "config.h"
#include "maps6.h"
#include "run.h"
#include "value.h"

#define ETHERTYPE ETH_P_IPV6
#define IP_VERSION 6
#define IP_HEADER 40 /* without extensions */
#define ICMP_PROTOCOL IPPROTO_ICMPV6
#define FLOWS flows6
#define FLOW_PIECES flow_pieces6
#define PIECE_SETS (PIECE_LINES / 2)
#define SET_BYTES 128
#define TEMPLATES templates6
#define FLOW_NEWS flow_news6
#define TEMPLATE_NEWS template_news6
#define OLD_FLOWS old_flows6
#define OLD_FLOW_PIECES old_flow_pieces6
#define OLD_TEMPLATES old_templates6
#define FRAGMENT_OFFSET 0xfff8
#define FRAGMENT_MORE 1
#define EXTENSIONS 8 /* headers between IPv6's own and TCP's, at most */
#define LONGEST_HEADERS 2047 /* bytes of the frame in front of TCP's, at most */

#define ip_header ipv6hdr

#define IS_MISSING(addr) (!(addr)) /* the verifier asks */

enum icmp_number {
	ICMP_UNREACHABLE = 1,
	ICMP_PORT = 4, /* code: port unreachable */
	ICMP_TOO_BIG = 2,
	ICMP_TIME_EXCEEDED = 3,
	ICMP_PARAMETER = 4,
	ICMP_SOLICITATION = 135,
};

/* A neighbour solicitation from its IPv6 header on. */
struct solicitation {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 reserved;
	struct address target;
};

static __always_inline struct addresses6 *get_addresses(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&addresses6, &zero);
}

/* Never ::, which free places have. */
static __always_inline int is_address(const __u64 *word, ip_t addr)
{
	const __u64 *other = (const __u64 *)addr->word;

	return word[0] == other[0] && word[1] == other[1] && (word[0] | word[1]);
}

static __always_inline struct address full_address(ip_t addr)
{
	return *addr;
}

static __always_inline __u32 vip_hash(ip_t addr)
{
	return (addr->word[0] * 0x85ebca6bu + addr->word[1] * 0xc2b2ae35u +
		addr->word[2] * 0x27d4eb2fu + addr->word[3] * 0x9e3779b1u) >>
	       18;
}

/* The kernel's ip_vs_sh.c, ip_vs_dh.c and ip_vs_mh.c: the words are XORed. */
static __always_inline __u32 fold_address(ip_t addr)
{
	return bpf_ntohl(addr->word[0] ^ addr->word[1] ^ addr->word[2] ^ addr->word[3]);
}

/*
 * Sources that name no host, as ip6_rcv_core has them: the unspecified and the
 * loopback address, multicast, and IPv4 in IPv6.
 */
static __always_inline int is_martian(ip_t source)
{
	const __u32 *w = source->word;

	if ((w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return 1;
	if (w[0] | w[1])
		return 0;
	return w[2] == bpf_htonl(0xffff) || (!w[2] && (!w[3] || w[3] == bpf_htonl(1)));
}

static __always_inline __u32 length_of(const struct ip_header *ip)
{
	return bpf_ntohs(ip->payload_len) + sizeof(*ip);
}

static __always_inline __u8 ttl_of(const struct ip_header *ip)
{
	return ip->hop_limit;
}

static __always_inline ip_t source_of(struct ip_header *ip)
{
	return (ip_t)&ip->saddr;
}

static __always_inline void decrease_ttl(void *header)
{
	*(__u8 *)(header + 7) -= 1;
}

/*
 * Skip extension headers: 0, or 1 if they are cut short, too many, or say
 * nonsense. A later fragment has nothing behind its own header. A global
 * function: it is verified once.
 */
__attribute__((noinline)) int skip_extensions(struct xdp_md *ctx, struct extensions *e)
{
	if (!e)
		return 1;
	for (int i = 0; i < EXTENSIONS + 1; i++) {
		__u8 header[8] = {};
		__u32 next = e->next, size;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT &&
		    next != IPPROTO_AH && next != IPPROTO_DSTOPTS)
			return 0;
		if (i == EXTENSIONS || bpf_xdp_load_bytes(ctx, e->at, header, sizeof(header)))
			return 1;
		size = (header[1] + 1) * 8;
		if (next == IPPROTO_AH)
			size = (header[1] + 2) * 4;
		if (next == IPPROTO_FRAGMENT) {
			size = 8;
			e->fragment = *(__be16 *)(header + 2) & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE);
			e->id = *(__be32 *)(header + 4);
		}
		e->next = header[0];
		e->at += size;
		if (e->fragment & bpf_htons(FRAGMENT_OFFSET))
			return 0;
	}
	return 1;
}

/* The header at p->ip. Fills everything but the ports. */
static __always_inline int parse_header(struct xdp_md *ctx, void *data, void *end, struct packet *p)
{
	struct ipv6hdr *ip = data + p->ip;
	struct addresses6 *a = get_addresses();
	struct extensions *e;
	__u32 at;

	if (!a || (void *)(ip + 1) > end)
		return VERDICT_MALFORMED;
	if (ip->version != 6)
		return VERDICT_MALFORMED;
	p->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	p->ttl = ip->hop_limit;
	p->dont_fragment = 1;
	__builtin_memcpy(&a->packet.source, &ip->saddr, 16);
	__builtin_memcpy(&a->packet.destination, &ip->daddr, 16);
	p->source = &a->packet.source;
	p->destination = &a->packet.destination;
	e = &a->extensions;
	e->fragment = 0;
	e->id = 0;
	e->at = p->ip + sizeof(*ip);
	e->next = ip->nexthdr;
	if (skip_extensions(ctx, e))
		return VERDICT_MALFORMED;
	at = e->at;
	if (at > p->ip + p->length || at > LONGEST_HEADERS)
		return VERDICT_MALFORMED;
	p->l4 = at;
	p->protocol = e->next;
	p->fragment = e->fragment;
	a->packet.id = e->id;
	a->packet.protocol = e->next;
	return CONTINUE;
}

static __always_inline int is_later_fragment(const struct packet *p)
{
	return p->fragment & bpf_htons(FRAGMENT_OFFSET);
}

/* The neighbour solicitation that the frame is, or 0. */
static __always_inline struct solicitation *find_solicitation(void *data, void *end)
{
	__u32 at = parse_ethernet(data, end, bpf_htons(ETH_P_IPV6));
	struct solicitation *ask = data + at;

	if (!at || (void *)(ask + 1) > end || ask->ip.nexthdr != IPPROTO_ICMPV6 ||
	    ask->type != ICMP_SOLICITATION)
		return 0;
	return ask;
}

static __always_inline int is_solicitation(void *data, void *end)
{
	return !!find_solicitation(data, end);
}

static __always_inline __u32 name_of(const struct settings *s, const struct address *a)
{
	return (s->name_key[0] + s->name_key[1] * a->word[0] + s->name_key[2] * a->word[1] +
		s->name_key[3] * a->word[2] + s->name_key[4] * a->word[3]) >>
	       32;
}

/* Whose flows and templates are meant, without a packet. */
static __always_inline void set_current_owner(const struct address *owner)
{
	struct addresses6 *a = get_addresses();

	if (!a)
		return;
	a->client = *owner;
	a->network = *owner;
}

static __always_inline const struct address *current_client(void)
{
	struct addresses6 *a = get_addresses();

	return a ? &a->client : 0;
}

static __always_inline const struct address *current_network(void)
{
	struct addresses6 *a = get_addresses();

	return a ? &a->network : 0;
}

static __always_inline __u64 flow_key(__u32 name, __be16 port, __u16 vip)
{
	return name | (__u64)port << 32 | (__u64)vip << 48;
}

/* Of the key and the VIP's port: clients of one name meet in the same sets. */
static __always_inline __u64 flow_hash(const struct settings *s, __u64 key, __be16 port)
{
	__u64 h = (key ^ s->seed[0]) * (s->seed[1] | 1);

	h ^= h >> 32;
	h = (h ^ port) * (s->seed[2] | 1);
	return h ^ h >> 29;
}

/* Which flow the packet is of, at the VIP whose number for the protocol this is. */
static __always_inline void identify_flow(struct run *r, __u16 vip)
{
	struct addresses6 *a = get_addresses();

	if (!a)
		return;
	a->client = *r->p.source;
	r->flow.key = flow_key(name_of(r->s, r->p.source), r->p.source_port, vip);
	r->flow.hash = flow_hash(r->s, r->flow.key, r->p.destination_port);
}

/* Of the client's network, whose prefix length is the service's mask. */
static __always_inline __u64 template_key(ip_t client, const struct service *svc)
{
	__u32 prefix = svc->persist_mask;
	struct addresses6 *a = get_addresses();

	if (!a)
		return 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 bits = prefix > 32 * i ? prefix - 32 * i : 0;
		__u32 host = bits >= 32 ? 0 : 0xffffffffu >> bits;

		a->network.word[i] = client->word[i] & bpf_htonl(~host);
	}
	return name_of(get_settings(), &a->network) | (__u64)svc->cookie << 32;
}

static __always_inline __u64 template_hash(const struct settings *s, __u64 key)
{
	__u64 h = (key ^ s->seed[1]) * (s->seed[2] | 1);

	h ^= h >> 32;
	h *= s->seed[0] | 1;
	return h ^ h >> 29;
}

/* The errors that IPVS forwards; other types are the director's own. */
static __always_inline int is_icmp_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_TOO_BIG || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER;
}

static __always_inline struct fragment *find_note(const struct packet *p)
{
	struct addresses6 *a = get_addresses();

	return a ? bpf_map_lookup_elem(&fragments6, &a->packet) : 0;
}

static __always_inline void store_note(const struct packet *p, struct fragment *note)
{
	struct addresses6 *a = get_addresses();

	if (a && STORES)
		bpf_map_update_elem(&fragments6, &a->packet, note, BPF_ANY);
}

/* The daemon holds fragments of IPv4 only. */
static __always_inline int hold_fragment(struct run *r)
{
	return 1;
}

/*
 * Fill p with the tuple of the flow that the ICMP error at p->l4 quotes. The
 * quoted packet went from the VIP to the client, so its tuple is the flow's
 * reversed; it may have extension headers.
 */
static __always_inline int parse_quoted(struct xdp_md *ctx, void *data, void *end, struct packet *p)
{
	struct icmp *icmp = data + p->l4;
	struct ipv6hdr *ip = (void *)(icmp + 1);
	struct addresses6 *a = get_addresses();
	struct extensions *e;
	__be16 ports[4];

	if (!a || p->length < p->l4 - p->ip + sizeof(*icmp) || (void *)(icmp + 1) > end)
		return PASS(VERDICT_MALFORMED);
	if (!is_icmp_error(icmp->type))
		return PASS(VERDICT_OTHER_PROTOCOL);
	if ((void *)(ip + 1) > end)
		return PASS(VERDICT_ICMP_NO_FLOW);
	__builtin_memcpy(&a->quoted, &ip->saddr, 16);
	if (ip->version != 6 || !is_same_address(&a->quoted, p->destination))
		return PASS(VERDICT_ICMP_NO_FLOW);
	__builtin_memcpy(&a->quoted, &ip->daddr, 16);
	e = &a->extensions;
	e->fragment = 0;
	e->at = p->l4 + sizeof(*icmp) + sizeof(*ip);
	e->next = ip->nexthdr;
	if (skip_extensions(ctx, e) || e->fragment & bpf_htons(FRAGMENT_OFFSET) ||
	    e->at + 8 > p->ip + p->length || bpf_xdp_load_bytes(ctx, e->at, ports, sizeof(ports)))
		return PASS(VERDICT_ICMP_NO_FLOW);
	p->protocol = e->next;
	p->source = &a->quoted;
	p->destination_port = ports[0];
	p->source_port = ports[1];
	return CONTINUE;
}

#define QUOTE_MOST 1232 /* 1280 - IPv6 header - ICMP header */
#define ICMP_HEADERS 48

/* The sum of the pseudo-header: addresses, length, protocol (RFC 8200, section 8.1). */
static __always_inline __u32 pseudo_sum(const struct ipv6hdr *ip, __u32 size)
{
	const __u16 *word = (const __u16 *)&ip->saddr;
	__u32 sum = bpf_htons(size) + bpf_htons(IPPROTO_ICMPV6);

#pragma unroll
	for (int i = 0; i < 16; i++)
		sum += word[i];
	return sum;
}

/* The IPv6 header of an answer to the packet that it quotes. */
static __always_inline void fill_ip(struct ipv6hdr *reply, const struct ipv6hdr *quoted, __u32 size)
{
	*(__be32 *)reply = bpf_htonl(0x60000000);
	reply->payload_len = bpf_htons(size);
	reply->nexthdr = IPPROTO_ICMPV6;
	reply->hop_limit = 64;
	reply->saddr = quoted->daddr;
	reply->daddr = quoted->saddr;
}

/* Turn the frame into the answer. Its own function: it is verified once. */
__attribute__((noinline)) int answer(struct xdp_md *ctx, struct answer *a)
{
	void *data, *end;
	struct ipv6hdr *reply;
	struct icmp *icmp;
	__u32 size, ip, frame, pseudo;
	__u16 sum;

	if (!a)
		return DROP(VERDICT_NO_REAL);
	if (!take_answer_token())
		return DROP(VERDICT_ANSWER_LIMITED);
	ip = a->ip;
	if (ip != 14 && ip != 18 && ip != 22)
		return DROP(VERDICT_NO_REAL);
	size = a->length < QUOTE_MOST ? a->length : QUOTE_MOST;
	frame = bpf_xdp_get_buff_len(ctx);
	if (bpf_xdp_adjust_tail(ctx, (int)(ip + size) - (int)frame) ||
	    bpf_xdp_adjust_head(ctx, -ICMP_HEADERS))
		return DROP(VERDICT_NO_REAL);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (!move_ethernet(data, end, ip, ICMP_HEADERS))
		return DROP(VERDICT_NO_REAL);
	reply = data + ip;
	if ((void *)reply + ICMP_HEADERS + sizeof(*reply) > end)
		return DROP(VERDICT_NO_REAL);
	icmp = (void *)(reply + 1);
	fill_ip(reply, (void *)(icmp + 1), size + sizeof(*icmp));
	icmp->type = ICMP_UNREACHABLE;
	icmp->code = ICMP_PORT;
	*(__be32 *)&icmp->unused = 0;
	if (a->verdict == VERDICT_ANSWERED_TTL) {
		icmp->type = ICMP_TIME_EXCEEDED;
		icmp->code = 0;
	} else if (a->verdict == VERDICT_ANSWERED_TOO_BIG) {
		icmp->type = ICMP_TOO_BIG;
		icmp->code = 0;
		*(__be32 *)&icmp->unused = bpf_htonl(a->mtu);
	}
	icmp->checksum = 0;
	pseudo = pseudo_sum(reply, size + sizeof(*icmp));
	/* The checksum last: its helper calls end what is known of the frame. */
	sum = fold_sum(frame_sum(ctx, ip + sizeof(*reply), size + sizeof(*icmp), QUOTE_MOST + sizeof(*icmp), pseudo));
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	icmp = data + ip + sizeof(*reply);
	if ((void *)(icmp + 1) > end)
		return DROP(VERDICT_NO_REAL);
	icmp->checksum = sum;
	return OUTCOME(a->verdict, XDP_TX);
}
