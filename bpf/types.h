/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shapes that the packet path shares with user space. bpf2go turns them
 * into Go types; bpftool prints them by these names.
 */
#pragma once

#include <linux/types.h>

/* How much there is of everything that has a fixed size. */
enum table_size {
	VIP_LINES = 16384, /* per half: 16,384 VIPs at half load */
	PORT_LINES = 65536, /* per half: 262,144 ports at half load */
	RANGES = 65536, /* per half */
	SERVICES = 16384, /* per half */
	RING_LINES = 262144, /* of a map that nobody has sized */
	MOST_RING_LINES = 4194304, /* of the largest: 16,383 mh services */
	RING_LINE_SLOTS = 16, /* in a line of a ring */
	ROW_LINE_ROWS = 8, /* in a line of a stateless service's rows */
	ROW_NONE = 0xfffff, /* in a row: no real */
	REALS = 131072,
	LEASES = 1024, /* VRRP instances that a host may have, and one for what it owns at all times */
	LOCKS = 4096,
	PIECE_LINES = 504, /* cache lines in a piece of a large flow table: 32 KiB with what the kernel adds */
	INTERFACES = 64,
	COUNTED_VERDICTS = 64, /* at least VERDICTS, and of whole lines */
	PEERS = 8, /* fellow directors that an interface can know */
	OWN_ADDRESSES = 16, /* of the host that an interface can know */
	VIP_NUMBERS = 32768, /* of both families: keys that differ in bit 63 are one to the short way */
	PROBES = 4, /* lines of vips or ports that a search may touch */
	WAYS = 4, /* places of a set of flows or templates */
	NEWS_LINE_SETS = 64, /* sets that a line of news tells of */
	SHARES = 8, /* in which the connections of a real are counted; and reals whose shares are together */
	TURN_SERVICES = 16, /* that a CPU remembers its turns of */
	FLOW_READS = 168, /* sets that one run of read_flows takes, of IPv6 half as many */
	FLOW_CHANGES = 64, /* that one run of change_flows takes */
	ABSORPTIONS = 64, /* entries that one run of absorb takes: a lock is held for one at a time */
	REPLY_LINES = 32768, /* per half: 65,536 ports of real servers at half load */
	REPLY_WAYS = 4, /* in a line of replies */
	ROUTES = 8, /* on the way back to clients that the packet path knows itself */
	MOST_AHEAD = 256, /* ticks by which a flow may have been seen behind a look at the clock: a pass over millions takes a while */
	FRAGMENT_SECONDS = 30, /* that a fragment's note is good for: net.ipv4.ipfrag_time */
	VLANS = 4096,
	WAYS_OUT = 1024, /* interfaces of the host that replies may leave by, where there are VLANs */
};

/* How a frame leaves, in one word: the index of an interface, and the tag behind it. */
enum way_part {
	WAY_DEVICE = 0xfffff, /* the interface, below its VLANs */
	WAY_VLAN_SHIFT = 20, /* from there on the VLAN; 0: the tags stay as they are, */
	UNTAGGED = 0xfff, /* there is none, */
	VLAN_MOST = 0xfff,
	TWO_TAGS = 0xfff, /* in interface.vlans: frames with two tags, and so every frame */
};

/* One address, IPv4 as ::ffff:a.b.c.d: 16 bytes from the start. */
struct address {
	__be32 word[4];
};

/*
 * What became of a packet. Every packet ends in exactly one of these; the
 * list is the list of reasons that a user can be shown, each comment the
 * sentence that the user reads.
 */
enum verdict {
	VERDICT_NOT_OUR_MAC, /* passed: the frame is for another host, or of a VLAN that is not served */
	VERDICT_NOT_IPV4, /* passed: neither IPv4 nor, where it is served, IPv6 */
	VERDICT_NOT_OURS, /* passed: the destination is no VIP of a service */
	VERDICT_MALFORMED, /* passed: headers are cut short or contradict each other */
	VERDICT_STANDBY, /* passed: another director owns the VIP now */
	VERDICT_NO_LISTENER, /* passed: a VIP, but no service on this port */
	VERDICT_OTHER_PROTOCOL, /* passed: a VIP, but not TCP, UDP or an ICMP error */
	VERDICT_NO_FLOW, /* passed: not a SYN and no connection is known; the kernel answers with a reset */
	VERDICT_FORWARDED, /* sent to a real server on the same interface */
	VERDICT_REDIRECTED, /* sent to a real server on another interface */
	VERDICT_LOCAL, /* passed: this host is the real or the sorry server */
	VERDICT_FROM_PEER, /* passed: another director has chosen this host as the real server */
	VERDICT_REAL_GONE, /* passed: the connection's real server was removed; the kernel answers with a reset */
	VERDICT_REAL_AWAY, /* dropped: the connection's real server was removed and expire_nodest_conn is off, or it has not been checked yet */
	VERDICT_DENIED, /* dropped: a deny or allow list */
	VERDICT_NO_REAL, /* dropped: no real server is usable yet, or none is and no answer could be built */
	VERDICT_LEASE_OVER, /* dropped: the daemon that owns the VIP has stopped renewing its lease */
	VERDICT_TABLE_BUSY, /* dropped: no place in the flow table could be claimed */
	VERDICT_ICMP_FORWARDED, /* an ICMP error sent to the real server of the connection it quotes */
	VERDICT_ICMP_NO_FLOW, /* passed: an ICMP error that quotes no connection of ours */
	VERDICT_FRAGMENT_HELD, /* held by the daemon until the datagram's first fragment is there */
	VERDICT_FRAGMENT_LOST, /* dropped: the first fragment was not sent on, or is not there and the daemon cannot hold more */
	VERDICT_ANSWERED_UNREACHABLE, /* answered with ICMP port unreachable: no usable real server */
	VERDICT_ANSWERED_TTL, /* answered with ICMP time exceeded: TTL 1 */
	VERDICT_ANSWERED_TOO_BIG, /* answered with ICMP fragmentation needed: the way out has a smaller MTU */
	VERDICT_ANSWER_LIMITED, /* dropped: an ICMP answer was due, but the rate limit was reached */
	VERDICT_TTL_SILENT, /* dropped: TTL 1 on an ICMP error or a later fragment, which must not be answered */
	VERDICT_ARP_SILENCED, /* dropped: ARP for a VIP that another director owns, or whose lease is over */
	VERDICT_TOO_BIG, /* dropped: larger than the way out's MTU and allowed to be fragmented, which XDP cannot */
	VERDICT_MARTIAN, /* passed: the source is an address of this host or of no host; the kernel drops it */
	VERDICT_MOVED, /* dropped: the connection may be on its way here, to a new table or from another director, and its next packet finds it */
	VERDICT_NO_HEADROOM, /* dropped: the interface has left no room in front of the frame for the header of a tunnel */
	VERDICT_REPLIED, /* sent to the client: a reply of a real server by NAT, which comes from the VIP now */
	VERDICT_ICMP_REPLIED, /* an ICMP error about what the client had sent to a real server by NAT, sent to the client */
	VERDICT_REPLY_HANDED_ON, /* a reply by NAT that the daemon sends, since the MAC of the way to the client has to be asked for */
	VERDICT_NO_WAY_BACK, /* dropped: a reply by NAT, and no way to the client is known (a route, net.ipv4.ip_forward, a MAC) */
	VERDICTS
};

/*
 * What a flow's nibble says, and what its timeout is found by: the kernel's
 * one-way TCP states (ip_vs_proto_tcp.c, tcp_states, "INPUT ONLY"), UDP, and
 * two of our own. Flows that were seen again after they were established are
 * proven: their codes are 8 more. Where proven means nothing, 8 more is free
 * for states that only a connection seen both ways has. Code 8 has no meaning.
 */
enum flow_state {
	STATE_EMPTY,
	STATE_SYN_RECV,
	STATE_ESTABLISHED,
	STATE_FIN_WAIT,
	STATE_TIME_WAIT,
	STATE_CLOSE,
	STATE_UDP,
	STATE_BUSY, /* claimed: key and value are being written */
	STATE_SYN_SENT = 9, /* seen both ways */
	STATE_PROVEN_ESTABLISHED = 10,
	STATE_PROVEN_FIN_WAIT = 11,
	STATE_CLOSE_WAIT = 12, /* seen both ways */
	STATE_LAST_ACK = 13, /* seen both ways */
	STATE_PROVEN_UDP = 14,
	STATE_SYN_ACK = 15, /* seen both ways */
	STATES
};

/* Why a live flow gave its place away. */
enum eviction {
	EVICTED_EXPIRED, /* nothing was lost */
	EVICTED_HALF_OPEN, /* SYN_RECV, CLOSE, TIME_WAIT, a single UDP packet */
	EVICTED_UNPROVEN, /* ESTABLISHED, but never seen after its ACK */
	EVICTED_ESTABLISHED, /* every way of both sets was proven: the oldest went */
	EVICTED_TEMPLATE, /* an unassured persistence template */
	EVICTED_ASSURED, /* a template that saw an established connection */
	EVICTIONS
};

/* Who a flow is, together with flow_value.port. Network byte order. */
struct flow_key {
	__be32 client;
	__be16 client_port;
	__u16 vip; /* the VIP's number for this protocol */
};

/* What a flow is, in one word that is changed by compare-and-swap. */
struct flow_value {
	__u64 seen : 16; /* tick of the last packet; a plain 2-byte store */
	__u64 port : 16; /* the VIP's port, network byte order */
	__u64 real : 20; /* index into reals */
	__u64 generation : 4; /* reals[real].generation when it was chosen */
	__u64 nonce : 4; /* changes whenever the place changes hands */
	__u64 state : 4; /* enum flow_state */
};

/* A set of the flow table: one cache line, four flows. */
struct flow_set {
	struct flow_key key[WAYS];
	struct flow_value value[WAYS];
};

/* Who a persistence template is for. */
struct template_key {
	__be32 client; /* masked */
	__u32 service;
};

struct template_value {
	__u64 expires : 24; /* tick */
	__u64 real : 20;
	__u64 generation : 4;
	__u64 assured : 1; /* one of its connections was established */
	__u64 renewed : 1; /* outlived its timeout with a live connection: 60 s from now on */
	__u64 spare : 6;
	__u64 nonce : 4; /* from here on as in struct flow_value */
	__u64 state : 3; /* STATE_EMPTY, STATE_BUSY, or anything else: live */
	__u64 proven : 1; /* one of its connections was seen again after it was established */
};

struct template_set {
	struct template_key key[WAYS];
	struct template_value value[WAYS];
};

/*
 * A VIP. Two in a cache line; a line is full when its second place is taken,
 * then the search goes on in the next one.
 */
struct vip {
	struct address addr;
	__u16 tcp; /* number of the VIP for TCP flows, below VIP_NUMBERS; 0 = serves no TCP */
	__u16 udp; /* the same for UDP */
	__u16 flags; /* enum vip_flag */
	__u16 lease; /* index into leases, with VIP_LEASED */
	__u32 ranges; /* where its port ranges start: TCP's, then UDP's */
	__u16 tcp_ranges; /* how many */
	__u16 udp_ranges;
};

struct vip_line {
	struct vip way[2];
};

enum vip_flag {
	VIP_STANDBY = 1, /* another director owns it */
	VIP_LEASED = 2, /* served only while its lease lives */
	VIP_PEERS = 4, /* this host is a real behind it: mind peer directors */
	VIP_STATELESS = 8, /* a service of it is stateless */
};

/* One exact port of a VIP. */
struct port {
	__u16 vip; /* number of the VIP for the protocol, 0 = free place */
	__be16 port;
	__u32 service;
};

struct port_line {
	struct port way[8];
};

/* A range of ports, host byte order; ranges of a VIP are disjoint, sorted. */
struct range {
	__u16 first;
	__u16 last;
	__u32 service;
};

/*
 * Where a real server's replies by NAT come from, and from where they are to
 * come instead. Four in a line; several may be of one port of a real.
 */
struct reply {
	__be32 source; /* the real's address */
	__be16 port; /* its port; 0: any, which is the VIP's too */
	__u16 protocol; /* 0 = free place */
	__be32 vip;
	__be16 vip_port; /* 0 as port is */
	__u16 number; /* of the VIP for the protocol */
};

struct reply_line {
	struct reply way[REPLY_WAYS];
};

enum route_kind {
	ROUTE_END, /* none follows: the kernel is asked */
	ROUTE_ASK, /* the kernel is asked: bpf_fib_lookup */
	ROUTE_GATEWAY, /* by the router that has this MAC */
};

/* How a frame leaves. */
struct hop {
	__u8 mac[6];
	__u8 source[6]; /* MAC of the interface that it leaves by */
	__u32 ifindex; /* with the VLAN: enum way_part */
	__u32 mtu;
	enum route_kind kind;
};

/* The way out that the kernel calls by the index of a VLAN's interface. */
struct way_out {
	__u32 way; /* enum way_part */
};

/* A part of the host's routes: how replies by NAT get to a client. */
struct route {
	__be32 network;
	__be32 mask;
	struct hop hop;
};

/* The longest prefixes first. */
struct route_list {
	struct route way[ROUTES];
};

enum scheduler {
	SCHED_RR, /* rr and wrr: the ring is walked by a counter */
	SCHED_SH,
	SCHED_DH,
	SCHED_MH,
	SCHED_LC,
	SCHED_WLC,
	SCHED_SED,
	SCHED_NQ,
	SCHED_FO, /* the heaviest that may take one */
	SCHED_OVF, /* the same, while it has no more active connections than weight */
};

enum service_flag {
	SERVICE_PORT = 1, /* sh-port, mh-port */
	SERVICE_FALLBACK = 2, /* sh-fallback, mh-fallback */
	SERVICE_PERSISTENT = 4,
	SERVICE_ONE_PACKET = 8,
	SERVICE_FILTERED = 16, /* has, or is under, deny or allow lists */
	SERVICE_LIMITED = 32, /* a real of it has an upper threshold */
	SERVICE_AWAITED = 64, /* no real of it can be used, only because one is not known yet */
};

/* An index into reals that means none. */
enum real_index {
	NO_SLOT = 0xffffffffu,
	NOTE_DROPPED = 0xfffffffeu, /* in a fragment's note: the first was dropped or answered */
};

/* Sixteen places of rings: an array of single words would cost eight bytes each. */
struct ring_line {
	__u32 real[RING_LINE_SLOTS];
};

/*
 * What a row of a stateless service says: where the packets go whose clients
 * the hash puts into it. Eight in a line of rings, in place of sixteen reals.
 */
struct row_value {
	__u64 real : 20; /* that has the row now, or ROW_NONE */
	__u64 settled : 20; /* that had it when it last was settled, or ROW_NONE */
	__u64 generation : 4; /* of the settled real */
	__u64 since : 16; /* tick: until then it was settled */
	__u64 state : 2; /* enum row_state */
	__u64 spare : 2;
};

/*
 * A settled row needs no flows. Of others every flow is stored, and the sweeper
 * counts the passes in which no flow of the row was at another real.
 */
enum row_state {
	ROW_SETTLED,
	ROW_PROVEN, /* one pass to go */
	ROW_PROVABLE, /* the flows are all stored, or at the row's real */
	ROW_CHANGED, /* there may be flows at the settled real that are not stored */
};

/* A virtual service: everything a new connection needs, in one line. */
struct service {
	__u32 ring; /* first line of its ring, or of its rows */
	__u32 ring_size; /* 0 = no usable real */
	__u32 start; /* added to the counter of rr and wrr */
	enum scheduler scheduler;
	enum service_flag flags;
	__u32 sorry; /* real to use while ring_size is 0, or NO_SLOT */
	__u32 persist_ticks; /* lifetime of a template */
	__be32 persist_mask;
	__u32 cookie; /* changes when the index changes hands: keys templates */
	__u32 ring_reals; /* different reals of the ring */
	__u32 rows; /* of a stateless service; 0: it has none */
	__u32 spare[5];
};

/* How packets get to a real. */
enum forward_method {
	FORWARD_DR,
	FORWARD_NAT,
	FORWARD_IPIP, /* either family in either */
	FORWARD_GUE,
	FORWARD_GRE,
	FORWARD_TAGGED = 8, /* with each of them: not by the short way, since a tag has to be looked after */
};

enum real_flag {
	REAL_THERE = 1, /* holds a real: flows may use it */
	REAL_USABLE = 2, /* may get new connections (weight > 0) */
	REAL_LOCAL = 4, /* this host */
	REAL_FILTERED = 8, /* its service has deny or allow lists */
	REAL_LIMITED = 16, /* has an upper threshold: its load says whether it is above */
	REAL_RESERVED = 32, /* removed, kept for its flows */
	REAL_SILENT = 64, /* there, and does not answer ARP: UDP is scheduled anew, TCP is still sent there */
	REAL_UNCHECKED = 64, /* not there, only because it has not been checked yet: its connections wait */
	REAL_SORRY = 128, /* the sorry server, and none of the reals: clients do not stay with it */
};

/*
 * A real server of one service; the first word says where to. Two in a line,
 * and the address elsewhere: thousands of them have to stay near the CPU.
 */
struct real {
	__u8 mac[6];
	__u8 generation; /* 0-15; above it, from bit 4, enum forward_method */
	__u8 flags; /* enum real_flag */
	__u8 source[6]; /* MAC of the interface it is reached by */
	__u16 mtu; /* of the way there, less what a tunnel adds */
	__u32 ifindex; /* with the VLAN: enum way_part */
	__u32 service;
	__u32 cookie; /* of the service */
	__be16 port; /* with FORWARD_NAT; 0: the VIP's */
	__u16 weight;
};

/*
 * What the outer header of a tunnel to a real has that does not change from
 * packet to packet; for reals that are not reached by direct routing alone.
 */
struct tunnel {
	struct address source;
	struct address destination;
	__u32 sum; /* of these words of an IPv4 header of IPIP, for its checksum */
	__be16 port; /* of GUE */
	__u16 is_ipv6; /* the outer header: 1 */
	__be32 spread; /* bits of the source's last word that the flow decides: 0 in source */
	__u32 spare;
};

/* What the flow decides of outer headers. */
enum outer_choice {
	SPREAD_PORTS = 0xc000, /* the first of the ports that GUE comes from: RFC 6335's dynamic ones */
};

/*
 * The position of an rr or wrr service on its ring; a line of its own. In it what
 * those of the service's reals have counted that are gone for good.
 */
struct cursor {
	__u64 picks;
	__u64 packets;
	__u64 bytes;
	__u64 connections;
	__u64 reply_packets;
	__u64 reply_bytes;
	__u64 spare[2];
};

/*
 * Turns of a service that a CPU has taken in advance, from its position (struct
 * cursor), while the CPUs keep taking that from each other.
 */
struct turns {
	__u64 next; /* the CPU's next one, */
	__u64 end; /* unless it is this: behind what the CPU has taken last */
	__u64 since; /* jiffies when it was taken */
	__u32 service;
	__u32 contests; /* in this jiffy: another CPU had taken some in between */
};

enum setting {
	SETTING_SLOPPY_TCP = 1,
	SETTING_EXPIRE_NODEST = 2, /* expire_nodest_conn = 1 */
	SETTING_EXPIRE_QUIESCENT = 4, /* expire_quiescent_template = 1 */
	SETTING_GLOBAL_FILTER = 8, /* there are deny or allow lists for all */
	SETTING_NEWS = 16, /* connection sync wants to know which sets have changed */
	SETTING_NAT = 32, /* there are reals by NAT: what is for no VIP may be a reply */
	SETTING_STATELESS = 64, /* there are stateless services */
	SETTING_WAYS = 128, /* the host has VLANs: a way back that the kernel names may be in ways */
};

/* What user space may change at any time. */
struct settings {
	__u32 half; /* 0 or 1: which half of vips, ports, ranges, services counts */
	__u32 version; /* of this layout */
	__u64 clock; /* ticks added to the clock; only tests set it */
	__u64 seed[3]; /* of the table hashes; random, made once */
	__u64 name_key[5]; /* of the names of IPv6 addresses; the same */
	__u16 timeout[STATES]; /* ticks, by enum flow_state */
	enum setting flags;
	__u32 answers; /* ICMP answers per second and CPU */
	__u64 alive; /* jiffies until which the daemon is taken to be there */
};

/* A fellow director on the segment. */
struct peer {
	__u8 mac[8]; /* the last two bytes are 0; all 0 = none */
	__be32 addr;
	__u32 spare;
};

enum attach_mode {
	MODE_NATIVE = 1,
	MODE_GENERIC = 2,
};

/* What the program of one interface needs to know of it. */
struct interface {
	__u8 mac[8]; /* its own; the last two bytes are 0 */
	__u32 ifindex;
	enum attach_mode mode; /* for the daemon's next start, too */
	__u32 mtu;
	__u32 spare;
	struct peer peer[PEERS];
	struct address own[OWN_ADDRESSES]; /* addresses of the host besides VIPs, up to the first that is 0 */
	__u64 vlans[VLANS / 64]; /* whose frames are looked at, a bit each: 0 is without a tag */
};

/* Which real the fragments of a datagram go to. */
struct fragment_key {
	__be32 source;
	__be32 destination;
	__be16 id;
	__u16 protocol;
};

struct fragment {
	__u32 real;
	__u16 generation;
	__u16 tick;
	__be32 vip; /* of a real's reply by NAT: the source of all its fragments */
	__u32 spare;
};

/*
 * A fragment that came before its first: the daemon holds it. Or, with protocol
 * 0, a reply that is as it has to leave, and that the kernel's stack sends.
 */
struct held_frame {
	struct fragment_key key;
	__u32 ifindex;
	__u32 size; /* of the frame */
	__u8 frame[2036];
};

/* The service of a filter_key that is for all services. */
enum filter_scope {
	FILTER_GLOBAL = 0xffffffffu
};

/* deny and allow lists: one trie for all services. */
struct filter_key {
	__u32 bits; /* 32 + prefix length (IPv4: + 96) */
	__u32 service; /* cookie, or FILTER_GLOBAL */
	struct address prefix;
};

enum filter_action {
	FILTER_NONE,
	FILTER_ALLOW,
	FILTER_DENY,
};

/*
 * Which sets of a table have news for peer directors: a byte each, 1 if so.
 * The packet path sets it, connection sync clears it before it reads the set.
 */
struct news_line {
	__u8 of_set[NEWS_LINE_SETS];
};

enum absorb_kind {
	ABSORB_FLOW,
	ABSORB_TEMPLATE,
	ABSORB_MOVED, /* a flow of this director's, from a table that is left behind */
};

enum absorb_outcome {
	ABSORB_BUSY, /* not done: another CPU changes the place */
	ABSORB_STORED, /* it was not known */
	ABSORB_CHANGED, /* it was known, and is now as the peer says */
	ABSORB_KEPT, /* what was known here is newer, or of another real */
	ABSORB_NO_PLACE, /* every place is worth more */
};

/* A connection or template that a peer director tells of, in local numbers. */
struct absorption {
	__u64 key;
	__u64 hash;
	__u64 value; /* without nonce; of a flow with the tick when it was seen; out: as it is in force */
	__u32 ticks; /* of a template: what it has left */
	enum absorb_kind kind;
	__u32 replaces; /* 1: if it is known with another real, the peer is right */
	enum absorb_outcome outcome;
	__u32 set; /* out, of a flow: where it is */
	__u32 way;
	struct address owner; /* of IPv6: the client, of a template the network */
};

struct absorb_batch {
	__u32 count;
	__u32 sum; /* see fetch_sets */
	struct absorption entry[ABSORPTIONS];
};

/* Token bucket of the ICMP answers, one per CPU. */
struct bucket {
	__u64 second;
	__u64 used;
};

/* What a service is called. */
struct label {
	char name[56];
	__u32 cookie;
	__u32 mark;
};
