//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Frames that XDP handed to a driver and that were not sent. The packet path has
 * counted such a frame as forwarded: only the kernel's tracepoints of XDP know
 * better. They speak of the interfaces of all network namespaces; counted are
 * those that have a key in the map.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define LOSSES 1024

/* Why a frame was not sent. */
enum loss {
	LOSS_TX, /* by the interface it came in by (XDP_TX) */
	LOSS_REDIRECT, /* by another interface (XDP_REDIRECT) */
	LOSS_ABORTED, /* the driver did not understand the verdict */
};

struct loss_key {
	__u64 netns; /* its cookie */
	__u32 ifindex; /* that the frame came in by */
	enum loss why;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LOSSES);
	__type(key, struct loss_key);
	__type(value, __u64);
} losses SEC(".maps");

/* As far as it is read of the kernel's (include/linux/netdevice.h, net/net_namespace.h). */
struct net {
	__u64 net_cookie;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct bpf_prog;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

/* Says whether frames of the interface are counted. */
static __always_inline int count(const struct net_device *dev, enum loss why, __u64 frames)
{
	struct loss_key key = {
		.netns = dev->nd_net.net->net_cookie,
		.ifindex = dev->ifindex,
		.why = why,
	};
	__u64 *lost = bpf_map_lookup_elem(&losses, &key);

	if (lost)
		__sync_fetch_and_add(lost, frames);
	return !!lost;
}

SEC("tp_btf/xdp_exception")
int BPF_PROG(count_exception, const struct net_device *dev, const struct bpf_prog *program, __u32 act)
{
	switch (act) {
	case XDP_TX:
		count(dev, LOSS_TX, 1);
		break;
	case XDP_REDIRECT:
		count(dev, LOSS_REDIRECT, 1);
		break;
	default:
		count(dev, LOSS_ABORTED, 1);
	}
	return 0;
}

/* veth sends what XDP_TX returns in batches. */
SEC("tp_btf/xdp_bulk_tx")
int BPF_PROG(count_bulk_tx, const struct net_device *dev, int sent, int drops, int err)
{
	if (drops > 0)
		count(dev, LOSS_TX, drops);
	return 0;
}

SEC("tp_btf/xdp_redirect_err")
int BPF_PROG(count_redirect_err, const struct net_device *dev)
{
	count(dev, LOSS_REDIRECT, 1);
	return 0;
}

/* A frame for a bond comes in by one of the bond's NICs, which nobody watches, and
 * leaves by the bond.
 */
SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(count_redirected, const struct net_device *from, const struct net_device *to, int sent,
	     int drops, int err)
{
	if (drops > 0 && !count(from, LOSS_REDIRECT, drops))
		count(to, LOSS_REDIRECT, drops);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
