//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A proof that frames which XDP sends leave the host. The answer to this host's
 * first echo goes back to whoever sent it as a second echo, with the same VLAN tag: its
 * answer comes only if the driver has sent it.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#define TAG 4
#define ECHO_REPLY 0
#define ECHO 8
#define FIRST bpf_htons(1)
#define SECOND bpf_htons(2)
#define TYPE_OFFSET bpf_htons(ECHO << 8) /* what the type adds to its 16-bit word */

struct echo {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u16 id;
	__u16 sequence;
};

volatile const __u16 echo_id; /* in network byte order */
__u64 bounced;

static __always_inline void swap_addresses(struct ethhdr *eth, struct iphdr *ip)
{
	__u8 mac[ETH_ALEN];
	__be32 source = ip->saddr;

	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	ip->saddr = ip->daddr;
	ip->daddr = source;
}

/* RFC 1624, equation 3: the words that change are 0 and FIRST. */
static __always_inline __u16 second_checksum(__u16 checksum)
{
	__u32 sum = (__u16)~checksum + 0xffff + TYPE_OFFSET + (__u16)~FIRST + SECOND;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp.frags")
int bounce(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *network = eth + 1;
	struct iphdr *ip;
	struct echo *echo;

	if (network + TAG > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_8021Q))
		network += TAG;
	ip = network;
	echo = (void *)(ip + 1);
	if ((void *)(echo + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (*((__be16 *)network - 1) != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != IPPROTO_ICMP)
		return XDP_PASS;
	if (echo->type != ECHO_REPLY || echo->code || echo->id != echo_id || echo->sequence != FIRST)
		return XDP_PASS;
	swap_addresses(eth, ip);
	echo->type = ECHO;
	echo->sequence = SECOND;
	echo->checksum = second_checksum(echo->checksum);
	__sync_fetch_and_add(&bounced, 1);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
