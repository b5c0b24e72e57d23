//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Keeps packets to VIPs from the host's own stack while the program that serves
 * them is off the interface: the stack knows no such connection and would reset
 * it. Nothing is answered meanwhile, so that the clients ask again.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define IPV4_DESTINATION 16 /* from the header's begin */
#define IPV6_DESTINATION 24
#define TAG_PROTOCOL 2 /* from a tag's begin */
#define TAG_LENGTH 4

struct gate_address {
	__be32 word[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct gate_address);
	__type(value, __u8);
} gate_vips SEC(".maps");

/* Of the monotonic clock, in nanoseconds: a gate whose process was killed opens by itself. */
volatile const __u64 gate_opens;

/*
 * What follows the Ethernet header, and where. The kernel has taken the outer tag
 * out of the frame.
 */
static __always_inline __be16 find_network(struct __sk_buff *skb, __u32 *offset)
{
	__be16 protocol = skb->protocol;

	*offset = ETH_HLEN;
	if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
		return protocol;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + TAG_PROTOCOL, &protocol, sizeof(protocol)))
		return 0;
	*offset += TAG_LENGTH;
	return protocol;
}

SEC("tc")
int gate(struct __sk_buff *skb)
{
	struct gate_address to = { .word = { 0, 0, bpf_htonl(0xffff), 0 } };
	__u32 offset;
	int err;

	if (bpf_ktime_get_ns() >= gate_opens)
		return TC_ACT_UNSPEC;
	switch (find_network(skb, &offset)) {
	case bpf_htons(ETH_P_IP):
		err = bpf_skb_load_bytes(skb, offset + IPV4_DESTINATION, &to.word[3], sizeof(to.word[3]));
		break;
	case bpf_htons(ETH_P_IPV6):
		err = bpf_skb_load_bytes(skb, offset + IPV6_DESTINATION, &to, sizeof(to));
		break;
	default:
		return TC_ACT_UNSPEC;
	}
	if (err || !bpf_map_lookup_elem(&gate_vips, &to))
		return TC_ACT_UNSPEC;
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
