/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is IPv4's own: its header, what identifies a flow and a client in the
 * tables, which flow an ICMP error quotes, and the ICMP that we answer with.
 */
#pragma once

#include <linux/ip.h>

#include "answer.h"
#include "run.h"
#include "value.h"

#define ETHERTYPE ETH_P_IP
#define IP_VERSION 4
#define IP_HEADER 20 /* without options */
#define ICMP_PROTOCOL IPPROTO_ICMP
#define FLOWS flows
#define FLOW_PIECES flow_pieces
#define PIECE_SETS PIECE_LINES
#define SET_BYTES 64
#define TEMPLATES templates
#define FLOW_NEWS flow_news
#define TEMPLATE_NEWS template_news
#define OLD_FLOWS old_flows
#define OLD_FLOW_PIECES old_flow_pieces
#define OLD_TEMPLATES old_templates
#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE 0x2000
#define FRAGMENT_DONT 0x4000

#define ip_header iphdr

#define IS_MISSING(addr) 0 /* any number is an address */

enum icmp_number {
	ICMP_UNREACHABLE = 3,
	ICMP_PORT = 3, /* code: port unreachable */
	ICMP_FRAG_NEEDED = 4, /* code */
	ICMP_SOURCE_QUENCH = 4,
	ICMP_TIME_EXCEEDED = 11,
};

/*
 * Sources that name no host: 0/8, 127/8, multicast, broadcast. No stack takes
 * packets from them (ip_route_input_slow), and they must never be answered.
 */
static __always_inline int is_martian(__be32 source)
{
	__u8 first = bpf_ntohl(source) >> 24;

	return first == 0 || first == 127 || (first & 0xf0) == 0xe0 || source == ~0u;
}

static __always_inline __u32 length_of(const struct ip_header *ip)
{
	return bpf_ntohs(ip->tot_len);
}

static __always_inline __u8 ttl_of(const struct ip_header *ip)
{
	return ip->ttl;
}

static __always_inline ip_t source_of(struct ip_header *ip)
{
	return ip->saddr;
}

/* The header at p->ip. Fills everything but the ports. */
static __always_inline int parse_header(struct xdp_md *ctx, void *data, void *end, struct packet *p)
{
	struct iphdr *ip = data + p->ip;
	__u32 header;

	if ((void *)(ip + 1) > end)
		return VERDICT_MALFORMED;
	header = ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || p->length < header)
		return VERDICT_MALFORMED;
	p->l4 = p->ip + header;
	p->source = ip->saddr;
	p->destination = ip->daddr;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->dont_fragment = !!(ip->frag_off & bpf_htons(FRAGMENT_DONT));
	p->fragment = ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE);
	p->id = ip->id;
	return CONTINUE;
}

/* The same address in a struct address, which words are of. */
static __always_inline int is_address(const __u64 *word, ip_t addr)
{
	return word[0] == 0 && word[1] == ((__u64)addr << 32 | bpf_htonl(0xffff));
}

static __always_inline struct address full_address(ip_t addr)
{
	struct address full = { .word = { 0, 0, bpf_htonl(0xffff), addr } };

	return full;
}

/* Which line of vips a search begins with. */
static __always_inline __u32 vip_hash(ip_t addr)
{
	return addr * 0x9e3779b1u >> 18;
}

/* What the hashing schedulers take of an address, in host order. */
static __always_inline __u32 fold_address(ip_t addr)
{
	return bpf_ntohl(addr);
}

/* RFC 1624, for a TTL that is one less: include/net/ip.h, ip_decrease_ttl. */
static __always_inline void decrease_ttl(void *header)
{
	struct iphdr *ip = header;
	__u32 sum = ip->check + bpf_htons(0x0100);

	ip->check = sum + (sum >= 0xffff);
	ip->ttl -= 1;
}

static __always_inline __u64 flow_key(__be32 client, __be16 port, __u16 vip)
{
	return client | (__u64)port << 32 | (__u64)vip << 48;
}

/*
 * Of what is in the packet, not of the key: the flow's line need not wait for
 * the VIP's, which among thousands of VIPs is not near either.
 *
 * Keyed, so that nobody outside can choose clients that meet in one set. VIP
 * and port enter after the first multiplication: an attacker who knew which
 * clients collide would have to know the seed.
 */
static __always_inline __u64 flow_hash(const struct settings *s, __be32 client, __be16 client_port,
				       __be32 vip, __be16 port)
{
	__u64 h = ((client | (__u64)client_port << 32) ^ s->seed[0]) * (s->seed[1] | 1);

	h ^= h >> 32;
	h = (h ^ (vip | (__u64)port << 32)) * (s->seed[2] | 1);
	return h ^ h >> 29;
}

/* A key of IPv4 has the whole address: no place names its owner. */
/* Keys hold the client itself. */
static __always_inline void set_current_owner(const struct address *owner)
{
}

static __always_inline const struct address *current_client(void)
{
	return 0;
}

static __always_inline const struct address *current_network(void)
{
	return 0;
}

/* Which flow the packet is of, at the VIP whose number for the protocol this is. */
static __always_inline void identify_flow(struct run *r, __u16 vip)
{
	r->flow.key = flow_key(r->p.source, r->p.source_port, vip);
	r->flow.hash = flow_hash(r->s, r->p.source, r->p.source_port, r->p.destination,
				 r->p.destination_port);
}

static __always_inline __u64 template_key(__be32 client, const struct service *svc)
{
	return (client & svc->persist_mask) | (__u64)svc->cookie << 32;
}

static __always_inline __u64 template_hash(const struct settings *s, __u64 key)
{
	__u64 h = (key ^ s->seed[1]) * (s->seed[2] | 1);

	h ^= h >> 32;
	h *= s->seed[0] | 1;
	return h ^ h >> 29;
}

/* Neighbour discovery is IPv6's; ARP is no IPv4. */
static __always_inline int is_solicitation(void *data, void *end)
{
	return 0;
}

static __always_inline int is_later_fragment(const struct packet *p)
{
	return p->fragment & bpf_htons(FRAGMENT_OFFSET);
}

static __always_inline struct fragment_key fragment_key_of(const struct packet *p)
{
	struct fragment_key key = {
		.source = p->source,
		.destination = p->destination,
		.id = p->id,
		.protocol = p->protocol,
	};

	return key;
}

static __always_inline struct fragment *find_note(const struct packet *p)
{
	struct fragment_key key = fragment_key_of(p);

	return bpf_map_lookup_elem(&fragments, &key);
}

static __always_inline void store_note(const struct packet *p, struct fragment *note)
{
	struct fragment_key key = fragment_key_of(p);

	if (STORES)
		bpf_map_update_elem(&fragments, &key, note, BPF_ANY);
}

/* Hand the frame to the daemon. 0 if it took it. */
static __always_inline int hold_fragment(struct run *r)
{
	__u64 size = bpf_xdp_get_buff_len(r->ctx);
	struct held_frame *h;

	if (bpf_jiffies64() > r->s->alive)
		return 1;
	if (size < ETHER || size > sizeof(h->frame))
		return 1;
	if (!STORES)
		return 0;
	h = bpf_ringbuf_reserve(&held, sizeof(*h), 0);
	if (!h)
		return 1;
	h->key = fragment_key_of(&r->p);
	h->ifindex = r->ctx->ingress_ifindex;
	h->size = size;
	if (bpf_xdp_load_bytes(r->ctx, 0, h->frame, size)) {
		bpf_ringbuf_discard(h, 0);
		return 1;
	}
	bpf_ringbuf_submit(h, 0);
	return 0;
}

/* The errors that IPVS forwards; other types are the director's own. */
static __always_inline int is_icmp_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH ||
	       type == ICMP_TIME_EXCEEDED;
}

/*
 * Fill p with the tuple of the flow that the ICMP error at p->l4 quotes. The
 * quoted packet went from the VIP to the client, so its tuple is the flow's
 * reversed; only eight bytes behind its IP header are sure to be there.
 */
static __always_inline int parse_quoted(struct xdp_md *ctx, void *data, void *end, struct packet *p)
{
	struct icmp *icmp = data + p->l4;
	struct iphdr *ip = (void *)(icmp + 1);
	__u32 header;
	__be16 *ports;

	if (p->length < p->l4 - p->ip + sizeof(*icmp) || (void *)(icmp + 1) > end)
		return PASS(VERDICT_MALFORMED);
	if (!is_icmp_error(icmp->type))
		return PASS(VERDICT_OTHER_PROTOCOL);
	if ((void *)(ip + 1) > end)
		return PASS(VERDICT_ICMP_NO_FLOW);
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || ip->saddr != p->destination ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		return PASS(VERDICT_ICMP_NO_FLOW);
	if (p->length < p->l4 - p->ip + sizeof(*icmp) + header + 8)
		return PASS(VERDICT_ICMP_NO_FLOW);
	ports = (void *)ip + header;
	if ((void *)ports + 8 > end)
		return PASS(VERDICT_ICMP_NO_FLOW);
	p->protocol = ip->protocol;
	p->source = ip->daddr;
	p->destination_port = ports[0];
	p->source_port = ports[1];
	return CONTINUE;
}

#define QUOTE_MOST 548 /* 576 - IP header - ICMP header, as icmp_send has it */
#define ICMP_HEADERS 28

/* The IP header of an answer to the packet that it quotes. */
static __always_inline void fill_ip(struct iphdr *reply, const struct iphdr *quoted, __u32 size,
				    __be32 from)
{
	__u32 sum = 0;
	__u16 *word = (__u16 *)reply;

	reply->version = 4;
	reply->ihl = 5;
	reply->tos = (quoted->tos & 0x1e) | 0xc0; /* icmp_send: internet control */
	reply->tot_len = bpf_htons(size + ICMP_HEADERS);
	reply->id = (__u16)bpf_get_prandom_u32();
	reply->frag_off = 0;
	reply->ttl = 64;
	reply->protocol = IPPROTO_ICMP;
	reply->check = 0;
	reply->saddr = from ?: quoted->daddr;
	reply->daddr = quoted->saddr;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	reply->check = fold_sum(sum);
}

/* Turn the frame into the answer. Its own function: it is verified once. */
__attribute__((noinline)) int answer(struct xdp_md *ctx, struct answer *a)
{
	void *data, *end;
	struct iphdr *reply;
	struct icmp *icmp;
	__u32 size, ip, frame;
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
	if (ip > 22)
		return DROP(VERDICT_NO_REAL);
	reply = data + ip;
	if ((void *)reply + ICMP_HEADERS + sizeof(*reply) > end)
		return DROP(VERDICT_NO_REAL);
	icmp = (void *)(reply + 1);
	fill_ip(reply, (void *)(icmp + 1), size, a->from);
	icmp->type = ICMP_UNREACHABLE;
	icmp->code = ICMP_PORT;
	icmp->mtu = 0;
	if (a->verdict == VERDICT_ANSWERED_TTL) {
		icmp->type = ICMP_TIME_EXCEEDED;
		icmp->code = 0;
	} else if (a->verdict == VERDICT_ANSWERED_TOO_BIG) {
		icmp->code = ICMP_FRAG_NEEDED;
		icmp->mtu = bpf_htons(a->mtu);
	}
	icmp->checksum = 0;
	icmp->unused = 0;
	/* The checksum last: its helper calls end what is known of the frame. */
	sum = fold_sum(frame_sum(ctx, ip + sizeof(*reply), size + sizeof(*icmp), QUOTE_MOST + sizeof(*icmp), 0));
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	icmp = data + ip + sizeof(*reply);
	if ((void *)(icmp + 1) > end)
		return DROP(VERDICT_NO_REAL);
	icmp->checksum = sum;
	return OUTCOME(a->verdict, XDP_TX);
}
