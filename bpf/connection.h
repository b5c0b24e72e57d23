/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a connection: looked up (ip_vs_conn_in_get), opened
 * (ip_vs_schedule), continued, scheduled anew, ended. And the ICMP errors that
 * belong to one (ip_vs_in_icmp).
 */
#pragma once

#include "admit.h"
#include "filter.h"
#include "flow.h"
#include "family.h"
#include "listen.h"
#include "moved.h"
#include "record.h"
#include "run.h"
#include "select.h"
#include "template.h"

static __always_inline struct service *get_service(const struct settings *s, __u32 index)
{
	__u32 at = (s->half & 1) * SERVICES + (index & (SERVICES - 1));

	return bpf_map_lookup_elem(&services, &at);
}

/* The service of a real if it is persistent, else 0. */
static __always_inline struct service *get_persistent(struct run *r, struct real *real)
{
	struct service *svc = get_service(r->s, real->service);

	if (!svc || !(svc->flags & SERVICE_PERSISTENT) || svc->cookie != real->cookie)
		return 0;
	return svc;
}

/* The real that persistence, or else the scheduler, gives the client (ip_vs_sched_persist). */
static __always_inline __u32 choose_real(struct run *r, struct service *svc, __u32 index)
{
	struct template_request rq = {};
	struct real *real;
	__u32 slot;

	if (!(svc->flags & SERVICE_PERSISTENT))
		return pick_real(svc, index, &r->p);
	rq.key = template_key(r->p.source, svc);
	rq.ticks = svc->persist_ticks;
	rq.action = TEMPLATE_REARM;
	if (template_use(&rq) == 0)
		return template_real(rq.value);
	record(STEP_NO_TEMPLATE, 0);
	if (old_template_sets && ask_left_template(r->s, &rq) && template_use(&rq) == 0)
		return template_real(rq.value);
	slot = pick_real(svc, index, &r->p);
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !svc->ring_size)
		return slot; /* clients do not stay with a sorry server */
	rq.value = template_value(slot, real->generation, 0);
	rq.action = TEMPLATE_CREATE;
	if (template_use(&rq) == 0)
		return template_real(rq.value);
	return slot;
}

/*
 * A connection of a persistent client was established, or proven: the client's
 * template gets that rank (TEMPLATE_ASSURED, with PROVEN or without).
 */
static __always_inline void raise_template(struct run *r, struct real *real, __u64 value, __u64 rank)
{
	struct service *svc = get_persistent(r, real);
	struct template_request rq = {
		.value = template_value(value_real(value), value_generation(value), rank),
		.action = TEMPLATE_RAISE,
	};

	if (!svc || real->flags & REAL_SORRY)
		return;
	rq.key = template_key(r->p.source, svc);
	rq.ticks = svc->persist_ticks;
	if (template_use(&rq) == 0 || !keeps_clients(r->s, real))
		return;
	/* It had lost its place to a flood, or never got one. */
	rq.action = TEMPLATE_CREATE;
	template_use(&rq);
}

/* Whether a packet without a flow opens one (tcp_conn_schedule). */
static __always_inline int can_open(const struct settings *s, const struct packet *p)
{
	if (p->protocol != IPPROTO_TCP)
		return 1;
	if (p->tcp_flags & TCP_RST)
		return 0;
	return p->tcp_flags & TCP_SYN || s->flags & SETTING_SLOPPY_TCP;
}

static __always_inline int answer_unreachable(struct run *r)
{
	return answer_with(r, VERDICT_ANSWERED_UNREACHABLE);
}

/* No real can be used: a client of a service that will have one is to ask again. */
static __always_inline int end_without_choice(struct run *r, const struct service *svc)
{
	return svc->flags & SERVICE_AWAITED ? DROP(VERDICT_NO_REAL) : answer_unreachable(r);
}

/* The number of the service that listens on the packet's port. */
static __always_inline __u32 find_listener(const struct run *r)
{
	struct listener_request rq = {
		.half = r->s->half,
		.vip = r->flow.key >> 48,
		.port = r->p.destination_port,
		.ranges = r->vip->ranges,
	};
	__u32 found = find_service_at_once(rq.half, port_word(rq.vip, rq.port));

	if (found != NO_SERVICE)
		return found;
	if (r->p.protocol == IPPROTO_TCP) {
		rq.range_count = r->vip->tcp_ranges;
	} else {
		rq.ranges += r->vip->tcp_ranges;
		rq.range_count = r->vip->udp_ranges;
	}
	return find_service(&rq);
}

static __always_inline int is_first(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_SYN;
}

/* A packet that does not go on with a connection for sure: its source is looked at. */
static __always_inline int may_begin(__u8 protocol, __u8 tcp_flags)
{
	return protocol != IPPROTO_TCP || tcp_flags & TCP_SYN;
}

/* What choose_by_row has to know of a packet. */
enum row_question {
	ROW_ASKED_BY_TCP = 1,
	ROW_ASKED_BY_SYN = 2,
	ROW_RESETS = 4, /* connections of removed reals (expire_nodest_conn) */
};

/* What it says of a packet that it has no real for. */
enum row_end {
	ROW_ENDS_UNKNOWN = 1,
	ROW_ENDS_AWAY,
	ROW_ENDS_GONE,
};

static __always_inline __u32 ask_row(const struct run *r)
{
	return (r->p.protocol == IPPROTO_TCP ? ROW_ASKED_BY_TCP : 0) | (is_first(&r->p) ? ROW_ASKED_BY_SYN : 0) |
	       (r->s->flags & SETTING_EXPIRE_NODEST ? ROW_RESETS : 0);
}

/*
 * No flow, and the service is stateless: the real that has the row now gets
 * what begins a connection, the one that had it last all else. A slot, or enum
 * row_end << 32. A global function: it is verified once.
 */
__attribute__((noinline)) __u64 choose_by_row(struct service *svc, __u32 value, __u32 question)
{
	__u64 row = find_row(svc, value), now = row_real(row);
	__u32 settled = row_settled(row), flags = 0;
	struct real *real;

	if (!svc)
		return NO_SLOT;
	record(STEP_ROW, row);
	if (now == ROW_NONE) {
		record(STEP_SORRY, svc->sorry);
		now = svc->sorry;
	}
	if (question & ROW_ASKED_BY_SYN)
		return now;
	real = bpf_map_lookup_elem(&reals, &settled);
	if (real && real_generation(real) == row_generation(row))
		flags = real->flags;
	barrier_var(flags);
	if (flags & REAL_THERE)
		return flags & REAL_SILENT && !(question & ROW_ASKED_BY_TCP) ? now : settled;
	if (!(question & ROW_ASKED_BY_TCP) || (settled == ROW_NONE && row_real(row) != ROW_NONE))
		return now;
	if (settled == ROW_NONE)
		return (__u64)ROW_ENDS_UNKNOWN << 32;
	if (!(question & ROW_RESETS) || flags & REAL_UNCHECKED)
		return (__u64)ROW_ENDS_AWAY << 32;
	return (__u64)ROW_ENDS_GONE << 32;
}

/* The outcome; each a constant, or Linux 6.1 takes it for SEND. */
static __always_inline int end_by_row(__u32 end)
{
	if (end == ROW_ENDS_UNKNOWN)
		return PASS(VERDICT_NO_FLOW);
	barrier();
	if (end == ROW_ENDS_AWAY)
		return DROP(VERDICT_REAL_AWAY);
	barrier();
	return PASS(VERDICT_REAL_GONE);
}

/*
 * The packet of a stateless service whose row is settled goes to the row's real,
 * whatever flows there are. CONTINUE if the row is not settled, or there are none.
 */
static __always_inline int send_by_row(struct run *r)
{
	__u32 index = find_listener(r), slot;
	struct service *svc;
	struct real *real;
	__u64 row;

	if (index == NO_SERVICE)
		return CONTINUE;
	svc = get_service(r->s, index);
	if (!svc || !svc->rows)
		return CONTINUE;
	row = find_row(svc, hash_input(svc, &r->p));
	if (row_state(row) != ROW_SETTLED)
		return CONTINUE;
	slot = row_real(row);
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !(real->flags & REAL_THERE))
		return CONTINUE;
	record(STEP_SERVICE, index & (SERVICES - 1));
	if (svc->flags & SERVICE_FILTERED && is_denied(r->p.source, svc->cookie, r->s->flags))
		return DROP(VERDICT_DENIED);
	if (may_begin(r->p.protocol, r->p.tcp_flags) && is_own_address(r->p.source))
		return PASS(VERDICT_MARTIAN);
	record(STEP_ROW, row);
	r->connections = is_first(&r->p);
	return send_to(r, real, slot, VERDICT_FORWARDED);
}

/* No flow: find the service, choose a real, remember it, send. */
static __always_inline int open_connection(struct run *r)
{
	__u32 index = find_listener(r), slot, state = STATE_UDP;
	struct service *svc;
	struct real *real;

	if (index == NO_SERVICE)
		return PASS(VERDICT_NO_LISTENER);
	svc = get_service(r->s, index);
	if (!svc)
		return PASS(VERDICT_NO_LISTENER);
	record(STEP_SERVICE, index & (SERVICES - 1));
	if (svc->flags & SERVICE_FILTERED && is_denied(r->p.source, svc->cookie, r->s->flags))
		return DROP(VERDICT_DENIED);
	if (!svc->rows && r->p.protocol == IPPROTO_TCP && !is_first(&r->p) && may_be_told())
		return DROP(VERDICT_MOVED);
	if (!svc->rows && !can_open(r->s, &r->p)) {
		record(STEP_OPENS_NOTHING, r->p.tcp_flags);
		return PASS(VERDICT_NO_FLOW);
	}
	if (is_own_address(r->p.source))
		return PASS(VERDICT_MARTIAN);
	if (svc->rows) {
		__u64 chosen = choose_by_row(svc, hash_input(svc, &r->p), ask_row(r));

		if (chosen >> 32)
			return end_by_row(chosen >> 32);
		slot = chosen;
	} else {
		slot = choose_real(r, svc, index & (SERVICES - 1));
	}
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !(real->flags & REAL_THERE))
		return end_without_choice(r, svc);
	r->connections = !svc->rows || is_first(&r->p);
	if (svc->flags & SERVICE_ONE_PACKET && r->p.protocol == IPPROTO_UDP)
		return send_to(r, real, slot, VERDICT_FORWARDED);
	if (r->p.protocol == IPPROTO_TCP)
		state = next_state(STATE_EMPTY, r->p.tcp_flags);
	r->flow.value = flow_value(r->p.destination_port, slot, real->generation, state);
	if (flow_insert(&r->flow, r->first, r->second))
		return DROP(VERDICT_TABLE_BUSY);
	if (value_real(r->flow.value) != slot) {
		slot = value_real(r->flow.value);
		real = bpf_map_lookup_elem(&reals, &slot);
		if (!real)
			return answer_unreachable(r);
	}
	if (state == STATE_ESTABLISHED)
		raise_template(r, real, r->flow.value, TEMPLATE_ASSURED);
	return send_to(r, real, slot, VERDICT_FORWARDED);
}

/* Whether a TCP packet of a live flow is the start of another connection (is_new_conn_expected). */
static __always_inline int is_new_conn_expected(struct run *r, struct real *real, __u64 value)
{
	return r->p.tcp_flags & TCP_SYN && is_closed(value_two_way_state(value)) && !get_persistent(r, real);
}

/* The flow's real is out only until it has been checked. */
static __always_inline int is_unchecked(const struct real *real, __u64 value)
{
	return !(real->flags & REAL_THERE) && real->flags & REAL_UNCHECKED &&
	       real_generation(real) == value_generation(value);
}

/*
 * The flow's real was removed (expire_nodest_conn), or has not been checked
 * yet: then the client is to retry, not to be reset. CONTINUE if the packet
 * opens another flow.
 */
static __always_inline int end_without_real(struct run *r, struct real *real, __u64 *place,
					    __u64 value)
{
	if (r->p.protocol == IPPROTO_TCP && !(r->s->flags & SETTING_EXPIRE_NODEST) &&
	    !is_new_conn_expected(r, real, value))
		return DROP(VERDICT_REAL_AWAY);
	if (r->p.protocol == IPPROTO_TCP && !(r->p.tcp_flags & TCP_SYN) && is_unchecked(real, value))
		return DROP(VERDICT_REAL_AWAY);
	flow_end(place, value);
	if (r->p.protocol != IPPROTO_TCP || r->p.tcp_flags & TCP_SYN ||
	    r->s->flags & SETTING_SLOPPY_TCP) {
		record(STEP_REAL_REMOVED, value);
		return CONTINUE;
	}
	return PASS(VERDICT_REAL_GONE);
}

/* Whether a packet must be scheduled anew although its flow is alive and its real is there. */
static __always_inline int must_reschedule(struct run *r, struct real *real, __u64 value)
{
	if (r->p.protocol != IPPROTO_TCP)
		return real->flags & REAL_SILENT;
	if (!(r->p.tcp_flags & TCP_SYN))
		return 0;
	return is_new_conn_expected(r, real, value) ||
	       (r->s->flags & SETTING_EXPIRE_NODEST && !(real->flags & REAL_USABLE));
}

/* The state of a TCP connection behind a packet of its client. */
static __always_inline __u32 state_behind(const struct run *r, const struct real *real, __u64 value)
{
	if (real_method(real) == FORWARD_NAT)
		return next_two_way_state(value_two_way_state(value), r->p.tcp_flags, 0);
	return next_state(value_state(value), r->p.tcp_flags);
}

/* A flow was found: CONTINUE if it has ended and the packet opens another. */
static __always_inline int continue_connection(struct run *r, __u64 *place, __u64 value)
{
	__u32 slot = value_real(value), state = STATE_UDP;
	struct real *real = bpf_map_lookup_elem(&reals, &slot);
	__u64 rank = TEMPLATE_RANK;

	record(STEP_FLOW, value);
	if (!real)
		return CONTINUE;
	if (real->flags & REAL_FILTERED && is_denied(r->p.source, real->cookie, r->s->flags))
		return DROP(VERDICT_DENIED);
	if (!(real->flags & REAL_THERE) || real_generation(real) != value_generation(value))
		return end_without_real(r, real, place, value);
	if (must_reschedule(r, real, value)) {
		record(STEP_RESCHEDULED, value);
		flow_end(place, value);
		return CONTINUE;
	}
	if (r->p.protocol == IPPROTO_TCP)
		state = state_behind(r, real, value);
	r->flow.value = value;
	if (state == STATE_UDP && real_method(real) == FORWARD_NAT && !(value & PROVEN))
		store_16(place, clock_now(r->s)); /* a reply proves it */
	else if (STORES)
		flow_touch(&r->flow, r->first, r->second, place, state);
	/* One call: what is inlined twice is verified twice for each place of a flow. */
	if (value_state(value) != STATE_ESTABLISHED)
		rank = TEMPLATE_ASSURED;
	if (state == STATE_ESTABLISHED && (rank == TEMPLATE_ASSURED || !(value & PROVEN)))
		raise_template(r, real, value, rank);
	return send_to(r, real, slot, VERDICT_FORWARDED);
}

/* The sets of the packet's flow, once for all that follows. 0 if the table has none. */
static __always_inline int find_sets(struct run *r)
{
	r->first = first_flow_set(r->flow.hash);
	r->second = second_flow_set(r->flow.hash);
	return r->first && r->second;
}

/* The packet's flow, live or not; its place in *place. */
static __always_inline __u64 look_up_flow(struct run *r, __u64 **place)
{
	__u32 at = 0;
	__u64 value;

	value = set_find_in_both(r->first, r->second, r->flow.key, flow_match(r->p.destination_port),
				 &at);
	if (value)
		*place = place_at(r->first, r->second, at);
	return value;
}

static __always_inline __u16 number_of_vip(const struct run *r)
{
	return r->p.protocol == IPPROTO_TCP ? r->vip->tcp : r->vip->udp;
}

/* TCP and UDP. */
static __always_inline int balance_packet(struct run *r)
{
	__u16 number = number_of_vip(r);
	__u32 ended = NO_SLOT;
	__u64 *place = 0;
	__u64 value, now;
	int outcome;

	outcome = parse_ports(r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return PASS(outcome);
	if (!number)
		return PASS(VERDICT_NO_LISTENER);
	identify_flow(r, number);
	if (r->vip->flags & VIP_STATELESS) {
		outcome = send_by_row(r);
		if (outcome != CONTINUE)
			return outcome;
	}
	if (!find_sets(r))
		return DROP(VERDICT_TABLE_BUSY);
	value = look_up_flow(r, &place);
	if (!value && old_flow_sets)
		value = find_left_flow(r, &place);
	now = clock_now(r->s); /* behind the look: see flow_age */
	if (!value)
		record(STEP_NO_FLOW, 0);
	else if (flow_is_expired(r->s, value, now))
		record(STEP_FLOW_EXPIRED, value);
	if (value && place && !flow_is_expired(r->s, value, now)) {
		outcome = continue_connection(r, place, value);
		if (outcome != CONTINUE)
			return outcome;
		/*
		 * It still counts while the scheduler chooses: the kernel
		 * leaves its end to a timer (ip_vs_conn_expire_now).
		 */
		ended = value_real(value);
		load_add(ended, STATE_CLOSE, 1);
	}
	if (!value && flows_are_unread && may_be_left(&r->p))
		return DROP(VERDICT_MOVED);
	outcome = open_connection(r);
	if (ended != NO_SLOT)
		load_add(ended, STATE_CLOSE, -1);
	return outcome;
}

/*
 * The real of a flow that is not here: of another director's, which reckons the
 * ring as this one does. No flow is made. 0 where only the flow knows.
 */
static __always_inline struct real *find_hashed_real(struct run *r, __u32 *slot)
{
	struct service *svc;
	struct real *real;
	__u32 index;

	index = find_listener(r);
	if (index == NO_SERVICE)
		return 0;
	svc = get_service(r->s, index);
	if (!svc || !(svc->ring_size | svc->rows) || svc->flags & SERVICE_PERSISTENT)
		return 0;
	if (r->p.protocol == IPPROTO_TCP && !(r->s->flags & SETTING_SLOPPY_TCP) && !svc->rows)
		return 0;
	if (svc->scheduler == SCHED_RR || svc->scheduler >= SCHED_LC)
		return 0;
	if (svc->flags & SERVICE_FILTERED && is_denied(r->p.source, svc->cookie, r->s->flags))
		return 0;
	record(STEP_SERVICE, index & (SERVICES - 1));
	*slot = svc->rows ? row_owner(find_row(svc, hash_input(svc, &r->p))) :
			    pick_by_walk(svc, hash_input(svc, &r->p));
	real = bpf_map_lookup_elem(&reals, slot);
	return real && real->flags & REAL_THERE ? real : 0;
}

/* An ICMP error: to the real of the flow that it quotes, or its path-MTU discovery goes blind. */
static __always_inline int forward_icmp_error(struct run *r)
{
	__u64 value, *left = 0;
	struct real *real;
	__u16 number;
	__u32 slot;
	int outcome;

	if (is_own_address(r->p.source))
		return PASS(VERDICT_MARTIAN);
	outcome = parse_quoted(r->ctx, r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return outcome;
	number = number_of_vip(r);
	if ((r->p.protocol != IPPROTO_TCP && r->p.protocol != IPPROTO_UDP) || !number)
		return PASS(VERDICT_ICMP_NO_FLOW);
	identify_flow(r, number);
	value = peek_flow(r->flow.key, r->flow.hash, r->p.destination_port);
	if (!value && old_flow_sets)
		value = find_left_flow(r, &left);
	if (!value || flow_is_expired(r->s, value, clock_now(r->s))) {
		real = find_hashed_real(r, &slot);
		if (!real)
			return PASS(VERDICT_ICMP_NO_FLOW);
		return send_to(r, real, slot, VERDICT_ICMP_FORWARDED);
	}
	record(STEP_QUOTED, value);
	slot = value_real(value);
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !(real->flags & REAL_THERE) || real_generation(real) != value_generation(value))
		return PASS(VERDICT_ICMP_NO_FLOW);
	return send_to(r, real, slot, VERDICT_ICMP_FORWARDED);
}
